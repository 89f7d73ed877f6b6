"""Tables that several stages of codes read, from a context with literal tables. No Spark."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from qarm.codes.codebook import Codebook
from qarm.errors import InputError
from qarm.pipeline import code_inputs


class Rows:
    """A table of one encoder column, or of Arrow rows."""

    def __init__(self, counts: dict[str, int] | None = None, arrow: pa.Table | None = None) -> None:
        self.counts, self.arrow = counts or {}, arrow

    def groupBy(self, column: str) -> Rows:
        assert column == "encoder_version"
        return self

    def count(self) -> Rows:
        return self

    def collect(self) -> list[tuple[str, int]]:
        return list(self.counts.items())

    def toArrow(self) -> pa.Table:
        assert self.arrow is not None
        return self.arrow


class Tables:
    """The part of the context that is used here."""

    stage = "fit-codebooks"

    def __init__(self, external: dict[str, str] | None = None, **tables: Any) -> None:
        self.tables = tables
        self.config = SimpleNamespace(external=SimpleNamespace(tables=external or {}))

    def table(self, name: str) -> Any:
        return self.tables[name]

    def find(self, name: str) -> Any:
        return self.tables.get(name)

    def is_external(self, name: str) -> bool:
        return name in self.config.external.tables

    def facts(self, stage: str) -> dict[str, Any]:
        assert stage == "ingest"
        return {}


def test_rows_by_encoder() -> None:
    context = Tables(item_embeddings=Rows({"b": 2, "a": 5}))
    assert code_inputs.encoder_versions(context) == {"a": 5, "b": 2}


def test_no_vectors_names_the_stage() -> None:
    with pytest.raises(InputError, match="stage fit-codebooks: item_embeddings has no rows"):
        code_inputs.encoder_versions(Tables(item_embeddings=Rows()))


def test_vectors_of_several_encoders_are_refused() -> None:
    context = Tables(item_embeddings=Rows({"old": 3, "new": 4}))
    with pytest.raises(InputError, match=r"vectors of 2 encoders: \{'new': 4, 'old': 3\}"):
        code_inputs.vectors_to_fit_on(context)


def test_without_a_log_there_are_no_events() -> None:
    assert code_inputs.event_splits(Tables()) is None
    assert code_inputs.training_events(Tables()) is None


def test_events_of_the_training_parts_only(monkeypatch) -> None:
    monkeypatch.setattr(code_inputs, "count_events", lambda splits, parts: (splits, parts))
    context = Tables(event_splits="the splits")
    assert code_inputs.event_splits(context) == "the splits"
    assert code_inputs.training_events(context) == ("the splits", ["mine", "train"])


def book() -> Codebook:
    rng = np.random.default_rng(0)
    return Codebook(levels=tuple(rng.standard_normal((n, 3)).astype("f4") for n in (4, 2)))


def test_a_codebook_of_the_users_own() -> None:
    rows = book().to_rows()
    shuffled = rows.take(np.random.default_rng(1).permutation(rows.num_rows))
    context = Tables({"codebooks": "/own/books"}, codebooks=Rows(arrow=shuffled))
    read = code_inputs.load_codebook(context)
    assert read.codebook_id == book().codebook_id
    for level, expected in zip(read.levels, book().levels, strict=True):
        np.testing.assert_array_equal(level, expected)


def test_errors_of_a_codebook_name_its_file() -> None:
    context = Tables(
        {"codebooks": "/own/books"}, codebooks=Rows(arrow=book().to_rows().slice(0, 0))
    )
    with pytest.raises(InputError, match=r"^/own/books: the codebook has no rows"):
        code_inputs.load_codebook(context)
