"""Attribute values as rows of a table of fixed size: a stable hash of "field=value".

64-bit FNV-1a (Fowler, Noll and Vo) over the UTF-8 bytes, then the finaliser of MurmurHash3, which
makes the low bits uniform too. The hash depends on the bytes only: trainer and executors map a
value to the same row, in this version and in later ones.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qarm.errors import InputError

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)


def hash_strings(strings: pa.Array) -> NDArray[np.uint64]:
    """64-bit hashes of a string array without nulls, (n,).

    One numpy step per byte position. Strings are sorted by length, longest first, so that those
    that have a byte at a position are the head of the array.
    """
    strings = strings.cast(pa.large_binary())
    offsets = np.frombuffer(strings.buffers()[1], dtype=np.int64)
    offsets = offsets[strings.offset : strings.offset + len(strings) + 1]
    content = strings.buffers()[2]
    data = np.frombuffer(content, dtype=np.uint8) if content is not None else np.zeros(0, np.uint8)
    lengths = np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")
    starts, falling = offsets[:-1][order], lengths[order]
    state = np.full(len(order), _FNV_OFFSET, dtype=np.uint64)
    longest = int(falling[0]) if len(falling) else 0
    # active[p]: number of strings longer than p
    active = np.searchsorted(-falling, -np.arange(longest), side="left")
    for position in range(longest):
        n = active[position]
        state[:n] = (state[:n] ^ data[starts[:n] + position]) * _FNV_PRIME
    for multiplier in (_MIX_1, _MIX_2):
        state = (state ^ (state >> _SHIFT)) * multiplier
    hashes = np.empty_like(state)
    hashes[order] = state ^ (state >> _SHIFT)
    return hashes


def attribute_buckets(
    attributes: pa.Array, buckets: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Buckets of each row's attribute values.

    Args:
        attributes: (n,) of type map<string, list<string>>: field -> values. Null rows, lists and
            values are ignored.
        buckets: rows of the table.

    Returns:
        ``offsets`` (n + 1,) and ``ids``: row i has the distinct ids
        ``ids[offsets[i]:offsets[i + 1]]``.

    Raises:
        InputError: the column has another type.
    """
    if not pa.types.is_map(attributes.type):
        raise InputError(f"attributes must be map<string, array<string>>, got {attributes.type}")
    rows, fields, lists = _entries(attributes)
    entries, values = _values(lists)
    filled = values.is_valid().to_numpy(zero_copy_only=False)
    entries, values = entries[filled], values.filter(pa.array(filled))
    names = pc.binary_join_element_wise(
        fields.take(pa.array(entries)).cast(pa.string()), values.cast(pa.string()), "="
    )
    ids = (hash_strings(names) % np.uint64(buckets)).astype(np.int64)
    pairs = np.unique(rows[entries] * buckets + ids)
    counts = np.bincount(pairs // buckets, minlength=len(attributes))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return offsets, (pairs % buckets).astype(np.int32)


def _entries(attributes: pa.Array) -> tuple[NDArray[np.int64], pa.Array, pa.Array]:
    """Row, key and list of each entry of the maps."""
    rows, child = _parents(attributes)
    return rows, attributes.keys.take(pa.array(child)), attributes.items.take(pa.array(child))


def _values(lists: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """Each value of the lists, with the number of its list."""
    rows, child = _parents(lists)
    return rows, lists.values.take(pa.array(child))


def _parents(nested: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and place of each child of a list or map array; children of null rows are left out."""
    offsets = nested.offsets.to_numpy().astype(np.int64)
    valid = nested.is_valid().to_numpy(zero_copy_only=False)
    counts = np.where(valid, np.diff(offsets), 0)
    rows = np.repeat(np.arange(len(nested), dtype=np.int64), counts)
    before = np.cumsum(counts) - counts
    places = np.arange(len(rows), dtype=np.int64) - before[rows] + offsets[:-1][rows]
    return rows, places
