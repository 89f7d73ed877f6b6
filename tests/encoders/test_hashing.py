from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qarm.encoders.hashing import attribute_buckets, hash_strings
from qarm.errors import InputError

HASH_DRAMA, HASH_EMPTY = 0xA97AB3D582A3716D, 0xEFD01F60BA992926
MAP = pa.map_(pa.string(), pa.list_(pa.string()))
ROWS = [
    [("genre", ["Drama", "War", None]), ("year", None)],
    None,
    [],
    [("genre", ["War"]), ("year", ["1995"])],
    [("genre", ["War", "War"])],
]


def one(text: str) -> int:
    """The definition, a byte at a time."""
    mask = 2**64 - 1
    state = 0xCBF29CE484222325
    for byte in text.encode():
        state = ((state ^ byte) * 0x100000001B3) & mask
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        state = ((state ^ (state >> 33)) * multiplier) & mask
    return state ^ (state >> 33)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=20)))
def test_hashes_follow_the_definition(texts: list[str]) -> None:
    assert hash_strings(pa.array(texts, pa.string())).tolist() == [one(text) for text in texts]


def test_hashes_are_those_of_every_version() -> None:
    """Trained tables depend on them: a change here makes every stored encoder worthless."""
    assert hash_strings(pa.array(["genre=Drama", ""])).tolist() == [HASH_DRAMA, HASH_EMPTY]


def test_hashes_of_a_slice() -> None:
    texts = pa.array(["a", "bb", "", "dddd"])
    assert hash_strings(texts.slice(1, 2)).tolist() == [one("bb"), one("")]


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (2, 5), (1, 4), (1, 3)])
def test_buckets_of_rows_with_nulls_and_repeats(start: int, stop: int) -> None:
    offsets, ids = attribute_buckets(pa.array(ROWS, MAP).slice(start, stop - start), 1000)
    expected = [["genre=Drama", "genre=War"], [], [], ["genre=War", "year=1995"], ["genre=War"]]
    seen = [set(ids[a:b].tolist()) for a, b in pairwise(offsets)]
    assert seen == [{one(v) % 1000 for v in row} for row in expected[start:stop]]


def test_null_row_that_spans_values_counts_as_empty() -> None:
    filled = pa.array([[("a", ["1"])], [("b", ["2"])]], MAP)
    validity = pa.py_buffer(np.packbits([1, 0], bitorder="little").tobytes())
    masked = pa.Array.from_buffers(
        MAP,
        2,
        [validity, filled.buffers()[1]],
        children=[
            pa.StructArray.from_arrays(
                [filled.keys, filled.items], fields=[MAP.key_field, MAP.item_field]
            )
        ],
    )
    offsets, ids = attribute_buckets(masked, 1000)
    assert offsets.tolist() == [0, 1, 1]
    assert ids.tolist() == [one("a=1") % 1000]


def test_other_type_is_refused() -> None:
    with pytest.raises(InputError, match="must be map<string, array<string>>"):
        attribute_buckets(pa.array(["x"]), 10)
