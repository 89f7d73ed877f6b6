"""The drift test: silent for samples of one distribution, and it fires for others."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from qarm.codes import drift
from qarm.codes.codebook import Codebook
from qarm.codes.drift import error_ratio, figures, judge, rows_to_hold_out, usage_shift
from qarm.codes.residual import fit_residual
from qarm.config.codes import Codes
from qarm.pipeline.code_inputs import load_codebook
from qarm.pipeline.runner import run_stage
from qarm.pipeline.stages import stage
from qarm.stages.assign_codes import _check_drift
from tests.lakes.codes import unit_vectors

SIZES = [32, 16]
CENTRES = np.random.default_rng(5).standard_normal((40, 12))


def draw(n, seed, centres=CENTRES, noise=0.4):
    """n items of a world of as many kinds as centres, some frequent, some rare."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, len(centres) + 1)
    kind = rng.choice(len(centres), size=n, p=share / share.sum())
    return (centres[kind] + noise * rng.standard_normal((n, 12))).astype(np.float32)


@pytest.fixture(scope="module")
def book():
    return Codebook(levels=tuple(fit_residual(draw(1500, 0), SIZES, iterations=30).levels))


def verdict(book, held_out, new, dead=0.0, **limits):
    sizes = [0.0] * len(SIZES)
    return judge(
        figures(book, held_out),
        figures(book, new),
        sizes,
        [dead] * len(SIZES),
        Codes(**limits),
    )


@pytest.mark.parametrize(("held_out", "new"), [(100, 100), (400, 150), (150, 3000)])
def test_silent_on_sampling_noise(book, held_out, new) -> None:
    fired, shifts = [], []
    for seed in range(100):
        found = verdict(book, draw(held_out, 2 * seed + 1), draw(new, 2 * seed + 2))
        fired += found.reasons
        shifts.append(next(m.value for m in found.metrics if m.metric == "rq_drift_usage_shift"))
        assert found.metrics[-1].value == 0
    assert fired == []
    assert abs(np.mean(shifts)) < 0.004  # what chance gives has been taken off


def test_intervals_hold_what_they_say(book) -> None:
    """The 99 % interval of the error ratio covers 1 for samples of one distribution."""
    many = draw(40_000, 7)
    sides = [figures(book, part) for part in np.split(many, 200)]
    inside = [low < 1 < high for _, low, high in map(error_ratio, sides[::2], sides[1::2])]
    assert np.mean(inside) >= 0.96
    # The rows fitted on are no yardstick: k-means does better there than on others.
    own = figures(book, draw(1500, 0))
    assert error_ratio(own, figures(book, draw(20_000, 3)))[1] > 1.05


def test_fires_on_what_is_new(book) -> None:
    held_out = draw(400, 1)
    unknown = np.random.default_rng(6).standard_normal((40, 12))
    found = verdict(book, held_out, draw(300, 2, unknown))
    assert len(found.reasons) == 2
    assert found.reasons[0].startswith("the relative error of 300 new items is")
    assert {m.metric: m.value for m in found.metrics}["refit_due"] == 1
    # The same kinds in other shares: the error says nothing, the use does.
    found = verdict(book, held_out, draw(300, 2, CENTRES[::-1]), drift_max_error_ratio=3)
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith("new items use other level-1 codes")
    assert verdict(book, held_out, draw(300, 2), dead=0.3).reasons == [
        "the share of codes without items has risen by 30.0% of a level, limit 10%"
    ]
    # Certain, but no matter: a trifle in very many items.
    trifle = verdict(book, draw(20_000, 3), draw(20_000, 4, noise=0.41))
    ratio = trifle.metrics[0]
    assert 1 < ratio.low < ratio.value < 1.1
    assert trifle.reasons == []


def test_usage_of_disjoint_codes_is_one_bit() -> None:
    a, b = np.array([500, 500, 0, 0]), np.array([0, 0, 400, 600])
    shift, deviation = usage_shift(a, b)
    assert shift == pytest.approx(1, abs=0.01)
    assert deviation < 0.01


def test_how_many_are_held_out() -> None:
    settings = Codes(drift_holdout=0.1)
    assert [rows_to_hold_out(n, settings) for n in (999, 1000, 10**7)] == [0, 100, 20_000]
    assert rows_to_hold_out(10**6, Codes(drift_holdout=0)) == 0


@pytest.mark.spark
def test_stage_says_when_a_refit_is_due(make_world, make_context, monkeypatch, capsys) -> None:
    monkeypatch.setattr(drift, "MIN_ITEMS", 30)

    def items(x, first=0):
        return {f"i{first + n}": v for n, v in enumerate(x)}

    settings = {"rq_levels": [8, 6], "vq_anchors": 5, "vq_k": 2}
    world = make_world(codes=settings | {"drift_holdout": 0.2})
    vectors = items(unit_vectors(300)) | {"i300": np.zeros(11, np.float32)}
    of_fit = world.vectors(vectors)
    fit = world.run("fit-codebooks")
    assert (fit["rows_out"], fit["dropped"]["held_out_for_drift"]) == (240, 60)

    def run(when):
        entry = run_stage(
            stage("assign-codes"), world.config, world.spark, as_of=datetime(2024, 1, when)
        )
        return {
            m["metric"]: m
            for m in entry["metrics"]
            if "drift" in m["metric"] or "refit" in m["metric"]
        }

    def check_now():
        context = make_context("assign-codes", world.config)
        tables = (context.table("item_embeddings"), context.table("semantic_ids"))
        metrics = _check_drift(context, load_codebook(context), *tables)
        return {m.metric: m for m in metrics}, capsys.readouterr().err

    assert run(1) == {}  # nothing is new
    vectors |= items(unit_vectors(80, 1), 301)
    world.vectors(vectors)
    figures, said = check_now()
    assert (figures["refit_due"].value, figures["refit_due"].n) == (0, 80)
    assert "no refit is due: 80 new items" in said
    # The same items, if more were asked for.
    with monkeypatch.context() as patch:
        patch.setattr(drift, "MIN_ITEMS", 81)
        figures, said = check_now()
    assert figures == {}
    assert "80 new items since the fit: too few" in said
    # Items that are all alike, and the files of the fit's version have been vacuumed away.
    odd = np.eye(11, dtype=np.float32)[0] + 0.05 * unit_vectors(150, 4)
    vectors |= items(odd.astype(np.float32), 500)
    world.vectors(vectors)
    for path in world.lake.live_files(of_fit):
        Path(path).unlink()
    figures = run(2)
    assert (figures["refit_due"]["value"], figures["refit_due"]["n"]) == (1, 230)
    said = capsys.readouterr().err
    assert "which the codebook was fitted on, cannot be read any more" in said
    assert "refit is due: " in said
