"""The whole stage on small logs with every fault in them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from qarm.config import Config
from qarm.errors import ConfigError, GateError, InputError
from qarm.ingest.times import parse_iso
from qarm.lake.tables import Lake
from qarm.ledger import StageResult
from qarm.pipeline.context import Context
from qarm.stages import ingest

pytestmark = pytest.mark.spark

LOG = """\
user,item,event,ms,click,bought,fold
u1,a,show,1700000000000,1,0,tr
u1,b,show,1700000001000,0,0,tr
u1,b,show,1700000001000,0,0,tr
u1,c,show,1700000002000,1,1,va
u2,a,show,1700000003000,0,0,tr
u2,a,show,1700000003000,1,0,tr
u2,c,show,1700000004000,1,0,te
,c,show,1700000004000,1,0,te
u3,,show,1700000004000,1,0,te
u3,a,show,yesterday,1,0,te
u3,a,show,4000000000000,1,0,te
u3,zz,show,1700000005000,1,0,te
u3,a,junk,1700000005000,1,0,te
u3,007,show,1700000006000,0,,te
"""


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def jpeg() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 10, 10)).save(out, "JPEG")
    return out.getvalue()


def make_sources(tmp_path: Path) -> dict[str, Any]:
    """A labelled CSV of impressions with a split of its own; JSON lines with image paths."""
    pictures = tmp_path / "my pictures"
    pictures.mkdir(parents=True)
    (pictures / "a.jpg").write_bytes(jpeg())
    (pictures / "b.jpg").write_bytes(jpeg()[:200])
    catalog = [
        {
            "id": "a",
            "name": "Red lamp",
            "about": ["glass", "tall"],
            "kind": "home; light",
            "price": 3.5,
            "picture": "my pictures/a.jpg",
            "sound": [0.5, 1.0],
        },
        {
            "id": "b",
            "name": "Blue lamp.",
            "about": ["wood"],
            "kind": "home",
            "price": None,
            "picture": "my pictures/b.jpg",
            "sound": [0.25, "NaN"],
        },
        {"id": "c", "name": " ", "kind": "", "price": 99, "picture": "my pictures/none.jpg"},
        {"id": "007", "name": "Spy kit", "price": 1},
        {"id": "a", "name": "Red lamp again"},
        {"id": None, "name": "nobody"},
    ]
    items = write(tmp_path / "items.jsonl", "\n".join(json.dumps(row) for row in catalog))
    return {
        "log": {
            "path": [write(tmp_path / "log.csv", LOG)],
            "user": "user",
            "item": "item",
            "event": "event",
            "time": "ms",
            "time_format": "epoch_ms",
            "rows": "event = 'show'",
            "labels": {"positive": "click = 1", "bought": "bought = 1"},
            "split": "fold",
            "as_of": "2024-01-01T00:00:00",
        },
        "items": {
            "path": [items],
            "id": "id",
            "title": "name",
            "text": ["name", "about"],
            "attributes": {"kind": "kind"},
            "attribute_separator": {"kind": ";"},
            "numeric_attributes": {"price": [1, 2, 5]},
            "image": "picture",
            "audio": "sound",
        },
        "split": {
            "kind": "column",
            "column_values": {"tr": "train", "va": "valid", "te": "test"},
        },
    }


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Any]:
    """Sections of a configuration; tests change them."""
    return make_sources(tmp_path)


@pytest.fixture(scope="module")
def ingested(spark, tmp_path_factory) -> tuple[Context, StageResult]:
    """One run on the sources as they are."""
    folder = tmp_path_factory.mktemp("ingest")
    config = Config.model_validate({"lake": str(folder / "lake"), **make_sources(folder)})
    context = Context(
        config=config,
        spark=spark,
        lake=Lake(spark, config.lake),
        stage="ingest",
        run_id="test",
        code_version="test",
        config_hash="test",
    )
    return context, ingest.run(context)


def rows(context: Context, table: str, *order: str) -> list[dict[str, Any]]:
    return [row.asDict(recursive=True) for row in context.table(table).orderBy(*order).collect()]


def test_labelled_impressions_with_their_own_split(ingested) -> None:
    context, result = ingested
    for ledger in result.ledgers:
        ledger.close("ingest")
    log, catalog = result.ledgers
    assert (log.rows_in, log.rows_out) == (14, 6)
    assert log.dropped == {
        "null_user": 1,
        "null_item": 1,
        "unparsable_time": 1,
        "future_time": 1,
        "not_selected": 1,
        "unknown_item": 1,
        "exact_duplicate": 1,
        "merged_lines": 1,
    }
    assert (catalog.rows_in, catalog.rows_out) == (6, 4)
    assert catalog.dropped == {"malformed_row": 0, "bad_id": 0, "null_item": 1, "duplicate_item": 1}
    events = rows(context, "interactions", "user_id", "seq")
    assert [(e["user_id"], e["item_id"], e["seq"], e["lines"]) for e in events] == [
        ("u1", "a", 0, 1),
        ("u1", "b", 1, 1),
        ("u1", "c", 2, 1),
        ("u2", "a", 0, 2),
        ("u2", "c", 1, 1),
        ("u3", "007", 0, 1),
    ]
    merged = events[3]
    assert merged["labels"] == {"positive": 1.0, "bought": 0.0}  # the larger of the two lines
    assert merged["weight"] == 2.0
    assert merged["positive"]
    assert events[2]["labels"] == {"positive": 1.0, "bought": 1.0}
    assert events[5]["labels"] == {"positive": 0.0, "bought": 0.0}  # null is not true
    split = {(r["user_id"], r["item_id"]): r["part"] for r in rows(context, "event_splits", "ts")}
    assert split["u1", "c"] == "valid"
    assert split["u2", "c"] == split["u3", "007"] == "test"
    assert result.facts["labels"] == ["positive", "bought"]
    assert result.facts["parts"] == {"train": 3, "valid": 1, "test": 2}
    assert result.facts["as_of"] == "2023-11-14T22:13:26.000001"
    assert not result.facts["has_mine"]
    assert result.facts["items_without_text"] == 1


def test_content_of_the_catalogue(ingested) -> None:
    context, result = ingested
    items = {row["item_id"]: row for row in rows(context, "items", "item_idx")}
    assert list(items) == ["a", "b", "c", "007"]  # by first event
    assert [row["item_idx"] for row in items.values()] == [0, 1, 2, 3]
    assert items["a"]["title"] == "Red lamp"
    assert items["a"]["text"] == "Red lamp. glass, tall"
    assert items["b"]["text"] == "Blue lamp. wood"
    assert items["c"]["title"] is items["c"]["text"] is None
    assert items["a"]["attributes"] == {"kind": ["home", "light"], "price": ["[2,5)"]}
    assert items["b"]["attributes"] == {"kind": ["home"]}
    assert items["c"]["attributes"] == {"price": ["[5,inf)"]}
    assert bytes(items["a"]["image"]) == jpeg()
    assert items["b"]["image"] is items["c"]["image"] is None
    assert items["a"]["image_uri"] == "my pictures/a.jpg"
    assert items["a"]["audio"] == [0.5, 1.0]
    assert items["b"]["audio"] is None
    bad = {
        (row["reason"], json.loads(row["raw"]).get("id"))
        for row in rows(context, "quarantine", "reason")
        if row["table"] == "items"
    }
    assert bad == {
        ("null_item", None),
        ("duplicate_item", "a"),
        ("undecodable_image", "b"),
        ("undecodable_image", "c"),
        ("bad_audio", "b"),
    }
    assert result.facts["items_with_image"] == 1


def test_again_changes_nothing_and_new_items_come_last(make_context, sources) -> None:
    sources["items"]["unknown"] = "keep"
    first = make_context("ingest", **sources)
    result = ingest.run(first)
    result.ledgers[0].close("ingest")
    before = {t: rows(first, t, t[:-1] + "_idx") for t in ("items", "users")}
    kept = next(row for row in before["items"] if row["item_id"] == "zz")
    assert kept["title"] is kept["text"] is kept["removed_at"] is None
    assert (result.facts["items"], result.facts["items_only_in_log"]) == (5, 1)
    again = make_context("ingest", **sources)
    assert ingest.run(again).facts == result.facts
    for table, seen in before.items():
        assert rows(again, table, table[:-1] + "_idx") == seen
        assert again.outputs[table] == first.outputs[table]  # nothing was committed

    # An item earlier in time than all others arrives; b leaves the catalogue.
    log = Path(sources["log"]["path"][0])
    log.write_text(LOG + "u0,new,show,1600000000000,1,0,tr\n")
    catalog = Path(sources["items"]["path"][0])
    lines = [x for x in catalog.read_text().splitlines() if '"b"' not in x]
    catalog.write_text("\n".join([*lines, json.dumps({"id": "new", "name": "New"})]))
    third = make_context("ingest", **sources)
    result = ingest.run(third)
    items = {row["item_id"]: row for row in rows(third, "items", "item_idx")}
    assert list(items) == ["a", "b", "c", "zz", "007", "new"]
    assert items["b"]["removed_at"] is not None
    assert items["b"]["title"] == "Blue lamp."
    assert items["a"]["removed_at"] is items["zz"]["removed_at"] is None
    assert [u["user_id"] for u in rows(third, "users", "user_idx")] == ["u1", "u2", "u3", "u0"]
    assert (result.facts["items"], result.facts["items_removed"]) == (5, 1)
    # Events of an item that has left stay; it comes back without a new index.
    assert third.table("interactions").where("item_id = 'b'").count() == 1
    catalog.write_text(catalog.read_text() + "\n" + json.dumps({"id": "b", "name": "Blue lamp."}))
    fourth = make_context("ingest", **sources)
    ingest.run(fourth)
    back = {row["item_id"]: row for row in rows(fourth, "items", "item_idx")}["b"]
    assert back["removed_at"] is None
    assert back["item_idx"] == 1


def test_run_after_a_crash_finishes_a_catalogue_made_from_an_order_only_log(
    make_context, tmp_path, monkeypatch
) -> None:
    lines = [("u", "x", 0, "Old"), ("u", "y", 1, "Y"), ("u", "x", 2, "New"), ("v", "x", 0, None)]
    table = pa.table(
        {
            name: [line[k] for line in lines]
            for k, name in enumerate(("who", "what", "position", "name"))
        }
    )
    parquet.write_table(table, tmp_path / "log.parquet")
    sections: dict[str, Any] = {
        "log": {
            "path": [str(tmp_path / "log.parquet")],
            "user": "who",
            "item": "what",
            "time": "position",
            "time_format": "order",
        },
        "items": {"from_log": True, "title": "name", "text": ["name"]},
        "split": {"kind": "leave_last_n"},
    }
    crashed = make_context("ingest", **sections)
    write = crashed.overwrite

    def crash(table, df, **lineage):
        if table.name == "event_splits":
            raise RuntimeError("disk full")
        return write(table, df, **lineage)

    monkeypatch.setattr(crashed, "overwrite", crash)
    with pytest.raises(RuntimeError, match="disk full"):
        ingest.run(crashed)
    context = make_context("ingest", **sections)
    result = ingest.run(context)
    for ledger in result.ledgers:
        ledger.close("ingest")
    titles = [(row["item_id"], row["title"]) for row in rows(context, "items", "item_idx")]
    assert titles == [("x", "Old"), ("y", "Y")]  # New is the name in a test line only
    assert context.table("event_splits").count() == context.table("interactions").count() == 4
    assert result.facts["parts"] == {"train": 1, "valid": 1, "test": 2}
    assert result.facts["time_order_only"]


def test_as_of_of_the_run_is_the_limit_without_one_of_the_log(make_context, sources) -> None:
    del sources["log"]["as_of"]
    context = make_context("ingest", **sources)
    context.as_of = parse_iso("2023-11-14T22:13:24", "as_of")
    with pytest.raises(GateError, match="future_time 5"):
        ingest.run(context)


@pytest.mark.parametrize(
    ("section", "field", "value", "error", "words"),
    [
        ("log", "path", ["nowhere.csv"], InputError, ["log.path", "nowhere.csv"]),
        ("log", "user", "usr", InputError, ["log.user", "'usr'", "did you mean 'user'", "fold"]),
        ("items", "text", ["titel"], InputError, ["items.text", "titel", "picture"]),
        ("log", "time_format", "timestamp", InputError, ["'ms'", "string", "epoch_ms"]),
        ("log", "rows", "evnt = 'show'", ConfigError, ["log.rows", "did you mean 'event'"]),
        ("log", "labels", {"positive": "click +"}, ConfigError, ["log.labels.positive", "SQL"]),
        ("log", "labels", {"positive": "click"}, ConfigError, ["condition", "click = 1"]),
        ("log", "weight", "sum(click)", ConfigError, ["log.weight"]),
        ("split", "column_values", {"tr": "train"}, ConfigError, ["'te'", "'va'", "test"]),
        ("gates", "max_quarantine_share", 0.3, GateError, ["max_quarantine_share", "null_user 1"]),
        ("gates", "min_interactions", 7, GateError, ["min_interactions", "6"]),
        ("gates", "min_items", 5, GateError, ["min_items", "4"]),
    ],
)
def test_bad_input_stops_before_the_first_commit(
    make_context, sources, tmp_path, section, field, value, error, words
) -> None:
    sources.setdefault(section, {})[field] = value
    with pytest.raises(error) as caught:
        ingest.run(make_context("ingest", **sources))
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "lake" / "tables").exists()


def test_values_that_pandas_and_databases_write(make_context, tmp_path) -> None:
    """Each would be a false user, a false positive or an event of today."""
    noon, lost = "2024-01-01T12:00:00", float("nan")
    odd = [
        ("u", 1e7, noon, lost, 1.0),  # no positive
        ("u ", 2.0, noon, 5.0, 1.0),  # a user that looks like another
        ("nan", 2.0, noon, 5.0, 1.0),
        ("NULL", 2.0, noon, 5.0, 1.0),
        ('{"$oid": "u"}', 1e7, noon, 5.0, 1.0),
        ("v", 2.5, noon, 5.0, 1.0),
        ("v", None, noon, None, 1.0),
        ("w", 1e7, "12:30", 5.0, 1.0),
        ("w", 1e7, "9999-12-31", 5.0, 1.0),
        ("w", 1e7, noon, 5.0, 1e-12),
    ]
    names = ("user", "item", "ts", "rating", "weight")
    columns = dict(zip(names, map(list, zip(*odd, strict=True)), strict=True))
    table = pa.table({**columns, "part": ["t"] * len(odd)})
    (tmp_path / "user=all").mkdir()
    parquet.write_table(table, tmp_path / "user=all" / "a.parquet")
    sections = {
        "log": {
            "path": [str(tmp_path / "user=all" / "a.parquet")],
            "user": "user",
            "item": "item",
            "time_format": "iso",
            "labels": {"positive": "rating >= 4"},
            "weight": "weight",
            "split": "part",
        },
        "items": {"from_log": True, "id": "item"},
        "split": {"kind": "column", "column_values": {"t": "train"}},
        "gates": {"max_quarantine_share": 1.0},
    }
    context = make_context("ingest", **sections)
    result = ingest.run(context)
    assert result.ledgers[0].dropped == {
        "bad_id": 2,
        "null_user": 2,
        "null_item": 1,
        "unparsable_time": 2,
        "bad_value": 1,
        "merged_lines": 0,
    }
    seen = {
        (row["user_id"], row["item_id"]): row for row in rows(context, "interactions", "item_id")
    }
    assert {key: row["labels"] for key, row in seen.items()} == {
        ("u", "10000000"): {"positive": 0.0},  # NaN
        ("u ", "2"): {"positive": 1.0},
    }
    details = {(r["reason"], r["detail"]) for r in rows(context, "quarantine", "reason")}
    assert {("bad_id", "2.5"), ("null_user", "nan"), ("unparsable_time", "12:30")} < details
    assert ("bad_value", "weight 1.0E-12") in details
    names = [each["name"] for each in result.facts["oddities"]]
    assert {"one_time", "similar_users"} <= set(names)
    sections["gates"]["stop_on"] = ["similar_users"]
    before = context.lake.version("interactions")
    with pytest.raises(GateError, match=r"similar_users: 2 ids of users .* such as 'u' and 'u '"):
        ingest.run(make_context("ingest", **sections))
    assert context.lake.version("interactions") == before


def test_attributes_are_no_structs(make_context, sources, tmp_path) -> None:
    line = json.dumps({"id": "a", "name": "x", "kind": {"brand": "y"}})
    sources["items"] = {
        "path": [write(tmp_path / "odd.jsonl", line)],
        "id": "id",
        "attributes": {"kind": "kind"},
    }
    sources["gates"] = {"max_quarantine_share": 1.0}
    with pytest.raises(InputError, match=r"items\.attributes\.kind: .* is of type struct"):
        ingest.run(make_context("ingest", **sources))


def test_empty_log(make_context, sources, tmp_path) -> None:
    sources["log"]["path"] = [write(tmp_path / "empty.csv", LOG.splitlines()[0] + "\n")]
    with pytest.raises(InputError, match="no row"):
        ingest.run(make_context("ingest", **sources))


def test_value_that_an_expression_cannot_read(make_context, sources, tmp_path) -> None:
    sources["log"]["path"] = [
        write(tmp_path / "log.csv", LOG + "u9,a,show,1700000000000,no,0,tr\n")
    ]
    with pytest.raises(InputError, match="try_cast"):
        ingest.run(make_context("ingest", **sources))


def test_missing_catalogue_setting(make_context, sources) -> None:
    del sources["items"]["path"]
    with pytest.raises(ConfigError, match="from_log"):
        ingest.run(make_context("ingest", config=Config.model_validate({"lake": "x", **sources})))
