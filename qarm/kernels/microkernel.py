"""Products of rows with centroids, folded or filtered while they are still in registers.

A torch product computes all scores ||c||^2 / 2 - x.c and stores them, so that another pass has to
read them. Here ``MR`` centroids meet a panel of ``WIDTH`` rows in one block of vector
registers; a block is consumed before the next is computed: the smallest, second smallest and its
code go into running values (``fold_level``, residual codes), or the few scores below a row's
threshold into its list of candidates (``filter_level``, VQ codes). The block's shape follows the
processor: 12 x 2 registers where there are 32 of them (AVX-512, NEON), else 6 x 2. On an AVX-512
machine this is about twice the speed of a product by MKL on AMD, which there stops at AVX2.

Numba has no vector types, so the block is written as LLVM instructions (``_emit``); the rest of the
file is plain numba.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from qarm.kernels.compiled import FINITE, compiled

MOST = float(np.finfo(np.float32).max)
"""Start of a search for the smallest; infinity is excluded by ``FINITE``."""


def _block() -> tuple[int, int]:
    """(floats per register, centroids per block): two registers of rows and the block fit.

    The processor is the one that numba compiles for, which NUMBA_CPU_NAME and NUMBA_CPU_FEATURES
    can change. numba's cache distinguishes machine code by it as well.
    """
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    if "+avx512f" in features:
        return 16, 12
    if platform.machine().lower() in ("aarch64", "arm64"):
        return 4, 12
    return (8 if "+avx2" in features else 4), 6


LANES, MR = _block()
"""Floats a vector register; centroids a block."""
WIDTH = 2 * LANES
"""Rows of a panel."""


TILE_BYTES = 1 << 17
"""Bytes of a tile of centroids: half of a small second-level cache, which the rows need as well."""


def tile_of(numbers: int) -> int:
    """Centroids per tile, a multiple of MR, for vectors of ``numbers`` float32."""
    return max(1, TILE_BYTES // (4 * numbers * MR)) * MR


_FAST = ("nnan", "ninf", "nsz", "contract")
_FLOAT, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_CODES = ir.VectorType(_I32, LANES)


def _emit(builder: Any, panel: Any, centroids: Any, half_norms: Any, steps: Any) -> Any:
    """Scores of a block: MR lists of two vectors, half_norms[j] - x . centroids[j].

    Args:
        builder: numba's.
        panel: float*, (d, WIDTH).
        centroids: float*, (MR, d).
        half_norms: float*, (MR,).
        steps: i64, d, at least 1.
    """
    zero = ir.Constant(_VECTOR, [_FLOAT(0)] * LANES)
    before, loop = builder.block, builder.append_basic_block("dimension")
    after = builder.append_basic_block("scores")
    builder.branch(loop)
    builder.position_at_end(loop)
    m = builder.phi(_I64)
    m.add_incoming(ir.Constant(_I64, 0), before)
    sums = [[builder.phi(_VECTOR) for _ in range(2)] for _ in range(MR)]
    row = builder.gep(panel, [builder.mul(m, ir.Constant(_I64, WIDTH))])
    x = [_load(builder, row, half * LANES, _VECTOR) for half in range(2)]
    for j in range(MR):
        at = builder.add(m, builder.mul(steps, ir.Constant(_I64, j)))
        c = _splat(builder, builder.load(builder.gep(centroids, [at])), _FLOAT)
        for half in range(2):
            product = builder.fmul(c, x[half], flags=_FAST)
            total = builder.fadd(sums[j][half], product, flags=_FAST)
            sums[j][half].add_incoming(zero, before)
            sums[j][half].add_incoming(total, loop)
            sums[j][half] = total
    following = builder.add(m, ir.Constant(_I64, 1))
    m.add_incoming(following, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, steps), loop, after)
    builder.position_at_end(after)
    for j in range(MR):
        norm = builder.load(builder.gep(half_norms, [ir.Constant(_I64, j)]))
        norm = _splat(builder, norm, _FLOAT)
        sums[j] = [builder.fsub(norm, total, flags=_FAST) for total in sums[j]]
    return sums


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


def _operands(context: Any, builder: Any, kinds: Any, values: Any) -> tuple[Any, Any, Any]:
    """Pointers for ``_emit``, from the first arguments of the two functions that follow."""
    panel, centroids, half_norms = (
        _pointer(context, builder, kinds[k], values[k], values[k + 1]) for k in (0, 2, 4)
    )
    return panel, centroids, half_norms


def _instructions(function: Any) -> Any:
    """``numba.extending.intrinsic``, whose own types leave out that numba passes ``typing``."""
    return intrinsic(function)


@_instructions
def _fold_block(  # type: ignore[no-untyped-def]
    typing, panels, panel_at, centroids, centroid_at, half_norms, norm_at, steps, code,
    best, second, arg, row_at,
):  # fmt: skip
    """Fold a block of scores into best, second and arg of its WIDTH rows."""
    signature = types.void(
        panels, types.int64, centroids, types.int64, half_norms, types.int64, types.int64,
        types.int32, best, second, arg, types.int64,
    )  # fmt: skip

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        kinds = signature.args
        operands = _operands(context, builder, kinds, values)
        kept = [_pointer(context, builder, kinds[k], values[k], values[11]) for k in (8, 9, 10)]
        scores = _emit(builder, *operands, values[6])
        for half in range(2):
            at = half * LANES
            a, b = (_load(builder, p, at, _VECTOR) for p in kept[:2])
            g = _load(builder, kept[2], at, _CODES)
            for j in range(MR):
                s = scores[j][half]
                number = builder.add(values[7], ir.Constant(_I32, j))
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
    typing, panels, panel_at, centroids, centroid_at, half_norms, norm_at, steps,
    thresholds, row_at, scores, hits,
):  # fmt: skip
    """True if a score of the block is below its row's threshold; then ``scores`` (MR, WIDTH) holds
    the block and ``hits`` (MR, 2) a bit per row that is below.
    """
    signature = types.boolean(
        panels, types.int64, centroids, types.int64, half_norms, types.int64, types.int64,
        thresholds, types.int64, scores, hits,
    )  # fmt: skip

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        kinds = signature.args
        zero = ir.Constant(_I64, 0)
        operands = _operands(context, builder, kinds, values)
        limits = _pointer(context, builder, kinds[7], values[7], values[8])
        out = _pointer(context, builder, kinds[9], values[9], zero)
        bits = _pointer(context, builder, kinds[10], values[10], zero)
        block = _emit(builder, *operands, values[6])
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
        any_below = builder.icmp_unsigned("!=", some, ir.Constant(mask, 0))
        with builder.if_then(any_below, likely=False):
            for j in range(MR):
                for half in range(2):
                    _store(builder, block[j][half], out, j * WIDTH + half * LANES)
                    below = builder.fcmp_ordered("<", block[j][half], limit[half], flags=_FAST)
                    number = builder.zext(builder.bitcast(below, mask), _I32)
                    _store(builder, number, bits, 2 * j + half)
        return any_below

    return signature, generate


@_instructions
def _lowest_bit(typing, number):  # type: ignore[no-untyped-def]
    """Position of the lowest bit that is set."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return builder.cttz(values[0], cgutils.true_bit)

    return types.uint32(types.uint32), generate


@compiled(fastmath=FINITE)
def pack(x, r, panels):  # type: ignore[no-untyped-def]
    """Rows 0..r of x (n, d) into panels (P, d, WIDTH), zeros behind them."""
    d = x.shape[1]
    for p in range((r + WIDTH - 1) // WIDTH):
        for i in range(WIDTH):
            row = p * WIDTH + i
            for m in range(d):
                panels[p, m, i] = x[row, m] if row < r else np.float32(0)


@compiled(fastmath=FINITE)
def fold_level(panels, r, centroids, half_norms, tile, best, second, arg):  # type: ignore[no-untyped-def]
    """Smallest and second smallest score of r rows over all centroids, and the first's number.

    Args:
        panels: (P, d, WIDTH) rows, see ``pack``.
        r: number of rows.
        centroids: (K, d). K is a multiple of MR; padding has half norm MOST.
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
                    panels, p * steps * WIDTH, centroids, j * steps, half_norms, j, steps,
                    np.int32(j), best, second, arg, p * WIDTH,
                )  # fmt: skip


@compiled(fastmath=FINITE)
def filter_level(panels, r, centroids, half_norms, tile, scores, candidates):  # type: ignore[no-untyped-def]
    """The ``width`` smallest scores of each row over all centroids, ascending, and their numbers.

    Args:
        panels, r, centroids, half_norms, tile: as in ``fold_level``.
        scores: (r, width) out.
        candidates: (r, width) int32, out.
    """
    k, steps = centroids.shape
    width = scores.shape[1]
    panel_count = (r + WIDTH - 1) // WIDTH
    thresholds = np.full(panel_count * WIDTH, -np.float32(MOST))  # rows behind r: nothing is below
    thresholds[:r] = np.float32(MOST)
    scores[:r] = np.float32(MOST)
    candidates[:r] = -1
    block = np.empty((MR, WIDTH), np.float32)
    hits = np.empty((MR, 2), np.uint32)
    for begin in range(0, k, tile):
        for p in range(panel_count):
            for j in range(begin, min(begin + tile, k), MR):
                if not _filter_block(
                    panels, p * steps * WIDTH, centroids, j * steps, half_norms, j, steps,
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
                                candidates[row, place] = candidates[row, place - 1]
                                place -= 1
                            scores[row, place] = score
                            candidates[row, place] = j + c
                            thresholds[row] = scores[row, width - 1]
