"""Refits that keep to the codebook before them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from qarm.codes.codebook import Codebook
from qarm.codes.fsq_fit import fit_fsq
from qarm.codes.level_kind import rest_after
from qarm.codes.matching import (
    best_pairs,
    changed,
    keep_anchor_numbers,
    match,
    renumber,
    warm_start,
)
from qarm.codes.refresh import Refit
from qarm.codes.residual import fit_residual
from qarm.config import Config
from qarm.config.codes import Codes
from qarm.errors import InputError
from qarm.lake import manifest
from qarm.pipeline.stages import _ASSIGN_ONLY, stage
from qarm.stages.fit_codebooks import _begin_refit
from tests.lakes.codes import catalogue, unit_vectors


def blobs(n, k=24, d=8, seed=0, noise=0.35):
    """Points around k centres, which any seed shares."""
    centres = np.random.default_rng(99).standard_normal((k, d))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(k, size=n)] + noise * rng.standard_normal((n, d))).astype("f4")


def codes_of(levels, x):
    return Codebook(levels=tuple(levels)).rq(x)[0]


def numbered(fit, old, sizes, x):
    """Codes of ``x`` once the clusters of ``fit`` are numbered as ``old`` says."""
    return codes_of(renumber(fit.levels, match(old, fit.codes, sizes)), x)


@pytest.mark.parametrize("noise", [0, 0.2, 1])
def test_assignment_is_the_best_there_is(noise) -> None:
    rng = np.random.default_rng(1)
    size, n = 60, 2000
    columns = rng.integers(size, size=n)
    other = rng.random(n) < noise
    rows = np.where(other, rng.integers(size, size=n), (columns * 7) % size)
    table = np.zeros((size, size))
    np.add.at(table, (rows, columns), 1)
    r, c = np.nonzero(table)
    found = best_pairs(r, c, table[r, c], size)
    matched = found[found >= 0]
    assert len(np.unique(matched)) == len(matched)
    total = table[matched, np.flatnonzero(found >= 0)].sum()
    assert total == table[linear_sum_assignment(table, maximize=True)].sum()
    if noise == 0:
        assert (found == (np.arange(size) * 7) % size).all()
    assert (best_pairs(r[:0], c[:0], table[r, c][:0], 3) == -1).all()


def test_only_numbers_changed_are_found_again() -> None:
    x, sizes = blobs(3000), [12, 9, 5]
    fit = fit_residual(x, sizes, iterations=30)
    rng = np.random.default_rng(3)
    mixed = renumber(fit.levels, [rng.permutation(k) for k in sizes])
    assert min(changed(fit.codes, codes_of(mixed, x))[0]) > 0.5
    items = np.arange(6)
    parent = Codebook(levels=tuple(fit.levels), anchors=x[:6], anchor_items=items)
    turned = Codebook(
        levels=tuple(mixed), anchors=x[5::-1], anchor_items=items[::-1], fit={"seed": 1}
    )
    refit = Refit(parent, x, fit.codes, fit.levels, {})
    again, metrics, line = refit.finish(turned)
    for a, b in zip((*parent.levels, parent.anchors), (*again.levels, again.anchors), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.anchor_items.tolist() == items.tolist()
    assert again.fit == {"seed": 1, "parent": parent.codebook_id}
    figures = {m.metric: m.value for m in metrics}
    assert figures["rq_changed_l3"] == figures["rq_prefix_changed_l3"] == 0
    assert figures["rq_changed_before_matching_l1"] > 0.5
    assert figures["vq_anchors_kept"] == 1
    assert line.endswith("after it; whose prefix: 0.0%, 0.0%, 0.0%")


def test_numbers_follow_items_that_kept_their_prefix() -> None:
    """100 items whose prefix changed say one thing of level 2, 30 that kept it another."""
    old = np.array([[0, 0]] * 60 + [[0, 1]] * 15 + [[0, 2]] * 15 + [[1, 1]] * 150 + [[2, 0]] * 9)
    new = np.array([[0, 0]] * 60 + [[0, 2]] * 15 + [[0, 1]] * 15 + [[1, 1]] * 150 + [[2, 0]] * 9)
    new[90:190, 0] = 2  # most items of old code 1 have gone to another cluster of level 1
    numbers = match(old.astype(np.int32), new.astype(np.int32), [3, 3])
    assert numbers[0].tolist() == [0, 2, 1]  # cluster 2 has most items of code 1
    assert numbers[1].tolist() == [0, 1, 2]  # (1, 1) -> cluster (2, 1) kept its prefix
    new[90:190, 0] = 0
    numbers = match(old.astype(np.int32), new.astype(np.int32), [3, 3])
    assert numbers[0].tolist() == [0, 1, 2]
    assert numbers[1].tolist() == [0, 1, 2]  # 50 items kept (1, 1); 30 with prefix 0 swap


def test_a_warm_start_changes_fewer_codes_at_equal_error() -> None:
    """A tenth of the items has come since the parent was fitted."""
    before = blobs(6000, seed=1)
    now = np.vstack([before[600:], blobs(600, seed=2)])
    sizes = [20, 16]
    parent = fit_residual(before, sizes, iterations=500)
    old = codes_of(parent.levels, now)
    cold = fit_residual(now, sizes, iterations=60, seed=5)
    assert changed(old, cold.codes)[0][0] > 0.8
    cold_shares = changed(old, numbered(cold, old, sizes, now))[1]
    start = warm_start(now, old, sizes, parent=parent.levels)
    warm = fit_residual(now, sizes, iterations=60, start=start)
    shares = changed(old, numbered(warm, old, sizes, now))[1]
    assert shares[0] < 0.05
    assert shares[-1] < 0.5 * cold_shares[-1]
    assert warm.errors[-1] < 1.03 * cold.errors[-1]
    # On the very same vectors a converged codebook stays as it is.
    start = warm_start(before, parent.codes, sizes, parent=parent.levels)
    again = fit_residual(before, sizes, iterations=60, start=start)
    np.testing.assert_array_equal(numbered(again, parent.codes, sizes, before), parent.codes)


def test_another_encoder_is_linked_by_items() -> None:
    """The new vectors are the old ones turned: centroids say nothing, items all."""
    x = blobs(5000)
    sizes = [16, 8]
    parent = fit_residual(x, sizes, iterations=500)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    turned = (x @ turn).astype(np.float32)
    old = parent.codes.copy()
    old[::7] = -1  # newcomers, which the parent has not coded
    start = warm_start(turned, old, sizes)
    fit = fit_residual(turned, sizes, iterations=60, start=start)
    refit = Refit(Codebook(levels=tuple(parent.levels)), turned, old, start, {})
    book, metrics, _ = refit.finish(Codebook(levels=tuple(fit.levels)))
    assert changed(parent.codes, book.rq(turned)[0])[1][-1] < 0.05
    assert metrics[0].n == (old[:, 0] >= 0).sum()


@pytest.mark.parametrize("sizes", [[12, 20], [12, 6], [12], [12, 9, 7]])
def test_levels_that_grow_shrink_come_and_go(sizes) -> None:
    x = blobs(4000)
    parent = fit_residual(x, [12, 9], iterations=30)
    start = warm_start(x, parent.codes, sizes, parent=parent.levels)
    assert [len(s) for s in start] == sizes
    fit = fit_residual(x, sizes, iterations=30, start=start)
    shares, _ = changed(parent.codes, numbered(fit, parent.codes, sizes, x))
    assert shares[0] < 0.05
    assert len(shares) == min(2, len(sizes))
    cold = fit_residual(x, sizes, iterations=30, seed=7)
    assert sum(shares) < 0.8 * sum(changed(parent.codes, numbered(cold, parent.codes, sizes, x))[0])


def test_bits_of_an_fsq_level_keep_their_meaning_under_the_same_encoder() -> None:
    x = blobs(3000)
    two = fit_residual(x, [12], iterations=30)
    last = fit_fsq(rest_after(x, two.codes, two.levels), two.codes, 8)
    book = Codebook(levels=(*two.levels, last.table), last=last.coder, encoder_version="e1")
    less = x[300:]  # some items have left
    old = book.rq(less)[0]
    start = warm_start(less, old, [12], parent=two.levels)
    fit = fit_residual(less, [12], iterations=30, start=start)
    rest = rest_after(less, fit.codes, fit.levels)
    refit = Refit(book, less, old, start, {})
    assert refit.coder("fsq", "e2", [12, 8]) is None
    assert refit.coder("fsq", "e1", [12, 16]) is None
    assert refit.coder("fsq", "e1", [12, 12, 8]) is None
    assert refit.coder("other", "e1", [12, 8]) is None
    shares = []
    for kept in (refit.coder("fsq", "e1", [12, 8]), None):
        new = fit_fsq(rest, fit.codes, 8, seed=1, keep=kept)
        fitted = Codebook(levels=(*fit.levels, new.table), last=new.coder)
        metrics = {m.metric: m.value for m in refit.finish(fitted)[1]}
        shares.append(metrics["rq_changed_l2"])
    assert shares[0] < 0.2 < 0.6 < shares[1]  # kept, and trained anew


def test_anchors_that_stay_keep_their_number() -> None:
    old = np.array([50, 40, 30, 20, 10])
    order = keep_anchor_numbers(old, np.array([10, 60, 30, 40, 70]))
    assert np.array([10, 60, 30, 40, 70])[order].tolist() == [60, 40, 30, 70, 10]
    grown = np.array([10, 20, 30, 40, 50, 60, 70])
    assert grown[keep_anchor_numbers(old, grown)].tolist() == [50, 40, 30, 20, 10, 60, 70]
    cut = np.array([10, 20, 30])
    assert cut[keep_anchor_numbers(old, cut)].tolist() == [10, 20, 30]  # 50 and 40 are gone
    unknown = np.full(3, -1)
    assert keep_anchor_numbers(unknown, cut).tolist() == [0, 1, 2]


def test_the_first_codebook_has_no_parent(make_context, capsys) -> None:
    context = make_context("fit-codebooks", codes={"refresh": "matched"})
    assert _begin_refit(context, np.arange(9), unit_vectors(9), "e1") is None
    assert "no codebook has been published, so this fit has no parent" in capsys.readouterr().err


@pytest.mark.spark
def test_stage(make_coded) -> None:
    world, vectors = make_coded(), catalogue()
    first = manifest.find(world.lake.root, "fit-codebooks").facts["codebook_id"]
    old = {r["item_idx"]: r["rq"] for r in world.table("semantic_ids").collect()}

    def codebook(codebook_id: str) -> Codebook:
        rows = world.table("codebooks").where(f"codebook_id = '{codebook_id}'")
        return Codebook.from_rows(rows.toArrow())

    # Five items leave, five come; the encoder is the same.
    less = {i: v for i, v in vectors.items() if int(i[1:]) >= 5}
    less |= {f"i{61 + n}": v for n, v in enumerate(unit_vectors(5, 8))}
    of_less = world.vectors(less)
    entry = world.run("fit-codebooks", refresh="matched")
    figures = {m["metric"]: m["value"] for m in entry["metrics"]}
    assert entry["facts"]["parent"] == first
    book = codebook(entry["facts"]["codebook_id"])
    assert book.fit["parent"] == first
    assert book.fit["rq_start"] == "parent"
    assert figures["rq_changed_l1"] < 0.3 < 1 - 1 / 13
    assert figures["rq_changed_l1"] <= figures["rq_changed_before_matching_l1"]
    items = sorted(set(old) & {int(i[1:]) for i in less})
    now = book.rq(np.stack([less[f"i{i}"] for i in items]))[0]
    same = np.mean([old[i][0] == code for i, code in zip(items, now[:, 0], strict=True)])
    assert same > 0.7
    before = codebook(first)
    stay = np.flatnonzero(np.isin(before.anchor_items, book.anchor_items))
    assert len(stay) > 30
    np.testing.assert_array_equal(before.anchor_items[stay], book.anchor_items[stay])
    assert figures["vq_anchors_kept"] == len(stay) / 40

    # Made again by force, it keeps to the same parent and is the same codebook.
    assert world.run("fit-codebooks", refresh="matched")["status"] == "skipped"

    # Another encoder, of another length: semantic_ids links the items, if it has their codes.
    turned = {i: np.roll(np.append(v, 0), 3).astype("f4") for i, v in vectors.items()}
    of_turned = world.vectors(turned, encoder="e2")
    with pytest.raises(InputError, match="semantic_ids has codes of that codebook for none of the"):
        world.run("fit-codebooks", refresh="matched")
    world.publish("embed-catalog", of_less)
    world.run("assign-codes", refresh="matched")
    world.publish("embed-catalog", of_turned)
    entry = world.run("fit-codebooks", refresh="matched")
    figures = {m["metric"]: m for m in entry["metrics"]}
    assert figures["rq_changed_l1"]["n"] == 55
    assert figures["rq_changed_l1"]["value"] < 0.3


def test_settings_of_the_assignment_alone_make_no_new_codebook() -> None:
    """With refresh = "matched", another run would be another codebook."""
    seen = {name.removeprefix("codes.") for name in stage("fit-codebooks").settings(Config())}
    assert set(_ASSIGN_ONLY) == set(Codes.model_fields) - seen
    changed_settings = {"resolve_capacity": 3, "drift_max_error_ratio": 2.0}
    other = Config.model_validate({"codes": changed_settings})
    assert stage("fit-codebooks").settings(other) == stage("fit-codebooks").settings(Config())
    assert stage("assign-codes").settings(other) != stage("assign-codes").settings(Config())
