"""Training the projection of an FSQ level. The method is ours: QARM V2 does not publish one.

Start: the principal axes of the differences of items that share a prefix (which the level has to
separate), rotated by ITQ (Gong and Lazebnik, CVPR 2011) so that signs lose little, and an origin at
their medians, so that every bit halves the items. Then Adam, with s = sigmoid(beta (r - o) W) in
place of bits and a beta that rises, lowers the sum of

* the share of items that share prefix and code with another: 1 - prod_j (1 - prod_b p_b(i, j)),
  p_b the chance that bit b of i and j is equal, over partners j of the same prefix;
* neighbours: the chance that a bit differs between an item and its nearest ones of other prefixes;
* reconstruction: the squared error of a linear map from the bits back to r, over that of zero
  (hard bits forward, the gradient of s backward);
* imbalance and correlation: each bit even, no two alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.codes.anchors import nearest_k, prepare_anchors
from qarm.codes.fsq import MOST_BITS, Projection
from qarm.codes.level_kind import LevelFit, LevelKind
from qarm.errors import ConfigError, InputError
from qarm.kernels.nearest import Floats, Ints, as_matrix
from qarm.kernels.threads import one_torch_thread

if TYPE_CHECKING:
    import torch

SAMPLE_ROWS = 32_768
"""The projection is trained on no more rows than this, of whole prefixes drawn at random."""
NEIGHBOUR_ROWS = 8_192
"""Neighbours are searched among this many of the first of them."""
PARTNERS = 16
"""Partners of the same prefix per item, on either side in a random order."""
NEIGHBOURS = 5
STEPS = 300
LEARNING_RATE = 0.02
BETA = (2.0, 8.0)
"""Slope of the sigmoid at the first and the last step, for logits of deviation 1."""
NEAR_WEIGHT, RECONSTRUCTION_WEIGHT, SHARED_WEIGHT = 0.3, 1.0, 1.0
"""Weights of the terms; imbalance and correlation have 1."""


def fit_fsq(
    rest: Floats,
    prefix: NDArray[np.integer[Any]],
    codes: int,
    *,
    seed: int = 0,
    keep: Projection | None = None,
) -> LevelFit:
    """Train the projection and make the table.

    Args:
        rest: (n, d) what the levels before have left.
        prefix: (n, L - 1) codes of those levels.
        codes: 2^b.
        seed: of the sample, the order of partners and the start of ITQ.
        keep: a projection to keep, so that bits keep their meaning; then only the table is made.

    Raises:
        InputError: ``codes`` is no power of two, or no rows.
    """
    bits = codes.bit_length() - 1
    if codes < 2 or codes != 1 << bits:
        raise InputError(f"FSQ makes 2^bits codes; asked for {codes}: take a power of two")
    rest = as_matrix(rest, "rests")
    if len(rest) == 0:
        raise InputError("FSQ: need at least one vector to fit on, got none")
    projection = keep
    if projection is None:
        cells = np.unique(prefix, axis=0, return_inverse=True)[1].reshape(-1)
        projection = train_projection(rest, cells, bits, seed)
    coded = projection.encode(rest)
    table = decode_table(rest, coded, bits)
    left = ((rest - table[coded]).astype(np.float64) ** 2).sum(axis=1)
    return LevelFit(projection, table, coded, float(left.mean()))


def decode_table(rest: Floats, codes: Ints, bits: int) -> Floats:
    """(2^b, d) mean rest of each code; where no row has it, the least squares of bits to rests."""
    counts = np.bincount(codes, minlength=1 << bits)
    sums = np.zeros((1 << bits, rest.shape[1]))
    np.add.at(sums, codes, rest)
    used = counts > 0
    means = sums[used] / counts[used, None]
    signs = np.concatenate([_signs(bits), np.ones((1 << bits, 1))], axis=1)
    weights = np.sqrt(counts[used, None])  # squares over rows, from the means of their codes
    linear = np.linalg.lstsq(signs[used] * weights, means * weights, rcond=None)[0]
    table = signs @ linear
    table[used] = means
    as_floats: Floats = table.astype(np.float32)
    return as_floats


def _signs(bits: int) -> NDArray[np.float64]:
    """(2^b, b): bit i of each code as -1 or 1."""
    bit = np.arange(1 << bits)[:, None] >> np.arange(bits) & 1
    return bit.astype(np.float64) * 2 - 1


def train_projection(
    rest: Floats, cells: NDArray[np.integer[Any]], bits: int, seed: int
) -> Projection:
    """The projection of ``bits`` bits for rests (n, d) of cells (n,), one number a prefix.

    One torch thread, whatever the caller has: sums, and with them the result, do not depend on it.
    """
    import torch

    rng = np.random.default_rng([seed & 0xFFFFFFFF, bits])
    order = _by_cell(cells, rng)
    wide, cells = rest[order].astype(np.float64), cells[order]
    scale = float(np.sqrt((wide**2).sum(axis=1).mean())) or 1.0
    x = (wide / scale).astype(np.float32)
    partners = _partners(cells)
    near = _near(x, cells)
    weights, origin = _start(x, partners, bits, rng)
    with one_torch_thread():
        hard = np.where((x - origin) @ weights > 0, 1.0, -1.0)
        linear = np.linalg.lstsq(hard, x, rcond=None)[0]
        parameters = [
            torch.tensor(p, dtype=torch.float32, requires_grad=True)
            for p in (weights, origin, linear)
        ]
        tensors = (torch.from_numpy(x), torch.from_numpy(partners), torch.from_numpy(near))
        optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE)
        for step in range(STEPS):
            beta = BETA[0] * (BETA[1] / BETA[0]) ** (step / STEPS)
            optimiser.zero_grad()
            _loss(tensors, parameters, beta).backward()
            optimiser.step()
    weights, origin = (p.detach().numpy() for p in parameters[:2])
    return Projection(
        np.ascontiguousarray(weights.T), (origin * np.float32(scale)).astype(np.float32)
    )


def _loss(
    tensors: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor], beta: float
) -> torch.Tensor:
    """The sum that the module's docstring lists."""
    import torch

    x, partners, near = tensors
    weights, origin, linear = parameters

    logits = (x - origin) @ weights
    s = torch.sigmoid(beta * logits)

    def equal(pairs: torch.Tensor) -> torch.Tensor:
        a, b = s[pairs[0]], s[pairs[1]]
        return a * b + (1 - a) * (1 - b)

    signs = 2 * s - 1
    hard = signs + (torch.sign(logits) - signs).detach()
    centred = signs - signs.mean(0)
    correlation = centred.T @ centred / len(x)
    b = len(correlation)
    apart = correlation - torch.diag(torch.diag(correlation))
    loss = signs.mean(0).square().mean() + apart.square().sum() / max(1, b * (b - 1))
    loss = loss + RECONSTRUCTION_WEIGHT * (x - hard @ linear).square().sum(1).mean()
    if near.shape[1]:
        loss = loss + NEAR_WEIGHT * (1 - equal(near)).mean()
    if partners.shape[1]:
        alone = torch.log1p(-equal(partners).prod(1).clamp(max=0.999))
        both = torch.zeros(len(x)).index_add(0, partners[0], alone)
        both = both.index_add(0, partners[1], alone)
        with_partner = torch.zeros(len(x)).index_fill(0, partners.reshape(-1), 1.0).sum()
        loss = loss + SHARED_WEIGHT * (1 - torch.exp(both)).sum() / with_partner
    return loss


def _by_cell(cells: NDArray[np.integer[Any]], rng: np.random.Generator) -> NDArray[np.int64]:
    """At most ``SAMPLE_ROWS`` rows, cell by cell, both cells and their rows in random order."""
    rank = rng.permutation(int(cells.max()) + 1)[cells]
    order: NDArray[np.int64] = np.lexsort((rng.random(len(cells)), rank))
    return order[:SAMPLE_ROWS]


def _partners(cells: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """(2, p) rows of the same cell, at most ``PARTNERS`` / 2 apart; cells lie side by side."""
    pairs = [np.empty((2, 0), np.int64)]
    for apart in range(1, PARTNERS // 2 + 1):
        first = np.flatnonzero(cells[apart:] == cells[:-apart])
        pairs.append(np.stack([first, first + apart]))
    return np.concatenate(pairs, axis=1)


def _near(x: Floats, cells: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """(2, q) rows and their nearest rows of other cells."""
    some = x[:NEIGHBOUR_ROWS]
    k = min(NEIGHBOURS + 1, len(some))
    ids = nearest_k(some, prepare_anchors(some), k).astype(np.int64)
    pairs = np.stack([np.repeat(np.arange(len(some)), k), ids.reshape(-1)])
    apart: NDArray[np.int64] = pairs[:, cells[pairs[0]] != cells[pairs[1]]]
    return apart


def _start(
    x: Floats, partners: NDArray[np.int64], bits: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """W (d, b) with logits of deviation 1, and the origin (d,); see the module's docstring."""
    wide = x.astype(np.float64)
    d = x.shape[1]
    apart = wide[partners[0]] - wide[partners[1]] if partners.shape[1] else wide
    axes = np.linalg.eigh(apart.T @ apart)[1][:, ::-1][:, :bits]
    if bits > d:  # more bits than axes: the others point anywhere
        axes = np.concatenate([axes, rng.standard_normal((d, bits - d)) / np.sqrt(d)], axis=1)
    projected = wide @ axes
    turn = np.linalg.qr(rng.standard_normal((bits, bits)))[0]
    for _ in range(30):
        left, _, right = np.linalg.svd(np.where(projected @ turn > 0, 1.0, -1.0).T @ projected)
        turn = right.T @ left.T
    weights = axes @ turn
    projected = wide @ weights
    middle = np.median(projected, axis=0)
    deviation = projected.std(axis=0)
    deviation[deviation == 0] = 1.0
    origin = np.linalg.lstsq(weights.T, middle, rcond=None)[0]
    return weights / deviation, origin


def check_sizes(sizes: Sequence[int]) -> None:
    """Raise a ConfigError unless the last of ``sizes`` is a number of codes that bits can make."""
    last = sizes[-1]
    if last & (last - 1) or last > 1 << MOST_BITS:
        raise ConfigError(
            'codes.rq_last = "fsq" makes 2^bits codes, so the last entry of codes.rq_levels must '
            f"be a power of two up to {1 << MOST_BITS}, got {list(sizes)}"
        )


FSQ = LevelKind(
    name="fsq",
    check_sizes=check_sizes,
    fit=fit_fsq,
    from_rows=Projection.from_rows,
    array="fsq.projection",
)
