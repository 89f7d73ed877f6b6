"""The public face of the library: what ``import qarm`` offers, used on arrays and frames."""

from __future__ import annotations

import ast
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import qarm
from qarm.lake import manifest
from qarm.pipeline import code_version
from schemas import TABLES


def test_importing_qarm_imports_nothing_heavy() -> None:
    code = (
        "import sys, qarm; qarm.QarmError; "
        "print({'pyspark', 'torch', 'numpy', 'numba', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", qarm.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(qarm, name)
    if name != "__version__":
        assert callable(value)
        assert (value.__doc__ or "").strip()
        assert f"``{name}``" in (qarm.__doc__ or "")


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(qarm.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("qarm.")
        for alias in node.names
    }
    assert imports == qarm._HOMES
    assert {*imports, "assign_anchors", "assign_residual", "__version__"} == set(qarm.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="mine_swings"):
        _ = qarm.mine_swings


def test_the_face_is_of_no_stage() -> None:
    assert "qarm" not in code_version.imported_modules("qarm.stages.ingest")


def test_codes_of_arrays() -> None:
    x = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    fitted = qarm.fit_residual(x, [8, 4], iterations=5)
    book = qarm.Codebook(
        levels=tuple(fitted.levels), anchors=x[:20], anchor_items=np.arange(20, dtype=np.int64)
    )
    codes, rest = qarm.assign_residual(x, book)
    assert codes.shape == (200, 2)
    assert (codes.max(axis=0) < [8, 4]).all()
    quality = qarm.evaluate_reconstruction(x, codes, list(book.levels))
    assert quality.error[-1] == pytest.approx(rest.sum(), rel=1e-4)
    assert qarm.evaluate_usage(np.bincount(codes[:, 0], minlength=8)).used == 8
    assert qarm.evaluate_collisions(codes).items == 200
    anchors = qarm.assign_anchors(x[:20], book, 3)
    assert anchors[:, 0].tolist() == list(range(20))  # each is its own nearest anchor


@pytest.mark.spark
def test_pairs_of_a_frame(spark) -> None:
    from qarm.config.pairs import Swing

    start = datetime(2024, 1, 1)
    rows = [
        (user, item, start + timedelta(minutes=item), item, 1.0)
        for user in range(3)
        for item in range(4)
        if (user, item) != (2, 3)
    ]
    events = spark.createDataFrame(
        rows, "user_idx long, item_idx long, ts timestamp, seq long, weight double"
    )
    pairs = qarm.mine_swing(events, Swing(min_items_per_user=2), 0).pairs.collect()
    assert {(row["trigger"], row["target"]) for row in pairs} >= {(0, 1), (1, 0), (0, 3)}
    assert {row["support"] for row in pairs if row["target"] == 3} == {2}


@pytest.mark.spark
def test_a_lake_shows_what_is_published(spark, lake) -> None:
    found = qarm.open_lake(spark, lake.root)
    assert found.refs() == {}
    with pytest.raises(qarm.QarmError, match=r"no stage has published users .* published: nothing"):
        found.table("users")
    rows = spark.sql("SELECT 'u' user_id, 0L user_idx, timestamp'2020-01-01' first_seen")
    rows = rows.selectExpr("*", "'string' source_type")
    ref = lake.overwrite(TABLES["users"], rows, {})
    artifacts = {"encoder": {"uri": "there", "version": "1"}}
    manifest.publish(
        lake.root,
        manifest.Manifest("ingest", "r", "c", "v", {}, {"users": ref.as_dict()}, artifacts),
    )
    lake.overwrite(TABLES["users"], rows.where("false"), {})  # committed, not published
    assert found.refs() == {"users": ref}
    assert [row["user_id"] for row in found.table("users").collect()] == ["u"]
    assert found.artifact("ingest", "encoder")["uri"] == "there"
    with pytest.raises(qarm.QarmError, match="stage ingest has not published codebook"):
        found.artifact("ingest", "codebook")
