"""The Spark figures of one catalogue against the same figures worked out in numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qarm import cli
from qarm.codes.code_counts import collisions, usage
from qarm.codes.residual import reconstruct
from qarm.evaluation.nearest_items import jaccard_by_chance, tie_breaks
from qarm.evaluation.reconstruction import reconstruction
from qarm.lake import files
from qarm.report.figures import percent
from qarm.report.quality_tables import code_lines
from qarm.stages.quality import NEIGHBOURS
from tests.evaluation.oracles import prefix_cosine
from tests.lakes.quality import FIELDS, ITEMS, SIZES

pytestmark = pytest.mark.spark


def codes(measured):
    return measured.book.rq(measured.x)[0], measured.book.vq(measured.x, 3)


def test_use_of_every_level(measured) -> None:
    rq, vq = codes(measured)
    found = measured.figures
    for kind, suffix, numbers, size in (
        ("rq", "l1", rq[:, 0], SIZES[0]),
        ("rq", "l2", rq[:, 1], SIZES[1]),
        ("vq", "first", vq[:, 0], 30),
    ):
        expected = usage(np.bincount(numbers, minlength=size))
        for metric in ("entropy", "gini", "utilisation", "dead", "perplexity"):
            value = found[f"{kind}_{metric}_{suffix}", kind, "all"]["value"]
            assert value == pytest.approx(getattr(expected, metric))


def test_collisions_and_reconstruction_of_every_slice(measured) -> None:
    rq, vq = codes(measured)
    found = measured.figures
    for name, inside in measured.slices().items():
        assert inside.sum() > 0, "a slice that tests nothing"
        for kind, matrix in (("rq", rq), ("vq", vq)):
            expected = collisions(matrix[inside])
            _, code, counts = np.unique(matrix, axis=0, return_inverse=True, return_counts=True)
            shared = counts[code.ravel()] > 1  # with an item of any slice
            for metric, value in (
                ("duplicate_rate", expected.duplicate_rate),
                ("shared_rate", shared[inside].mean()),
                ("items_per_code", expected.items_per_code),
                ("largest_code", expected.largest),
            ):
                figure = found[metric, kind, name]
                assert figure["value"] == pytest.approx(value), (metric, kind, name)
                assert figure["n"] == inside.sum()
        sums = reconstruction(measured.x[inside], rq[inside], measured.book.levels)
        for level in range(2):
            for metric, of in (
                ("reconstruction_error", sums.error),
                ("relative_error", sums.relative),
                ("cosine", sums.cosine),
            ):
                figure = found[f"rq_{metric}_l{level + 1}", "rq", name]
                assert figure["value"] == pytest.approx(of[level] / sums.items)
                assert figure["n"] == inside.sum()
    assert found["zero_vectors", "", "all"]["value"] == 1


def test_cosine_inside_prefixes(measured) -> None:
    rq, _ = codes(measured)
    everything = np.zeros((ITEMS, 1), int)
    any_two = prefix_cosine(measured.x, everything)
    for length, value in enumerate(any_two + prefix_cosine(measured.x, rq)):
        figure = measured.figures[f"rq_prefix_cosine_l{length}", "rq", "all"]
        assert figure["value"] == pytest.approx(value)


def nearest(near: np.ndarray, k: int) -> list[set[int]]:
    """The k largest of each row but the item itself, equal ones by the hash of the item."""
    ties = tie_breaks(np.arange(len(near)))
    order = [np.lexsort((ties, row))[::-1] for row in near]
    return [set([i for i in row if i != q][:k]) for q, row in enumerate(order)]


def test_neighbours_in_both_spaces(measured) -> None:
    rq, vq = codes(measured)
    norms = np.linalg.norm(measured.x.astype(float), axis=1, keepdims=True)
    unit = measured.x / np.where(norms > 0, norms, 1)
    truth = nearest(np.round(unit @ unit.T, 8), NEIGHBOURS)
    common = np.cumprod(rq[:, None] == rq[None], axis=2).sum(axis=2)
    means = reconstruct(rq, measured.book.levels)[-1].astype(float)
    far = ((means[:, None] - means[None]) ** 2).sum(axis=2)
    shared = (vq[:, None, :, None] == vq[None, :, None, :]).sum(axis=(2, 3))
    for variant, near in (("rq", common * 1000 - np.round(far, 6)), ("vq", shared)):
        lists = nearest(near, NEIGHBOURS)
        overlap = np.array([len(a & b) / len(a | b) for a, b in zip(lists, truth, strict=True)])
        for name, inside in measured.slices().items():
            figure = measured.figures[f"neighbour_overlap@{NEIGHBOURS}", variant, name]
            assert figure["n"] == inside.sum()
            assert figure["value"] == pytest.approx(overlap[inside].mean(), abs=1e-9)
            assert figure["low"] < figure["value"] < figure["high"]
        chance = measured.figures[f"neighbour_overlap_chance@{NEIGHBOURS}", variant, "all"]
        assert chance["value"] == pytest.approx(jaccard_by_chance(NEIGHBOURS, ITEMS - 1))


def test_categories_and_change_are_measured(measured) -> None:
    """The figures are checked in tests/evaluation, on literal frames."""
    assert measured.entry["facts"]["before"] == measured.old_book.codebook_id
    for length in (1, 2):
        for name in ("changed", "prefix_changed", "adjusted_rand", "nmi"):
            assert measured.figures[f"rq_{name}_l{length}", "rq", "all"]["n"] == ITEMS
        for field in FIELDS:
            assert 0 < measured.figures[f"rq_purity_l{length}", "rq", f"field {field}"]["value"] < 1
    old, _ = measured.old_book.rq(measured.x)
    new, _ = codes(measured)
    changed = measured.figures["rq_changed_l1", "rq", "all"]["value"]
    assert changed == pytest.approx((old[:, 0] != new[:, 0]).mean())


def test_what_is_printed_and_published(measured, tmp_path, capsys) -> None:
    """The same figures as tables, as JSON on standard output, and as a file of the lake."""
    entry = measured.entry
    assert (entry["rows_in"], entry["rows_out"]) == (ITEMS, ITEMS)
    assert entry["facts"]["left_out"] == {
        "held-out pairs": "no table interactions and no table item_pairs"
    }
    text = "\n".join(code_lines(entry["metrics"], entry["facts"]))
    shared = measured.figures["shared_rate", "rq", "head"]["value"]
    assert percent(shared, 2) in next(row for row in text.splitlines() if "RQ, head" in row)
    assert "Left out: held-out pairs" in text
    assert "genre" in text
    assert measured.old_book.codebook_id in text
    published = json.loads(files.read_text(entry["artifacts"]["figures"]["uri"]))
    assert len(published["metrics"]) == len(entry["metrics"])
    # The command prints figures of a run that is up to date, too.
    config = tmp_path / "c.toml"
    root = json.dumps(measured.world.lake.root)
    config.write_text(f"lake = {root}\n")
    assert cli.main(["quality", "--config", str(config), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {m["metric"] for m in printed["metrics"]} == {m["metric"] for m in entry["metrics"]}
    assert cli.main(["quality", "--config", str(config)]) == 0
    assert text in capsys.readouterr().out
