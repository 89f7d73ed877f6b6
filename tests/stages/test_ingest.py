"""The whole stage on small logs with every fault in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from delta.tables import DeltaTable
from pyarrow import parquet
from pyspark.sql import SparkSession

from qarm.config import Config, ItemSource
from qarm.errors import ConfigError, GateError, InputError
from qarm.ingest import catalog
from qarm.ingest.times import parse_iso
from qarm.lake.caching import Keeper
from qarm.lake.tables import Lake
from qarm.ledger import StageResult
from qarm.pipeline.context import Context
from qarm.stages import ingest
from tests.lakes.copies import drop_column
from tests.stages.sources import LOG, jpeg, make_sources, write

pytestmark = pytest.mark.spark


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Any]:
    """Sections of a configuration; tests change them."""
    return make_sources(tmp_path)


def context_on(spark: SparkSession, lake: str, sections: dict[str, Any]) -> Context:
    config = Config.model_validate({"lake": lake, **sections})
    return Context(
        config=config,
        spark=spark,
        lake=Lake(spark, config.lake),
        stage="ingest",
        run_id="test",
        code_version="test",
        config_hash="test",
    )


@pytest.fixture(scope="module")
def ingested(spark, tmp_path_factory) -> tuple[Context, StageResult]:
    """One run on the sources as they are; its tables are read at the versions that it wrote."""
    folder = tmp_path_factory.mktemp("ingest")
    context = context_on(spark, str(folder / "lake"), make_sources(folder))
    return context, ingest.run(context)


def rows(context: Context, table: str, *order: str) -> list[dict[str, Any]]:
    return [row.asDict(recursive=True) for row in context.table(table).orderBy(*order).collect()]


def test_labelled_impressions_with_their_own_split(ingested) -> None:
    context, result = ingested
    for ledger in result.ledgers:
        ledger.close("ingest")
    of_log, of_catalog = result.ledgers
    assert (of_log.rows_in, of_log.rows_out) == (14, 6)
    assert of_log.dropped == {
        "null_user": 1,
        "null_item": 1,
        "unparsable_time": 1,
        "future_time": 1,
        "not_selected": 1,
        "unknown_item": 1,
        "exact_duplicate": 1,
        "merged_lines": 1,
    }
    assert (of_catalog.rows_in, of_catalog.rows_out) == (6, 4)
    assert of_catalog.dropped == {
        "malformed_row": 0,
        "bad_id": 0,
        "null_item": 1,
        "duplicate_item": 1,
    }
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


def by_id(context: Context, table: str) -> dict[str, dict[str, Any]]:
    """Rows of items or users by id, in the order of their indices."""
    kind = table[:-1]
    return {row[f"{kind}_id"]: row for row in rows(context, table, f"{kind}_idx")}


def test_new_items_come_last_and_nobody_gets_another_index(
    spark, ingested, tmp_path, monkeypatch
) -> None:
    """Two more runs on the lake of the first: one that crashes before its end, and one after it.

    The lake is that of an earlier release, whose items and users could not be removed.
    """
    first, of_first = ingested
    seen = {table: by_id(first, table) for table in ("items", "users")}
    sources = make_sources(tmp_path)
    sources["items"]["unknown"] = "keep"
    drop_column(first.lake, "items", "removed_at")
    drop_column(first.lake, "users", "removed_at")
    # An item earlier in time than all others arrives; b leaves the catalogue.
    Path(sources["log"]["path"][0]).write_text(LOG + "u0,new,show,1600000000000,1,0,tr\n")
    path = Path(sources["items"]["path"][0])
    lines = [*path.read_text().splitlines(), json.dumps({"id": "new", "name": "New"})]
    path.write_text("\n".join(line for line in lines if '"b"' not in line))
    crashed = context_on(spark, first.config.lake, sources)
    write = crashed.overwrite

    def crash(table, df, **lineage):
        if table.name == "event_splits":
            raise RuntimeError("disk full")
        return write(table, df, **lineage)

    monkeypatch.setattr(crashed, "overwrite", crash)
    with pytest.raises(RuntimeError, match="disk full"):
        ingest.run(crashed)
    items, users = by_id(crashed, "items"), by_id(crashed, "users")
    assert list(items) == ["a", "b", "c", "007", "new", "zz"]
    assert [row["item_idx"] for row in items.values()] == [0, 1, 2, 3, 4, 5]
    assert items["b"]["removed_at"] is not None
    assert {**items["b"], "removed_at": None} == seen["items"]["b"]  # with its title
    for same in ("a", "c", "007"):
        assert items[same] == seen["items"][same]
    assert items["zz"]["title"] is items["zz"]["text"] is items["zz"]["removed_at"] is None
    assert list(users) == ["u1", "u2", "u3", "u0"]
    assert [users[u]["user_idx"] for u in users] == [0, 1, 2, 3]
    # Events of an item that has left stay.
    assert crashed.table("interactions").where("item_id = 'b'").count() == 1

    # Now b comes back without a new index, and c leaves.
    path.write_text("\n".join(line for line in lines if '"c"' not in line))
    after = context_on(spark, first.config.lake, sources)
    result = ingest.run(after)
    for ledger in result.ledgers:
        ledger.close("ingest")
    last = by_id(after, "items")
    assert last["c"]["removed_at"] is not None
    assert {**last, "c": items["c"]} == {**items, "b": seen["items"]["b"]}
    assert by_id(after, "users") == users
    assert after.table("event_splits").count() == after.table("interactions").count() == 8
    # Of what has not changed, nothing was committed.
    assert after.outputs["users"] == crashed.outputs["users"]
    assert after.outputs["items"].version == crashed.outputs["items"].version + 1
    history = DeltaTable.forPath(spark, after.outputs["items"].path).history(1).first()
    touched = [history["operationMetrics"][f"numTargetRows{x}"] for x in ("Updated", "Inserted")]
    assert touched == ["2", "0"]
    names = ("items", "items_removed", "items_only_in_log")
    assert [result.facts[name] for name in names] == [5, 1, 1]
    for name in ("as_of", "split_id", "split", "labels", "has_mine", "items_with_image"):
        assert result.facts[name] == of_first.facts[name]


def test_catalogue_made_from_an_order_only_log(make_context, tmp_path) -> None:
    log_file = write(
        tmp_path / "log.csv",
        'who,what,position,name\nu,x,0,"The ""Old"", or\nso"\nu,y,1,Y\nu,x,2,New\nU,x,0,\n',
    )
    sections: dict[str, Any] = {
        "log": {
            "path": [log_file],
            "user": "who",
            "item": "what",
            "time": "position",
            "time_format": "order",
        },
        "items": {"from_log": True, "title": "name", "text": ["name"]},
        "split": {"kind": "leave_last_n"},
    }
    context = make_context("ingest", **sections)
    result = ingest.run(context)
    for ledger in result.ledgers:
        ledger.close("ingest")
    titles = [(row["item_id"], row["title"]) for row in rows(context, "items", "item_idx")]
    # New is the name in a test line only.
    assert titles == [("x", 'The "Old", or\nso'), ("y", "Y")]
    assert context.table("event_splits").count() == context.table("interactions").count() == 4
    assert result.facts["parts"] == {"train": 1, "valid": 1, "test": 2}
    assert result.facts["time_order_only"]
    assert [odd["name"] for odd in result.facts["oddities"]] == ["similar_users"]  # u and U


def assert_nothing_written(tmp_path: Path) -> None:
    assert not (tmp_path / "lake" / "tables").exists()


def test_as_of_of_the_run_is_the_limit_without_one_of_the_log(
    make_context, sources, tmp_path
) -> None:
    del sources["log"]["as_of"]
    sources["gates"] = {"max_quarantine_share": 0.3}
    context = make_context("ingest", **sources)
    context.as_of = parse_iso("2023-11-14T22:13:24", "as_of")
    with pytest.raises(GateError) as caught:
        ingest.run(context)
    for word in ("gates.max_quarantine_share", "limit is 30.0%", "future_time 5", "null_user 1"):
        assert word in str(caught.value)
    assert_nothing_written(tmp_path)


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
    assert_nothing_written(tmp_path)


def test_too_few_events_or_items_stop_before_the_first_commit(
    make_context, sources, tmp_path
) -> None:
    """Both gates see one reading of the sources."""
    with Keeper() as keep:
        judged = ingest._judge(make_context("ingest", **sources), keep)
        for field, least, seen in (("min_interactions", 7, "6"), ("min_items", 5, "4")):
            context = make_context("ingest", **sources, gates={field: least})
            with pytest.raises(GateError, match=rf"gates\.{field}: {seen} "):
                ingest._write(context, judged, keep)
    assert_nothing_written(tmp_path)


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
    sections["gates"]["stop_on"] = ["one_time", "similar_users"]
    with Keeper() as keep:
        context = make_context("ingest", **sections)
        judged = ingest._judge(context, keep)
        with pytest.raises(GateError) as caught:
            ingest._write(context, judged, keep)
        events = {(row["user_id"], row["item_id"]): row for row in judged.events.collect()}
        rejected = judged.lines.where("reason IS NOT NULL").collect()
    assert "one_time: " in str(caught.value)
    similar = r"similar_users: 2 ids of users .* such as 'u' and 'u '"
    assert re.search(similar, str(caught.value))
    assert_nothing_written(tmp_path)
    assert judged.reasons == {
        "bad_id": 2,
        "null_user": 2,
        "null_item": 1,
        "unparsable_time": 2,
        "bad_value": 1,
    }
    assert {key: (row["label_positive"], row["lines"]) for key, row in events.items()} == {
        ("u", "10000000"): (False, 1),  # NaN
        ("u ", "2"): (True, 1),
    }
    details = {(row["reason"], row["detail"]) for row in rejected}
    assert {("bad_id", "2.5"), ("null_user", "nan"), ("unparsable_time", "12:30")} < details
    assert ("bad_value", "weight 1.0E-12") in details


def test_attributes_are_no_structs(spark, tmp_path) -> None:
    line = json.dumps({"id": "a", "name": "x", "kind": {"brand": "y"}})
    path = write(tmp_path / "odd.jsonl", line)
    items = ItemSource(path=[path], id="id", attributes={"kind": "kind"})
    with pytest.raises(InputError, match=r"items\.attributes\.kind: .* is of type struct"):
        catalog.read_catalog(catalog.open_catalog(spark, items), items)


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
