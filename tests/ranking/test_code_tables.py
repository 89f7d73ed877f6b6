"""Rows of prefixes, and how code tables start."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes.codebook import Codebook
from qarm.errors import ConfigError, InputError
from qarm.ranking import code_tables
from qarm.ranking.code_tables import RqRows, TableStart
from tests.ranking.batches import CONTENT_START, SIZES, lookup_of


def test_prefix_rows(table):
    _, numbers = lookup_of(table)
    rows = numbers.rows(table.rq)
    for level in range(3):
        prefixes = [tuple(code[: level + 1]) for code in table.rq[1:]]
        of = dict(zip(prefixes, rows[1:, level], strict=True))
        assert len(set(of.values())) == len(of)  # one row a prefix
        assert [of[p] for p in prefixes] == rows[1:, level].tolist()
    assert rows.max() == numbers.count - 1
    assert not rows[0].any()
    # A prefix that no item has: known as far as it is known.
    new = table.rq[1].copy()
    taken = {tuple(code) for code in table.rq[1:]}
    new[2] = next(c for c in range(3) if (*new[:2], c) not in taken)
    assert numbers.rows(new[None])[0].tolist() == [rows[1, 0], rows[1, 1], 0]


def test_prefixes_beyond_the_table_are_hashed_into_it(table):
    numbers = RqRows.of(table, SIZES, 16)
    rows = numbers.rows(table.rq)
    assert numbers.count == 16
    assert rows[1:].min() >= 1
    assert rows.max() <= 15


@pytest.mark.parametrize("kind", ["random", "shuffled"])
def test_controls_keep_the_norms_and_lose_the_places(table, book, kind):
    lookup, numbers = lookup_of(table)
    arguments = (table, lookup.rq_rows, numbers.count, book.levels)
    content = code_tables.rq_start(*arguments, CONTENT_START)
    control = code_tables.rq_start(*arguments, TableStart(kind, 1))
    norms = [np.sort(np.linalg.norm(w, axis=1)) for w in (content, control)]
    np.testing.assert_allclose(*norms, rtol=1e-5)
    assert not control[0].any()
    assert np.abs(control - content).max() > 0.5
    same = (control[:, None] == content[None]).all(2).any(1).mean()
    assert same == (1.0 if kind == "shuffled" else pytest.approx(0, abs=0.2))


def test_codebook_of_other_codes_is_refused(table, book):
    other = Codebook(levels=book.levels[:2], anchors=book.anchors[:3], anchor_items=np.arange(3))
    with pytest.raises(InputError, match=r"codes have 3 levels, codebook .* has 2"):
        code_tables.check(table, other, {"rq"}, "content")
    with pytest.raises(InputError, match="numbered up to 11"):
        code_tables.check(table, other, {"vq"}, "content")
    with pytest.raises(ConfigError, match=r"external\.tables"):
        code_tables.check(table, None, {"vq"}, "content")
    with pytest.raises(ConfigError, match="has no anchors"):
        code_tables.check(table, Codebook(levels=book.levels), {"vq"}, "content")
