"""Products of rows with centroids, folded or filtered while they are still in registers.

A torch product computes all scores ||c||^2 / 2 - x.c and stores them, so that something else can
read them again. Here ``MR`` centroids meet a panel of ``WIDTH`` rows in one block of vector
registers; a block is consumed before the next is computed: the smallest, second smallest and its
code go into running values (``fold_level``, residual codes), or the few scores below a row's
threshold into its list of candidates (``filter_level``, VQ codes). The block's shape follows the
processor: 12 x 2 registers where there are 32 of them (AVX-512, NEON), else 6 x 2. On an AVX-512
machine this is about twice the speed of a product by MKL on AMD, which there stops at AVX2.

Panels and centroids are float32, or, where ``HAS_PAIRS`` says that the processor multiplies them
(AVX-512 VNNI), pairs of 16-bit integers in an int32, two dimensions a step: twice as many products
an instruction, summed without rounding (``qarm.kernels.fixed_point``). Which it is follows from the
arrays' type; numba compiles each.

Numba cannot say "vector register", so the block is written as LLVM instructions (``_emit``). The
rest of this file is what numba can compile. Everything that it calls is in this file, since numba's
cache looks at the changes of one file only.
"""

from __future__ import annotations

import platform
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from qarm.kernels.threads import FINITE, kernel

MOST = float(np.finfo(np.float32).max)
"""Where a search for the smallest starts; infinity is promised away."""


def _block() -> tuple[int, int]:
    """(floats a register, centroids a block): two registers of rows and the block fit."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 16, 12
    if platform.machine().lower() in ("aarch64", "arm64"):
        return 4, 12
    return (8 if features.get("avx2") else 4), 6


LANES, MR = _block()
"""Floats a vector register; centroids a block."""
WIDTH = 2 * LANES
"""Rows of a panel."""


def _has_pairs() -> bool:
    """Whether numba may use AVX-512 VNNI; its settings can take it away."""
    set_to: Any = numba.config
    if LANES != 16 or not set_to.ENABLE_AVX:
        return False
    if set_to.CPU_NAME is None and set_to.CPU_FEATURES is None:
        return bool(llvm.get_host_cpu_features().get("avx512vnni"))
    return "+avx512vnni" in (set_to.CPU_FEATURES or "")


HAS_PAIRS = _has_pairs()
"""Whether the processor has products of pairs of 16-bit integers."""
TILE_BYTES = 1 << 17
"""Centroids of a tile: half of the smallest second-level cache in use, the rows being there too."""


def tile_of(numbers: int) -> int:
    """Centroids of a tile, a multiple of MR, if each has so many numbers of 4 bytes."""
    return max(1, TILE_BYTES // (4 * numbers * MR)) * MR


if HAS_PAIRS:
    llvm.initialize_native_asmparser()
_FAST = ("nnan", "ninf", "nsz", "contract")
_FLOAT, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_CODES = ir.VectorType(_I32, LANES)


def _emit(
    builder: Any, panel: Any, scales: Any, centroids: Any, half_norms: Any, steps: Any
) -> Any:
    """Scores of a block: MR lists of two vectors, half_norms[j] - x . centroids[j].

    Args:
        builder: numba's.
        panel: float*, (d, WIDTH), or i32*, (ceil(d / 2), WIDTH): pairs.
        scales: float*, (WIDTH,): of pairs, what their products are multiplied with.
        centroids: float*, (MR, d), or i32*, (ceil(d / 2), MR).
        half_norms: float*, (MR,).
        steps: i64, at least 1: d or ceil(d / 2).
    """
    kind = panel.type.pointee
    vector = ir.VectorType(kind, LANES)
    zero = ir.Constant(vector, [kind(0)] * LANES)
    before, loop = builder.block, builder.append_basic_block("dimension")
    after = builder.append_basic_block("scores")
    builder.branch(loop)
    builder.position_at_end(loop)
    m = builder.phi(_I64)
    m.add_incoming(ir.Constant(_I64, 0), before)
    sums = [[builder.phi(vector) for _ in range(2)] for _ in range(MR)]
    row = builder.gep(panel, [builder.mul(m, ir.Constant(_I64, WIDTH))])
    x = [_load(builder, row, half * LANES, vector) for half in range(2)]
    for j in range(MR):
        for half in range(2):
            if kind == _FLOAT:
                at = builder.add(m, builder.mul(steps, ir.Constant(_I64, j)))
                c = _splat(builder, builder.load(builder.gep(centroids, [at])), kind)
                product = builder.fmul(c, x[half], flags=_FAST)
                total = builder.fadd(sums[j][half], product, flags=_FAST)
            else:
                at = builder.gep(centroids, [builder.mul(m, ir.Constant(_I64, MR))])
                total = _add_pairs(builder, sums[j][half], at, j, x[half])
            sums[j][half].add_incoming(zero, before)
            sums[j][half].add_incoming(total, loop)
            sums[j][half] = total
    following = builder.add(m, ir.Constant(_I64, 1))
    m.add_incoming(following, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, steps), loop, after)
    builder.position_at_end(after)
    if kind != _FLOAT:
        scale = [_load(builder, scales, half * LANES, _VECTOR) for half in range(2)]
        for total in sums:
            for half in range(2):
                whole = builder.sitofp(total[half], _VECTOR)
                total[half] = builder.fmul(whole, scale[half], flags=_FAST)
    for j in range(MR):
        norm = builder.load(builder.gep(half_norms, [ir.Constant(_I64, j)]))
        norm = _splat(builder, norm, _FLOAT)
        sums[j] = [builder.fsub(norm, total, flags=_FAST) for total in sums[j]]
    return sums


def _add_pairs(builder: Any, total: Any, centroids: Any, j: int, x: Any) -> Any:
    """total + both products of number j from ``centroids`` on with the pairs x, in each lane.

    Written as assembly: given LLVM's own intrinsic, the optimiser loads all numbers of a step first
    and then lacks registers for the sums. It has a side effect for LLVM, which does not see that it
    reads memory and must not move it before what writes there.
    """
    signature = ir.FunctionType(_CODES, [_CODES, centroids.type, _CODES])
    code = f"vpdpwssd {4 * j}($2){{1to16}}, $1, $0"
    instruction = ir.InlineAsm(signature, code, "=v,v,r,0", side_effect=True)
    return builder.call(instruction, [x, centroids, total])


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    vector = ir.VectorType(kind, LANES)
    one = builder.insert_element(
        ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def _place(builder: Any, pointer: Any, offset: int, kind: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [ir.Constant(_I64, offset)]), ir.PointerType(kind))


def _load(builder: Any, pointer: Any, offset: int, kind: Any) -> Any:
    value = builder.load(_place(builder, pointer, offset, kind))
    value.align = 4
    return value


def _store(builder: Any, value: Any, pointer: Any, offset: int) -> None:
    builder.store(value, _place(builder, pointer, offset, value.type), align=4)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset])


def _operands(context: Any, builder: Any, kinds: Any, values: Any, row_at: Any) -> list[Any]:
    """What ``_emit`` takes, from the first arguments of the two functions that follow."""
    places = ((0, values[1]), (2, row_at), (3, values[4]), (5, values[6]))
    return [_pointer(context, builder, kinds[k], values[k], at) for k, at in places]


def _instructions(function: Any) -> Any:
    """``numba.extending.intrinsic``, whose own types leave out that numba passes ``typing``."""
    return intrinsic(function)


@_instructions
def _fold_block(  # type: ignore[no-untyped-def]
    typing, panels, panel_at, scales, centroids, centroid_at, half_norms, norm_at, steps, code,
    best, second, arg, row_at,
):  # fmt: skip
    """Fold a block of scores into best, second and arg of its WIDTH rows."""
    signature = types.void(
        panels, types.int64, scales, centroids, types.int64, half_norms, types.int64, types.int64,
        types.int32, best, second, arg, types.int64,
    )  # fmt: skip

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        kinds = signature.args
        at = values[12]
        panel, scales, these, norms = _operands(context, builder, kinds, values, at)
        kept = [_pointer(context, builder, kinds[k], values[k], at) for k in (9, 10, 11)]
        scores = _emit(builder, panel, scales, these, norms, values[7])
        for half in range(2):
            at = half * LANES
            a, b = (_load(builder, p, at, _VECTOR) for p in kept[:2])
            g = _load(builder, kept[2], at, _CODES)
            for j in range(MR):
                s = scores[j][half]
                number = builder.add(values[8], ir.Constant(_I32, j))
                number = _splat(builder, number, _I32)
                less = builder.fcmp_ordered("<", s, a, flags=_FAST)
                larger = builder.select(less, a, s)
                closer = builder.fcmp_ordered("<", larger, b, flags=_FAST)
                b = builder.select(closer, larger, b)
                g = builder.select(less, number, g)
                a = builder.select(less, s, a)
            for value, pointer in zip((a, b, g), kept, strict=True):
                _store(builder, value, pointer, at)
        return context.get_dummy_value()

    return signature, generate


@_instructions
def _filter_block(  # type: ignore[no-untyped-def]
    typing, panels, panel_at, scales, centroids, centroid_at, half_norms, norm_at, steps,
    thresholds, row_at, scores, hits,
):  # fmt: skip
    """True if a score of the block is below its row's threshold; then ``scores`` (MR, WIDTH) holds
    the block and ``hits`` (MR, 2) which they are, a bit a row."""
    signature = types.boolean(
        panels, types.int64, scales, centroids, types.int64, half_norms, types.int64, types.int64,
        thresholds, types.int64, scores, hits,
    )  # fmt: skip

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        kinds = signature.args
        zero = ir.Constant(_I64, 0)
        panel, scales, these, norms = _operands(context, builder, kinds, values, values[9])
        limits = _pointer(context, builder, kinds[8], values[8], values[9])
        out = _pointer(context, builder, kinds[10], values[10], zero)
        bits = _pointer(context, builder, kinds[11], values[11], zero)
        block = _emit(builder, panel, scales, these, norms, values[7])
        mask = ir.IntType(LANES)
        some = ir.Constant(mask, 0)
        limit = [_load(builder, limits, half * LANES, _VECTOR) for half in range(2)]
        for half in range(2):
            least = block[0][half]
            for j in range(1, MR):
                less = builder.fcmp_ordered("<", block[j][half], least, flags=_FAST)
                least = builder.select(less, block[j][half], least)
            below = builder.fcmp_ordered("<", least, limit[half], flags=_FAST)
            some = builder.or_(some, builder.bitcast(below, mask))
        found = builder.icmp_unsigned("!=", some, ir.Constant(mask, 0))
        with builder.if_then(found, likely=False):
            for j in range(MR):
                for half in range(2):
                    _store(builder, block[j][half], out, j * WIDTH + half * LANES)
                    below = builder.fcmp_ordered("<", block[j][half], limit[half], flags=_FAST)
                    number = builder.zext(builder.bitcast(below, mask), _I32)
                    _store(builder, number, bits, 2 * j + half)
        return found

    return signature, generate


@_instructions
def _lowest_bit(typing, number):  # type: ignore[no-untyped-def]
    """Position of the lowest bit that is set."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return builder.cttz(values[0], cgutils.true_bit)

    return types.uint32(types.uint32), generate


@kernel(FINITE)
def pack(x, r, panels):  # type: ignore[no-untyped-def]
    """Rows 0..r of x (n, d) into panels (P, d, WIDTH), zeros behind them."""
    d = x.shape[1]
    for p in range((r + WIDTH - 1) // WIDTH):
        for i in range(WIDTH):
            row = p * WIDTH + i
            for m in range(d):
                panels[p, m, i] = x[row, m] if row < r else np.float32(0)


@kernel(FINITE)
def fold_level(panels, scales, r, centroids, half_norms, tile, best, second, arg):  # type: ignore[no-untyped-def]
    """Smallest and second smallest score of r rows over all centroids, and the first's number.

    Args:
        panels: (P, d, WIDTH) rows, see ``pack``; or pairs, see ``fixed_point.pack_pairs``.
        scales: (P WIDTH,) of pairs; of floats nothing is read.
        r: rows.
        centroids: (K, d), or pairs, in which MR centroids stand side by side:
            (K / MR, ceil(d / 2), MR), here as (K, ceil(d / 2)). K is a multiple of MR; those that
            fill it up have half norm MOST.
        half_norms: (K,) ||c||^2 / 2.
        tile: centroids that pass all rows together, so that they stay in the cache.
        best: (P WIDTH,) out.
        second: (P WIDTH,) out.
        arg: (P WIDTH,) int32, out.
    """
    k, steps = centroids.shape
    panel_count = (r + WIDTH - 1) // WIDTH
    for i in range(panel_count * WIDTH):
        best[i] = np.float32(MOST)
        second[i] = np.float32(MOST)
        arg[i] = 0
    for begin in range(0, k, tile):
        for p in range(panel_count):
            for j in range(begin, min(begin + tile, k), MR):
                _fold_block(
                    panels, p * steps * WIDTH, scales, centroids, j * steps, half_norms, j, steps,
                    np.int32(j), best, second, arg, p * WIDTH,
                )  # fmt: skip


@kernel(FINITE)
def filter_level(panels, scales, r, centroids, half_norms, tile, scores, found):  # type: ignore[no-untyped-def]
    """The ``width`` smallest scores of each row over all centroids, ascending, and their numbers.

    Args:
        panels, scales, r, centroids, half_norms, tile: as in ``fold_level``.
        scores: (r, width) out.
        found: (r, width) int32, out.
    """
    k, steps = centroids.shape
    width = scores.shape[1]
    panel_count = (r + WIDTH - 1) // WIDTH
    thresholds = np.full(panel_count * WIDTH, -np.float32(MOST))  # rows behind r: nothing is below
    thresholds[:r] = np.float32(MOST)
    scores[:r] = np.float32(MOST)
    found[:r] = -1
    block = np.empty((MR, WIDTH), np.float32)
    hits = np.empty((MR, 2), np.uint32)
    for begin in range(0, k, tile):
        for p in range(panel_count):
            for j in range(begin, min(begin + tile, k), MR):
                if not _filter_block(
                    panels, p * steps * WIDTH, scales, centroids, j * steps, half_norms, j, steps,
                    thresholds, p * WIDTH, block, hits,
                ):  # fmt: skip
                    continue
                for c in range(MR):
                    for half in range(2):
                        bits = hits[c, half]
                        while bits:
                            lane = half * LANES + _lowest_bit(bits)
                            bits &= bits - np.uint32(1)
                            row = p * WIDTH + lane
                            score = block[c, lane]
                            if score >= thresholds[row]:
                                continue
                            place = width - 1
                            while place > 0 and scores[row, place - 1] > score:
                                scores[row, place] = scores[row, place - 1]
                                found[row, place] = found[row, place - 1]
                                place -= 1
                            scores[row, place] = score
                            found[row, place] = j + c
                            thresholds[row] = scores[row, width - 1]
