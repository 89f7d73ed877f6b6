"""Every format, read the way its reader does."""

from __future__ import annotations

import glob
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from qarm import cli
from qarm.codes.codebook import Codebook
from qarm.config import Config
from qarm.errors import InputError
from qarm.lake.tables import Lake
from schemas import codebooks, items, semantic_ids
from tests.lakes.codes import World

pytestmark = pytest.mark.spark

SIZES = [5, 3, 4]
IDS = ['say "hi"', "Zoë", "a,b", "tab\tnew\nline", "back\\slash", *map(str, range(995))]


@dataclass
class Exported:
    """A lake with codes of 1,000 items, of which numbers 100 to 149 have been used and are gone."""

    config: Path
    idx: np.ndarray
    rq: np.ndarray
    resolved: np.ndarray

    def run(self, capsys, *arguments: str) -> dict[str, Any]:
        """The command; what it prints."""
        assert cli.main(["export-codes", "--config", str(self.config), *arguments]) == 0
        return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def exported(spark, tmp_path_factory) -> Exported:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("export")
    lake = Lake(spark, str(folder / "lake"))
    idx = np.array([i for i in range(1050) if not 100 <= i < 150])
    rq = np.column_stack([rng.integers(0, size, 1000) for size in SIZES])
    resolved = rq.copy()
    resolved[:, 2] = rng.integers(0, 4, 1000)
    world = World(spark, lake, Config.model_validate({"lake": lake.root}))
    levels = tuple(rng.standard_normal((size, 2)).astype("f4") for size in SIZES)
    book = Codebook(levels=levels)
    table = lake.overwrite(codebooks.TABLE, spark.createDataFrame(book.to_rows()), {})
    world.publish("fit-codebooks", table)
    rows = pa.table(
        {
            "item_id": IDS,
            "item_idx": idx,
            "codebook_id": [book.codebook_id] * 1000,
            "encoder_version": ["e"] * 1000,
            "content_hash": ["h"] * 1000,
            "residual_error": np.zeros(1000, "f4"),
            "rq": list(rq.astype("i4")),
            "rq_resolved": list(resolved.astype("i4")),
            "vq": list(np.tile(np.array([1, 2], "i4"), (1000, 1))),
        }
    )
    df = spark.createDataFrame(rows).selectExpr("*", "timestamp '2024-01-01' AS assigned_at")
    table = lake.overwrite(semantic_ids.TABLE, df.repartition(3), {})
    world.publish("assign-codes", table, codebook_id=book.codebook_id)
    config = folder / "c.toml"
    config.write_text(f"lake = {json.dumps(lake.root)}\n")
    return Exported(config, idx, rq, resolved)


def test_parquet(exported, tmp_path, capsys) -> None:
    to = str(tmp_path / "codes")
    printed = exported.run(capsys, "--format", "parquet", "--to", to)
    assert (printed["rows_in"], printed["rows_out"]) == (1000, 1000)
    assert (printed["codes"], printed["levels"]) == ("rq_resolved", SIZES)
    read = pq.read_table(to).sort_by("item_idx")
    assert read["item_id"].to_pylist() == IDS
    found = np.column_stack([read[f"c{n}"].to_numpy() for n in (1, 2, 3)])
    np.testing.assert_array_equal(found, exported.resolved)
    assert read["vq"][0].as_py() == [1, 2]
    # Nothing is overwritten.
    again = ["export-codes", "--config", str(exported.config), "--format", "parquet", "--to", to]
    assert cli.main(again) == InputError.exit_code
    assert "already exists" in capsys.readouterr().err


def test_minionerec(exported, tmp_path, capsys) -> None:
    """data.py: json.load, then for each (item, sids): sids[0] + sids[1] + sids[2]."""
    to = tmp_path / "Shop.index.json"
    printed = exported.run(capsys, "--format", "minionerec", "--to", str(to), "--codes", "rq")
    assert printed["rows_out"] == 1000
    with open(to) as file:
        indices = json.load(file)
    assert list(indices) == IDS  # in the order of item_idx
    found = {item: sids[0] + sids[1] + sids[2] for item, sids in indices.items()}
    expected = [f"<a_{a}><b_{b}><c_{c}>" for a, b, c in exported.rq]
    assert found == dict(zip(IDS, expected, strict=True))
    to = tmp_path / "numbered.index.json"
    exported.run(capsys, "--format", "minionerec", "--to", str(to), "--key", "item_idx")
    assert list(json.loads(to.read_text())) == [str(i) for i in exported.idx]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "Shop.index.json",
        "numbered.index.json",
    ]


def test_grid(exported, tmp_path, capsys) -> None:
    """pre_processing.py: id_map[:num_hierarchies].t()[item ids]; a tensor (levels, items)."""
    to = str(tmp_path / "semantic_ids.pt")
    printed = exported.run(capsys, "--format", "grid", "--to", to, "--codes", "rq")
    assert printed["rows_out"] == 1000
    id_map = torch.load(to, weights_only=True)
    assert (id_map.dtype, tuple(id_map.shape)) == (torch.int64, (4, 1050))
    sparse = torch.from_numpy(exported.idx[[3, 200, 999]])
    flat = id_map[:3].t()[sparse].view(-1)
    np.testing.assert_array_equal(flat.numpy(), exported.rq[[3, 200, 999]].ravel())
    # With the last digit codes are unique, and no item is where a number is not in use.
    assert (id_map[:, 100:150] == -1).all()
    whole = id_map.t()[torch.from_numpy(exported.idx)]
    assert len(torch.unique(whole, dim=0)) == 1000
    code = np.unique(exported.rq, axis=0, return_inverse=True)[1].ravel()
    for one in range(5):
        digits = id_map[3].numpy()[exported.idx[code == one]]
        np.testing.assert_array_equal(digits, np.arange(len(digits)))
    names = pq.read_table(f"{to}.items").sort_by("item_idx")
    assert names["item_id"].to_pylist() == IDS
    assert not glob.glob(f"{to}.parts*")
    assert not glob.glob(f"{to}.tmp*")


def bundle(root: str, generation: str) -> tuple[dict[str, Any], dict[str, list], dict[str, list]]:
    """A generation as tzrec.utils.sid.bundle finds it: the manifest, then part-*.parquet."""
    manifest = json.loads(Path(root, generation, "manifest.json").read_text())
    required = ("bundle_uuid", "codebook", "capacity", "max_observed_items_per_sid", "artifacts")
    assert all(key in manifest for key in required)
    tables = []
    for name in ("item_to_sid", "sid_to_items"):
        entry = manifest["artifacts"][name]
        assert set(entry) == {"save_type", "rows", "location"}
        parts = sorted(glob.glob(f"{root}/{generation}/{name}/part-*.parquet"))
        assert entry["location"] == f"{root}/{generation}/{name}"
        table = pa.concat_tables([pq.read_table(part) for part in parts])
        assert table.num_rows == entry["rows"]
        tables.append(table.to_pydict())
    return manifest, *tables


def test_torcheasyrec(exported, tmp_path, capsys) -> None:
    root = str(tmp_path / "bundle")
    printed = exported.run(capsys, "--format", "torcheasyrec", "--to", root)
    generation = Path(printed["uri"]).name
    manifest, item_to_sid, sid_to_items = bundle(root, generation)
    assert manifest["codebook"] == SIZES
    assert manifest["item_id_type"] == "string"
    assert len(item_to_sid["item_id"]) == printed["rows_out"] == 1000
    by_item = {
        item: (tuple(origin), tuple(code), tuple(offset), index)
        for item, origin, code, offset, index in zip(*item_to_sid.values(), strict=True)
    }
    for item, before, after in zip(IDS, exported.rq, exported.resolved, strict=True):
        origin, code, offset, _ = by_item[item]
        assert (origin, code) == (tuple(before), tuple(after))
        assert offset == (after[0], after[1] + 5, after[2] + 8)
    # The reader's own checks: ascending, one row a code, index k is the k-th item of the code.
    codes = [tuple(code) for code in sid_to_items["codebook"]]
    assert codes == sorted(set(codes))
    items_of = dict(zip(codes, sid_to_items["itemids"], strict=True))
    slots = defaultdict(list)
    for item, (_, code, _, index) in by_item.items():
        assert items_of[code][index - 1] == item
        slots[code].append(index)
    assert all(sorted(s) == list(range(1, len(s) + 1)) for s in slots.values())
    assert manifest["max_observed_items_per_sid"] == max(map(len, slots.values()))


def test_integer_ids_stay_integers_and_unresolved_codes_are_said(spark, tmp_path, capsys) -> None:
    """The user's own codes: no codebook, no resolver; the catalogue's ids are integers."""
    lake = Lake(spark, str(tmp_path / "lake"))
    world = World(spark, lake, Config.model_validate({"lake": lake.root}))
    df = spark.createDataFrame(
        [(str(7 * i), i, "h", "bigint") for i in range(4)],
        "item_id string, item_idx bigint, content_hash string, source_type string",
    )
    world.publish("ingest", lake.overwrite(items.TABLE, df, {}))
    mine = str(tmp_path / "mine.parquet")
    codes = pa.array([[0, 1], [0, 1], [2, 0], [1, 1]], pa.list_(pa.int32()))
    pq.write_table(pa.table({"item_id": [0, 7, 14, 21], "rq": codes}), mine)
    config = tmp_path / "c.toml"
    config.write_text(
        f"lake = {json.dumps(lake.root)}\n[external.tables]\nsemantic_ids = {json.dumps(mine)}\n"
    )
    own = Exported(config, np.arange(4), np.zeros(0), np.zeros(0))
    printed = own.run(capsys, "--format", "torcheasyrec", "--to", str(tmp_path / "b"))
    assert (printed["codes"], printed["levels"]) == ("rq", [3, 2])
    manifest, item_to_sid, sid_to_items = bundle(str(tmp_path / "b"), Path(printed["uri"]).name)
    assert manifest["item_id_type"] == "int64"
    assert sorted(item_to_sid["item_id"]) == [0, 7, 14, 21]
    assert sid_to_items["itemids"] == [[0, 7], [21], [14]]
    command = ["export-codes", "--config", str(config), "--format", "grid", "--to"]
    asked = [*command, str(tmp_path / "x.pt"), "--codes", "rq_resolved"]
    assert cli.main(asked) == InputError.exit_code
    assert "4 of 4 items have none" in capsys.readouterr().err
