"""The FSQ level: its codes against float64, what it stands for, and what training is for."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes import fsq_fit
from qarm.codes.code_counts import collisions
from qarm.codes.fsq import Projection
from qarm.codes.fsq_fit import decode_table, fit_fsq, train_projection
from qarm.codes.kinds import kmeans_sizes, last_kind
from qarm.codes.kmeans import kmeans
from qarm.codes.level_kind import encode_last, rest_after
from qarm.codes.residual import fit_residual
from qarm.config.codes import Codes
from qarm.errors import ConfigError, InputError
from qarm.kernels.nearest import encode, nearest, prepare


def clustered(n, d, seed=0):
    """Vectors around 40 directions, some near and some far, as real ones are."""
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((40, d))
    far = 0.4 * rng.lognormal(0, 0.8, (n, 1))
    x = topics[rng.integers(40, size=n)] + far * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def projection_of(bits, d, seed=3):
    rng = np.random.default_rng(seed)
    origin = 0.1 * rng.standard_normal(d).astype(np.float32)
    return Projection(rng.standard_normal((bits, d)).astype(np.float32), origin)


@pytest.mark.parametrize(("bits", "d", "n"), [(5, 7, 300), (8, 33, 700), (12, 5, 257), (1, 64, 40)])
def test_codes_are_the_rounded_sigmoid_in_float64(bits, d, n) -> None:
    projection = projection_of(bits, d)
    rest = np.random.default_rng(1).standard_normal((n, d)).astype(np.float32)
    wide = rest.astype(np.float64) - projection.origin
    bit = np.round(1 / (1 + np.exp(-(wide @ projection.weights.T.astype(np.float64)))))
    expected = (bit @ (1 << np.arange(bits))).astype(np.int32)
    np.testing.assert_array_equal(projection.encode(rest), expected)
    assert len(np.unique(expected)) > 1


def test_the_origin_itself_has_code_zero() -> None:
    projection = projection_of(6, 9)
    assert projection.encode(projection.origin[None]).tolist() == [0]


def test_after_levels_given_the_same_prefix_and_any_threads() -> None:
    x = clustered(1500, 11)
    rng = np.random.default_rng(0)
    levels = [rng.standard_normal((k, 11)).astype(np.float32) / 3 for k in (13, 7)]
    projection = projection_of(5, 11)
    table = rng.standard_normal((32, 11)).astype(np.float32) / 9
    before, after_levels = encode(x, [prepare(level) for level in levels])
    codes, left = encode_last(x, before, [*levels, table], projection)
    rest = x - levels[0][before[:, 0]]
    rest = rest - levels[1][before[:, 1]]
    np.testing.assert_array_equal(rest_after(x, before, levels), rest)
    np.testing.assert_allclose((rest.astype(float) ** 2).sum(1), after_levels, rtol=1e-6)
    np.testing.assert_array_equal(codes[:, :2], before)
    np.testing.assert_array_equal(codes[:, 2], projection.encode(rest))
    expected = ((rest.astype(float) - table[codes[:, 2]]) ** 2).sum(1)
    np.testing.assert_allclose(left, expected, rtol=1e-5)
    threaded, left_3 = encode_last(x, before, [*levels, table], projection, threads=3)
    np.testing.assert_array_equal(threaded, codes)
    np.testing.assert_array_equal(left_3, left)


def test_the_table_holds_means_and_a_linear_map_where_no_row_is() -> None:
    rng = np.random.default_rng(0)
    axes = rng.standard_normal((3, 4))
    codes = np.array([0, 1, 2, 3, 4, 5, 6, 6], np.int32)  # 7 is nobody's
    signs = 2 * (codes[:, None] >> np.arange(3) & 1) - 1
    rest = (signs @ axes + 0.5).astype(np.float32)
    rest[6, 0] += 0.25
    rest[7, 0] -= 0.25
    table = decode_table(rest, codes, 3)
    np.testing.assert_allclose(table[:6], rest[:6], rtol=1e-6)
    np.testing.assert_allclose(table[6], rest[6:].mean(0), rtol=1e-5)
    np.testing.assert_allclose(table[7], axes.sum(0) + 0.5, rtol=1e-5)


@pytest.fixture(scope="module")
def fitted():
    """Residuals after two levels of 48, the fits of a third level of 32, and items not fitted on.

    Large enough that hundreds of items share a code at equal bits.
    """
    x = clustered(3000, 24)
    known = x[:2400]
    two = fit_residual(known, [48, 48], iterations=15)
    codes, _ = encode(x, [prepare(level) for level in two.levels])
    rest = rest_after(x, codes, two.levels)
    ours = fit_fsq(rest[:2400], two.codes, 32)
    theirs = kmeans(rest[:2400], 32, iterations=15, seed=(0, 2)).centroids
    return rest, codes, ours, theirs


def test_fewer_items_share_a_code_than_with_a_third_kmeans_level(fitted) -> None:
    rest, prefix, ours, centroids = fitted
    for rows in (slice(0, 2400), slice(0, 3000)):  # fitted on; and with items not fitted on
        by_bits = np.c_[prefix, ours.coder.encode(rest)][rows]
        by_centroid = np.c_[prefix, nearest(rest, centroids)[0]][rows]
        shared = collisions(by_centroid).shared_items
        assert shared > 200
        assert collisions(by_bits).shared_items < 0.8 * shared


def test_near_rests_agree_in_more_bits_and_bits_are_even(fitted) -> None:
    rest, _, ours, _ = fitted
    new = rest[2400:]
    bits = ours.coder.encode(new)[:, None] >> np.arange(5) & 1
    distance = ((new[:, None] - new[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, :5]
    agreement = (bits[:, None] == bits[near]).mean()
    assert agreement > 0.5 + 0.1  # half agree by chance
    assert np.abs(bits.mean(0) - 0.5).max() < 0.15


def test_the_table_lowers_the_error_of_items_not_fitted_on(fitted) -> None:
    rest, _, ours, _ = fitted
    assert ours.table.shape == (32, 24)
    new = rest[2400:]
    left = ((new - ours.table[ours.coder.encode(new)]) ** 2).sum(1).mean()
    assert left < 0.95 * (new**2).sum(1).mean()
    known = rest[:2400]
    np.testing.assert_array_equal(ours.codes, ours.coder.encode(known))
    expected = ((known - ours.table[ours.codes]).astype(float) ** 2).sum(1).mean()
    assert ours.error == pytest.approx(expected)


def test_same_arguments_same_projection_whatever_the_threads(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(fsq_fit, "STEPS", 20)
    rest = clustered(400, 9)
    cells = np.random.default_rng(0).integers(30, size=400)
    first = train_projection(rest, cells, 4, seed=0)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        second = train_projection(rest, cells, 4, seed=0)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(first.rows(), second.rows())
    assert not np.array_equal(first.rows(), train_projection(rest, cells, 4, seed=1).rows())


def test_few_rows_no_partners_equal_rows_and_more_bits_than_dimensions(monkeypatch) -> None:
    monkeypatch.setattr(fsq_fit, "STEPS", 5)
    alone = fit_fsq(clustered(20, 3), np.arange(20)[:, None], 32)  # 5 bits of 3 dimensions
    assert alone.coder.weights.shape == (5, 3)
    nothing = fit_fsq(np.zeros((6, 4), np.float32), np.zeros((6, 2), np.int32), 4)
    assert nothing.error == 0
    single = fit_fsq(np.ones((1, 4), np.float32), np.zeros((1, 2), np.int32), 4)
    assert single.error == 0
    with pytest.raises(InputError, match="need at least one vector"):
        fit_fsq(np.ones((0, 4), np.float32), np.zeros((0, 2), np.int32), 4)
    with pytest.raises(InputError, match="power of two"):
        fit_fsq(np.ones((9, 4), np.float32), np.zeros((9, 2), np.int32), 6)


def test_a_large_catalogue_is_sampled_by_whole_cells(monkeypatch) -> None:
    monkeypatch.setattr(fsq_fit, "SAMPLE_ROWS", 100)
    cells = np.repeat(np.arange(50), 10)
    order = fsq_fit._by_cell(cells, np.random.default_rng(0))
    assert len(np.unique(order)) == 100
    drawn = cells[order]
    assert np.unique(drawn).size == 10
    assert (np.diff(drawn) != 0).sum() == 9  # side by side
    pairs = fsq_fit._partners(drawn)
    assert (drawn[pairs[0]] == drawn[pairs[1]]).all()
    assert pairs.shape[1] == 10 * (10 * 9 // 2 - 1)  # all pairs but those nine apart


def test_bad_projections() -> None:
    with pytest.raises(InputError, match="1 to 16 bits"):
        Projection(np.ones((17, 3), np.float32), np.zeros(3, np.float32))
    with pytest.raises(InputError, match="as many dimensions"):
        Projection(np.ones((4, 3), np.float32), np.zeros(2, np.float32))
    with pytest.raises(InputError, match="fsq projection: 1 of 2 vectors have NaN"):
        Projection(np.array([[1, 2], [np.nan, 0]], np.float32), np.zeros(2, np.float32))
    plain = Projection.from_rows(np.ones((3, 2), np.float32), 8)
    assert (plain.bits, plain.origin.tolist()) == (3, [0, 0])
    for rows, codes in ((np.ones((3, 2)), 7), (np.ones((2, 2)), 8), (np.ones((5, 2)), 8)):
        with pytest.raises(InputError, match=r"expected 2\^b codes, and b rows"):
            Projection.from_rows(rows, codes)


def test_setting_needs_a_power_of_two_and_a_level_before() -> None:
    assert kmeans_sizes(Codes(rq_last="fsq", rq_levels=[100, 64])) == [100]
    assert last_kind(Codes(rq_levels=[64, 100])) is None
    with pytest.raises(ConfigError, match="power of two"):
        last_kind(Codes(rq_last="fsq", rq_levels=[64, 100]))
    with pytest.raises(ConfigError, match="needs a k-means level before it"):
        last_kind(Codes(rq_last="fsq", rq_levels=[64]))
