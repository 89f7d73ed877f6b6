"""The codebook: contents, id, rows and file."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest

from qarm.codes.codebook import Codebook, lists_to_matrix, matrix_to_lists
from qarm.codes.fsq import Projection
from qarm.errors import InputError


def book(**changes):
    rng = np.random.default_rng(0)
    parts = {
        "levels": tuple(rng.standard_normal((k, 3)).astype(np.float32) for k in (5, 4)),
        "anchors": rng.standard_normal((7, 3)).astype(np.float32),
        "anchor_items": np.arange(7) * 10,
        "encoder_version": "e1",
        "fit": {"seed": 0, "vq_k": 2},
    }
    return Codebook(**(parts | changes))


def same(a, b):
    assert a.codebook_id == b.codebook_id
    assert a.encoder_version == b.encoder_version
    assert a.fit == b.fit
    for x, y in zip((*a.levels, a.anchors), (*b.levels, b.anchors), strict=True):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(a.anchor_items, b.anchor_items)
    assert (a.last is None) == (b.last is None)
    if a.last is not None:
        np.testing.assert_array_equal(a.last.rows(), b.last.rows())


def fsq_book(**changes):
    """The last level is FSQ of two bits."""
    rng = np.random.default_rng(5)
    projection = Projection(
        rng.standard_normal((2, 3)).astype(np.float32), np.full(3, 0.1, np.float32)
    )
    return book(**({"last": projection} | changes))


def test_rows_and_file_bring_it_back() -> None:
    ours = book()
    rows = ours.to_rows()
    assert rows.num_rows == 16
    shuffled = rows.take(np.random.default_rng(1).permutation(16))
    same(Codebook.from_rows(shuffled), ours)
    same(Codebook.from_bytes(ours.to_bytes()), ours)
    same(pickle.loads(pickle.dumps(ours)), ours)  # noqa: S301  what a broadcast does


def test_one_kind_alone() -> None:
    only_rq = book(anchors=np.empty((0, 0), np.float32), anchor_items=np.empty(0, np.int64))
    only_vq = book(levels=())
    assert (only_rq.kinds, only_vq.kinds, book().kinds) == (["rq"], ["vq"], ["rq", "vq"])
    for each in (only_rq, only_vq):
        same(Codebook.from_rows(each.to_rows()), each)
        same(Codebook.from_bytes(each.to_bytes()), each)
    x = np.ones((2, 3), np.float32)
    assert only_rq.vq(x, 2).shape == (2, 0)
    assert only_vq.rq(x)[0].shape == (2, 0)
    assert only_vq.rq(x)[1].tolist() == [3.0, 3.0]


def test_id_is_a_hash_of_everything() -> None:
    ids = [book().codebook_id, book().codebook_id]
    assert ids[0] == ids[1]
    moved = book().levels[0].copy()
    moved[0, 0] += 1e-6
    others = [
        book(levels=(moved, book().levels[1])),
        book(levels=book().levels[::-1]),
        book(anchor_items=np.arange(7)),
        book(encoder_version="e2"),
        book(fit={"seed": 1, "vq_k": 2}),
    ]
    assert len({ids[0], *(other.codebook_id for other in others)}) == 6


def test_a_given_id_stays() -> None:
    rows = book(given_id="mine-1").to_rows()
    assert rows["codebook_id"].unique().to_pylist() == ["mine-1"]
    assert Codebook.from_rows(rows).codebook_id == "mine-1"
    assert Codebook.from_rows(rows).content_hash == book().content_hash


def test_codes_come_from_both_parts() -> None:
    ours = book()
    x = np.vstack([ours.anchors[3], ours.levels[0][2]])
    codes, left = ours.rq(x)
    assert codes[1, 0] == 2
    assert left.shape == (2,)
    assert ours.vq(x, 2)[0, 0] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": (), "anchors": np.empty((0, 3)), "anchor_items": np.empty(0)}, "is empty"),
        ({"anchors": np.ones((7, 4))}, r"must have one length, seen \[3, 4\]"),
        ({"levels": (np.ones((2, 3)), np.full((2, 3), np.nan))}, "rq level 1: 2 of 2 vectors"),
        ({"levels": (np.ones((2, 3)), np.ones((0, 3)))}, r"rq levels \[1\] have no centroids"),
        ({"anchor_items": np.arange(3)}, "7 anchors, but 3 anchor items"),
    ],
)
def test_bad_contents(changes, message) -> None:
    with pytest.raises(InputError, match=message):
        book(**changes)


def test_bad_rows() -> None:
    rows = book().to_rows()
    kind, level, code = (rows[c].to_numpy(zero_copy_only=False) for c in ("kind", "level", "code"))
    rq = kind == "rq"

    def without(mask):
        return rows.filter(pa.array(~mask))

    with pytest.raises(InputError, match="rq level 0: missing"):
        Codebook.from_rows(without(rq & (level == 0)))
    with pytest.raises(InputError, match=r"codes must be 0\.\.3.*seen 3 where 2 should be"):
        Codebook.from_rows(without(rq & (level == 0) & (code == 2)))
    with pytest.raises(InputError, match="expected one codebook_id, seen"):
        Codebook.from_rows(pa.concat_tables([rows, book(encoder_version="e2").to_rows()]))
    with pytest.raises(InputError, match="has no rows"):
        Codebook.from_rows(rows.slice(0, 0))
    ragged = rows.set_column(7, "vector", pa.array([[1.0, 2.0]] + [[1.0, 2.0, 3.0]] * 15))
    with pytest.raises(InputError, match=r"one length, seen \[2, 3\]"):
        Codebook.from_rows(ragged)


def test_fsq_brings_itself_back_and_codes_by_projection() -> None:
    ours = fsq_book()
    rows = ours.to_rows()
    assert rows.num_rows == 16 + 3  # two columns of W, the origin
    shuffled = rows.take(np.random.default_rng(1).permutation(19))
    same(Codebook.from_rows(shuffled), ours)
    same(Codebook.from_bytes(ours.to_bytes()), ours)
    same(pickle.loads(pickle.dumps(ours)), ours)  # noqa: S301  what a broadcast does
    moved = Projection(ours.last.weights, ours.last.origin + np.float32(1e-6))
    assert len({x.codebook_id for x in (book(), ours, fsq_book(last=moved))}) == 3

    x = np.random.default_rng(2).standard_normal((300, 3)).astype(np.float32)
    codes, left = ours.rq(x)
    first = ((x[:, None] - ours.levels[0]) ** 2).sum(-1).argmin(1)
    rest = (x - ours.levels[0][first]).astype(np.float64)
    bits = (rest - ours.last.origin) @ ours.last.weights.T.astype(np.float64) > 0
    np.testing.assert_array_equal(codes, np.c_[first, bits @ [1, 2]])
    np.testing.assert_allclose(left, ((rest - ours.levels[1][codes[:, 1]]) ** 2).sum(1), rtol=1e-5)
    assert (codes[:, 1] != book().rq(x)[0][:, 1]).any()  # not the nearest row of the table


def test_fsq_of_the_user_and_its_missing_parts() -> None:
    from safetensors.numpy import save

    ours = fsq_book()
    rows = ours.to_rows()
    kind, level, code = (rows[c].to_numpy(zero_copy_only=False) for c in ("kind", "level", "code"))
    fsq = kind == "fsq"

    def without(mask):
        return rows.filter(pa.array(~mask))

    # The published form has no origin.
    plain = Codebook.from_rows(without(fsq & (code == 2)))
    assert plain.last.origin.tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="fsq level 1: codes must be"):
        Codebook.from_rows(without(fsq & (code == 0)))
    with pytest.raises(
        InputError, match=r"4 codes in the last rq level and rows of shape \(1, 3\)"
    ):
        Codebook.from_rows(without(fsq & (code > 0)))
    with pytest.raises(InputError, match="rows of kind fsq belong to the last rq level, 0"):
        Codebook.from_rows(without((kind == "rq") & (level == 1)))
    with pytest.raises(InputError, match="3 codes in the last rq level"):
        Codebook.from_rows(without((kind == "rq") & (level == 1) & (code == 3)))
    with pytest.raises(InputError, match="needs a last rq level of shape"):
        fsq_book(levels=(book().levels[1], book().levels[0]))

    eye = np.eye(2, dtype=np.float32)
    given = {"rq.0": np.zeros((1, 2), np.float32), "rq.1": np.zeros((4, 2), np.float32)}
    mine = Codebook.from_bytes(save(given | {"fsq.projection": eye}))
    x = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]], np.float32)
    assert mine.rq(x)[0].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
    with pytest.raises(InputError, match=r"needs rq\.0, rq\.1"):
        Codebook.from_bytes(save({"fsq.projection": eye, "vq.anchors": eye}), "x.safetensors")


def test_bad_files() -> None:
    from safetensors.numpy import save

    with pytest.raises(InputError, match="no safetensors file"):
        Codebook.from_bytes(b"not one", "x.safetensors")
    gap = save({"rq.0": np.ones((2, 2), np.float32), "rq.2": np.ones((2, 2), np.float32)})
    with pytest.raises(InputError, match=r"without a gap, seen \[0, 2\]"):
        Codebook.from_bytes(gap)
    plain = Codebook.from_bytes(save({"rq.0": np.ones((2, 2), np.float32)}))
    assert plain.encoder_version == ""
    assert plain.sizes == [2]


def test_wrong_dimensions_are_named() -> None:
    with pytest.raises(InputError, match=r"is of 3 dimensions, the vectors have shape \(2, 4\)"):
        book().rq(np.ones((2, 4), np.float32))


def test_lists_and_matrices() -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    lists = matrix_to_lists(matrix)
    assert lists.to_pylist() == matrix.tolist()
    np.testing.assert_array_equal(lists_to_matrix(lists.slice(1, 2), "x"), matrix[1:3])
    chunks = pa.chunked_array([lists.slice(0, 1), lists.slice(1, 3)])
    np.testing.assert_array_equal(lists_to_matrix(chunks, "x"), matrix)
    assert matrix_to_lists(np.empty((2, 0), np.int32)).to_pylist() == [[], []]
    assert lists_to_matrix(matrix_to_lists(np.empty((2, 0), np.int32)), "x").shape == (2, 0)
    with pytest.raises(InputError, match="vector is null"):
        lists_to_matrix(pa.array([[1.0], None]), "x")
    with pytest.raises(InputError, match="nulls in it"):
        lists_to_matrix(pa.array([[1.0], [None]]), "x")


def test_approximate_index_is_built_once_and_does_not_travel() -> None:
    pool = np.random.default_rng(2).standard_normal((300, 3)).astype(np.float32)
    ours = book(anchors=pool, anchor_items=np.arange(300))
    x = np.random.default_rng(3).standard_normal((20, 3)).astype(np.float32)
    assert ours.anchor_index(4) is ours.anchor_index(4)
    np.testing.assert_array_equal(ours.vq(x, 5, probes=10_000), ours.vq(x, 5))
    there = pickle.loads(pickle.dumps(ours))  # noqa: S301
    assert not any(name.startswith("_ready") for name in there.__dict__)
    np.testing.assert_array_equal(there.vq(x, 5, probes=4), ours.vq(x, 5, probes=4))
