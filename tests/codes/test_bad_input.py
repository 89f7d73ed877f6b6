"""Somebody who has nothing but vectors, and perhaps a codebook: what goes in, what is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save, save_file

from qarm.codes.codebook import Codebook
from qarm.config import Config
from qarm.errors import InputError
from qarm.evaluation.code_use import zero_vectors
from qarm.lake import manifest
from qarm.lake.tables import Lake, TableRef
from qarm.pipeline import own_tables
from tests.lakes.codes import DIMENSIONS, SMALL, World, unit_vectors

pytestmark = pytest.mark.spark

X = unit_vectors(30)
BOOK = Codebook(levels=(X[:6], X[6:10] / 4), encoder_version="e1", given_id="mine")


def parquet(vectors, ids=None, **columns):
    """Suffix, and what writes (item_id, vector) to a path."""
    lists = pa.array([v.tolist() for v in vectors], pa.list_(pa.float32()))
    ids = pa.array([f"i{n}" for n in range(len(vectors))] if ids is None else ids, pa.string())
    table = pa.table({"item_id": ids, "vector": lists, **columns})
    return ".parquet", lambda path: pq.write_table(table, path)


def book_rows(rows):
    return ".parquet", lambda path: pq.write_table(rows, path)


def tensors(tensors, **metadata):
    return ".safetensors", lambda path: save_file(tensors, path, metadata or None)


def raw(content):
    return ".safetensors", lambda path: path.write_bytes(content)


def with_nan(x):
    x = x.copy()
    x[4, 2] = np.nan
    return x


VECTORS = {
    "empty": (
        parquet(X[:0]),
        "item_embeddings has no rows; expected one per item of the catalogue",
    ),
    "nan": (parquet(with_nan(X)), "column vector has 1 vectors with NaN or infinity"),
    "null": (parquet(X[:5], vector=pa.array([None, *X[1:5].tolist()])), "and 1 nulls among 5"),
    "lengths": (parquet([*X[:29], X[29, :7]]), "must have one length, seen 7 to 11"),
    "all zero": (parquet(X * 0), "only 0 items are in the training part and have content"),
    "twice": (parquet(X, [f"i{n % 29}" for n in range(30)]), "one row per.*'i0'"),
    "other tensor": (
        tensors({"vectors": X}),
        r"expected a tensor named vector of shape.*seen \{'vectors': \('F32', \(30, 11\)\)\}",
    ),
    "other ids": (
        tensors({"vector": X, "item_id": np.arange(29)}),
        r"expected a tensor item_id of shape \(30,\).*seen I64 \(29,\)",
    ),
    "cut": (raw(save({"vector": X})[:-40]), "the file ends within tensor vector"),
    "tensors with nan": (tensors({"vector": with_nan(X)}), "1 vectors with NaN or infinity"),
    "tensor ids twice": (
        tensors({"vector": X, "item_id": np.arange(30) // 2}),
        "expected one row per",
    ),
}
ROWS = {
    "no rows": (BOOK.to_rows().slice(0, 0), "x.parquet: the codebook has no rows"),
    "two": (
        pa.concat_tables([BOOK.to_rows(), Codebook(levels=(X[:3],), given_id="b").to_rows()]),
        r"x.parquet: expected one codebook_id, seen \['b', 'mine'\]",
    ),
    "no level 0": (BOOK.to_rows().slice(6), "x.parquet, rq level 0: missing"),
}
CODEBOOKS = {
    "no code 3": (
        book_rows(pa.concat_tables([BOOK.to_rows().slice(0, 3), BOOK.to_rows().slice(4)])),
        "codes must be 0..4, each once; seen 4 where 3 should be",
    ),
    "other dimensions": (
        book_rows(Codebook(levels=(X[:6, :8],), given_id="short").to_rows()),
        r"codebook short is of 8 dimensions, the vectors have shape \(\d+, 11\)",
    ),
    "other encoder": (
        book_rows(Codebook(levels=(X[:6],), encoder_version="e2").to_rows()),
        r"is of encoder e2, item_embeddings has vectors of \['e1'\]",
    ),
    "file of another encoder": (
        tensors({"rq.0": X[:6]}, encoder_version="e2"),
        r"is of encoder e2, item_embeddings has vectors of \['e1'\]",
    ),
    "file without level 1": (
        tensors({"rq.0": X[:6], "rq.2": X[:6]}),
        r"rq levels must be 0, 1, 2, ... without a gap, seen \[0, 2\]",
    ),
    "file of two dimensions": (tensors({"rq.0": X[:6], "rq.1": X[:6, :5]}), "must have one length"),
    "no file of tensors": (raw(b"not one"), "is no safetensors file"),
}


def path_of(source, folder, name):
    suffix, write = source
    path = folder / f"{name}{suffix}"
    write(path)
    return str(path)


@pytest.fixture(scope="module")
def lake_with_vectors(spark, tmp_path_factory) -> Lake:
    """Vectors of the pipeline's own; nothing that is refused is published beside them."""
    lake = Lake(spark, str(tmp_path_factory.mktemp("vectors")))
    world = World(spark, lake, Config.model_validate({"lake": lake.root}))
    world.vectors({f"i{n}": v for n, v in enumerate(X)})
    return lake


@pytest.fixture
def bring(spark, lake_with_vectors):
    """The world whose user brings a table, written by ``path_of``."""

    def make(name: str, path: str) -> World:
        tree = {
            "lake": lake_with_vectors.root,
            "codes": SMALL,
            "external": {"tables": {name: path}},
        }
        return World(spark, lake_with_vectors, Config.model_validate(tree))

    return make


@pytest.mark.parametrize("case", VECTORS)
def test_vectors_that_are_refused(bring, tmp_path, case) -> None:
    source, message = VECTORS[case]
    world = bring("item_embeddings", path_of(source, tmp_path, "x"))
    with pytest.raises(InputError, match=message):
        world.run("fit-codebooks")
    assert manifest.find(world.lake.root, "fit-codebooks") is None


@pytest.mark.parametrize("case", CODEBOOKS)
def test_codebooks_that_are_refused(bring, tmp_path, case) -> None:
    source, message = CODEBOOKS[case]
    world = bring("codebooks", path_of(source, tmp_path, "book"))
    with pytest.raises(InputError, match=message):
        world.run("assign-codes")
    assert manifest.find(world.lake.root, "assign-codes") is None


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_are_no_codebook(spark, case) -> None:
    """As the stage reads them, once they are copied."""
    rows, message = ROWS[case]
    with pytest.raises(InputError, match=message):
        Codebook.from_rows(spark.createDataFrame(rows).toArrow(), "x.parquet")


def test_files_of_tensors_go_in(make_world, tmp_path) -> None:
    """Vectors and codebook as safetensors, without any other stage; ids are what the file says."""
    x = np.vstack([X, np.zeros((1, DIMENSIONS), np.float32)]).astype(np.float16)
    ids = np.arange(31, dtype=np.int64) * 10
    vectors, book = tmp_path / "x.safetensors", tmp_path / "book.safetensors"
    save_file({"vector": x, "item_id": ids}, vectors, {"encoder_version": "e1"})
    mine = Codebook(
        levels=(X[:6], X[6:10] / 4),
        anchors=X[:9],
        anchor_items=np.full(9, -1),
        encoder_version="e1",
    )
    book.write_bytes(mine.to_bytes())
    tables = {"item_embeddings": str(vectors), "codebooks": str(book)}
    world = make_world(external={"tables": tables})
    entry = world.run("assign-codes")
    assert entry["facts"]["codebook_id"] == mine.codebook_id
    found = {r["item_id"]: r for r in world.table("semantic_ids").collect()}
    rq, vq = mine.rq(x.astype(np.float32))[0], mine.vq(x.astype(np.float32), SMALL["vq_k"])
    assert sorted(found, key=int) == [str(i) for i in ids]
    for number, item in enumerate(ids):
        assert found[str(item)]["rq"] == rq[number].tolist()
        assert found[str(item)]["vq"] == vq[number].tolist()
    copied = TableRef(**manifest.find(world.lake.root, "assign-codes").inputs["item_embeddings"])
    zero = zero_vectors(world.lake.read(copied))  # as stage quality counts them
    assert (zero.value, zero.n) == (1, 31)


def test_delta_vectors_go_in(bring, make_context, tmp_path, spark) -> None:
    path = str(tmp_path / "delta")
    given = {f"i{n}": v.tolist() for n, v in enumerate(X)}
    df = spark.createDataFrame(list(given.items()), "item_id string, vector array<float>")
    df.write.format("delta").save(path)
    context = make_context("fit-codebooks", bring("item_embeddings", path).config)
    own_tables.adopt(context)
    copied = context.table("item_embeddings").collect()
    assert len(copied) == 30
    assert {row["item_id"]: row["vector"] for row in copied} == given


def test_vectors_without_ids_are_numbered(make_world, tmp_path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"vector": np.vstack([X, 0 * X[:2]])}, file)
    settings = {"rq_levels": [6, 4], "vq_anchors": 5, "vq_k": 2}
    world = make_world(codes=settings, external={"tables": {"item_embeddings": str(file)}})
    entry = world.run("fit-codebooks")
    assert (entry["rows_in"], entry["rows_out"], entry["dropped"]["zero_vector"]) == (32, 30, 2)
    read = TableRef(**manifest.find(world.lake.root, "fit-codebooks").inputs["item_embeddings"])
    ids = {r["item_id"] for r in world.lake.read(read).select("item_id").collect()}
    assert ids == {str(n) for n in range(32)}
