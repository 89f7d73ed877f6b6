"""Kinds of a last level: a throw-away kind needs no more than its own record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from qarm.codes.codebook import Codebook
from qarm.codes.kinds import KINDS, kmeans_sizes, last_kind
from qarm.codes.level_kind import LevelFit, LevelKind, rest_after
from qarm.codes.residual import fit_residual
from qarm.config.codes import Codes
from qarm.errors import ConfigError, InputError
from tests.lakes.codes import unit_vectors


@dataclass(frozen=True, eq=False)
class LargestAxis:
    """The code is the dimension in which the rest is longest."""

    kind: ClassVar[str] = "axis"
    axes: np.ndarray

    def encode(self, rest):
        return np.abs(rest @ self.axes.T).argmax(axis=1).astype(np.int32)

    def rows(self):
        return self.axes

    def parts(self):
        return [self.axes]

    def check(self, levels: Sequence[np.ndarray]) -> None:
        if len(levels[-1]) != len(self.axes):
            raise InputError("one row per axis")


def fit(rest, prefix, codes, *, seed=0, keep=None):
    coder = keep or LargestAxis(np.eye(codes, rest.shape[1], dtype=np.float32))
    found = coder.encode(rest)
    table = np.stack([rest[found == c].mean(axis=0) for c in range(codes)]).astype(np.float32)
    error = ((rest - table[found]) ** 2).sum(axis=1).mean()
    return LevelFit(coder, table, found, float(error))


AXIS = LevelKind(
    name="axis",
    check_sizes=lambda sizes: None,
    fit=fit,
    from_rows=lambda rows, codes: LargestAxis(np.asarray(rows, np.float32)),
    array="axis.directions",
)


@pytest.fixture
def book(monkeypatch):
    monkeypatch.setitem(KINDS, "axis", AXIS)
    config = Codes(rq_levels=[9, 4], rq_last="axis")
    x = unit_vectors(200)
    kind = last_kind(config)
    assert kind is AXIS
    fitted = fit_residual(x, kmeans_sizes(config), iterations=5)
    last = kind.fit(rest_after(x, fitted.codes, fitted.levels), fitted.codes, 4)
    return Codebook(levels=(*fitted.levels, last.table), last=last.coder), x, fitted, last


def test_a_new_kind_assigns_the_last_level(book) -> None:
    codebook, x, fitted, last = book
    codes, left = codebook.rq(x)
    np.testing.assert_array_equal(codes, np.c_[fitted.codes, last.codes])
    assert left.mean() == pytest.approx(last.error, rel=1e-5)


def test_a_new_kind_survives_table_and_file(book) -> None:
    codebook, x, *_ = book
    for again in (Codebook.from_rows(codebook.to_rows()), Codebook.from_bytes(codebook.to_bytes())):
        assert again.codebook_id == codebook.codebook_id
        np.testing.assert_array_equal(again.rq(x)[0], codebook.rq(x)[0])
    assert set(codebook.to_rows()["kind"].to_pylist()) == {"rq", "axis"}


@pytest.mark.spark
def test_the_stage_fits_and_publishes_a_new_kind(make_world, monkeypatch) -> None:
    """Tasks get the coder with the codebook; they could not import this test's module."""
    monkeypatch.setitem(KINDS, "axis", AXIS)
    world = make_world()
    vectors = {f"i{n}": v for n, v in enumerate(unit_vectors(60))}
    world.vectors(vectors)
    fit = world.run("fit-codebooks", rq_levels=[9, 4], rq_last="axis")
    errors = [m["value"] for m in fit["metrics"] if m["metric"] == "rq_reconstruction_error_l2"]
    codebook = Codebook.from_rows(world.table("codebooks").toArrow())
    assert isinstance(codebook.last, LargestAxis)
    left = codebook.rq(np.stack(list(vectors.values())))[1]
    assert errors == [pytest.approx(left.mean(), rel=1e-5)]


def test_unknown_kinds_are_refused(book, monkeypatch) -> None:
    codebook = book[0]
    rows, content = codebook.to_rows(), codebook.to_bytes()
    monkeypatch.delitem(KINDS, "axis")
    with pytest.raises(InputError, match="kind 'axis' is not known; expected one of rq, vq, fsq"):
        Codebook.from_rows(rows)
    with pytest.raises(InputError, match="kind 'axis' is not known; expected one of fsq"):
        Codebook.from_bytes(content)
    with pytest.raises(ConfigError, match="'axis' is not known; choose one of kmeans, fsq"):
        last_kind(Codes(rq_last="axis"))
