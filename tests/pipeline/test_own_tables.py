"""The user's own tables: no row is lost, nothing unknown is taken."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from qarm.config import Config
from qarm.errors import InputError, MissingStageError, RowsLostError, SchemaError
from qarm.lake import manifest
from qarm.lake.tables import Lake
from qarm.pipeline import own_rows, own_tables
from qarm.pipeline.context import Context
from qarm.pipeline.stages import stage
from schemas import TABLES, ranking_samples

pytestmark = pytest.mark.spark

Bring = Callable[..., Context]


def _publish(lake: Lake, name: str, df: DataFrame) -> None:
    ref = lake.overwrite(TABLES[name], df, {"stage": name})
    manifest.publish(
        lake.root,
        manifest.Manifest(
            stage=f"makes-{name}",
            run_id="test",
            config_hash="",
            code_version="",
            inputs={},
            outputs={name: ref.as_dict()},
        ),
    )


def _publish_catalogue(spark: SparkSession, lake: Lake) -> None:
    """Items a, b, c (0, 1, 2) and users u, v (0, 1)."""
    items = spark.createDataFrame([("a", 0), ("b", 1), ("c", 2)], "item_id string, item_idx long")
    rows = items.selectExpr("*", "'h' content_hash", "'string' source_type")
    _publish(lake, "items", rows)
    users = spark.createDataFrame([("u", 0), ("v", 1)], "user_id string, user_idx long")
    seen = "timestamp'2020-01-01' first_seen"
    _publish(lake, "users", users.selectExpr("*", seen, "'string' source_type"))


@pytest.fixture(scope="module")
def catalogue(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with a catalogue; each test brings sources of its own, and sees no other's."""
    lake = Lake(spark, str(tmp_path_factory.mktemp("catalogue")))
    _publish_catalogue(spark, lake)
    return lake


@pytest.fixture(scope="module")
def bare(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake without a catalogue."""
    return Lake(spark, str(tmp_path_factory.mktemp("bare")))


@pytest.fixture
def bring_to(make_context: Callable[..., Context], tmp_path: Path) -> Bring:
    """Context of a stage on a lake, for which ``df`` is the user's table ``name``, adopted or not
    yet."""

    def write(lake: Lake, name: str, df: DataFrame, adopted: bool = True) -> Context:
        path = str(tmp_path / f"own-{name}")
        df.write.mode("overwrite").parquet(path)
        tree = {"lake": lake.root, "external": {"tables": {name: path}}}
        context = make_context("test", Config.model_validate(tree))
        if adopted:
            own_tables.adopt(context)
        return context

    return write


@pytest.fixture
def bring(bring_to: Bring, catalogue: Lake) -> Bring:
    """``bring_to`` the lake with a catalogue."""
    return partial(bring_to, catalogue)


@pytest.fixture
def bring_to_bare(bring_to: Bring, bare: Lake) -> Bring:
    """``bring_to`` the lake without one."""
    return partial(bring_to, bare)


def test_pairs_by_the_sources_ids_are_copied_before_the_stage_reads_them(
    spark, bring: Bring
) -> None:
    """Reading them copies nothing, and needs a declaration."""
    df = spark.createDataFrame(
        [("a", "b", 0.5), ("b", "c", 0.25)],
        "trigger_item_id string, target_item_id string, score double",
    )
    context = bring("item_pairs", df, adopted=False)
    with pytest.raises(LookupError, match="stage test reads item_pairs, which is not among its"):
        context.find("item_pairs")
    own_tables.adopt_inputs(context, stage("evaluate"))  # item_pairs is one of its inputs
    assert context.ref("item_pairs").path.endswith("external_item_pairs")
    rows = context.table("item_pairs").collect()
    assert {(r.trigger, r.target, r.source, r.score) for r in rows} == {
        (0, 1, "user", 0.5),
        (1, 2, "user", 0.25),
    }


def test_unknown_ids_are_named(spark, bring: Bring) -> None:
    df = spark.createDataFrame(
        [("a", "b"), ("b", "zz")], "trigger_item_id string, target_item_id string"
    )
    with pytest.raises(InputError, match=r"1 values of target_item_id are not in items.*'zz'"):
        bring("item_pairs", df).table("item_pairs")


@pytest.mark.parametrize(
    ("row", "column"), [((0, 7), "target"), ((7, 0), "trigger")], ids=["target", "trigger"]
)
def test_unknown_numbers_of_pairs_are_named(spark, bring: Bring, row, column) -> None:
    df = spark.createDataFrame([(0, 1), row], "trigger int, target int")
    with pytest.raises(InputError, match=rf"1 values of {column} are not in items.*\[7\]"):
        bring("item_pairs", df).table("item_pairs")


def test_vectors_by_number_get_their_ids_and_unknown_ones_do_not_vanish(
    spark, bring: Bring
) -> None:
    columns = "item_idx long, vector array<double>"
    good = spark.createDataFrame([(0, [1.0]), (2, [2.0])], columns)
    rows = bring("item_embeddings", good).table("item_embeddings").collect()
    assert {(r.item_idx, r.item_id) for r in rows} == {(0, "a"), (2, "c")}
    bad = spark.createDataFrame([(i, [1.0]) for i in (0, 5, 6, 7, 8)], columns)
    with pytest.raises(
        InputError, match=r"4 values of item_idx are not in items, such as \[\d, "
    ) as seen:
        bring("item_embeddings", bad).table("item_embeddings")
    named = str(seen.value).partition("such as [")[2].partition("]")[0]
    assert len(named.split(",")) == 3  # of the four


def test_numbers_of_another_lake_do_not_name_other_items(spark, bring: Bring) -> None:
    df = spark.createDataFrame(
        [("a", 0, [1.0]), ("b", 2, [1.0])], "item_id string, item_idx long, vector array<double>"
    )
    with pytest.raises(InputError, match=r"values of item_idx with item_id .*\(2, 'b'\)"):
        bring("item_embeddings", df).table("item_embeddings")


def test_null_where_a_number_must_be_is_refused(spark, bring: Bring) -> None:
    df = spark.createDataFrame([(0, [1.0]), (None, [2.0])], "item_idx long, vector array<double>")
    with pytest.raises(SchemaError, match="rule of table external_id_vectors"):
        bring("id_vectors", df).table("id_vectors")


def test_centroids_have_no_item(spark, bring: Bring) -> None:
    columns = "kind string, level int, code int, item_idx long, vector array<float>"
    rows = [("rq", 0, 0, None, [1.0]), ("vq", 0, 0, 2, [1.0])]
    context = bring("codebooks", spark.createDataFrame(rows, columns))
    assert context.table("codebooks").count() == 2
    rows[1] = ("vq", 0, 0, 9, [1.0])
    with pytest.raises(InputError, match=r"item_idx are not in items, such as \[9\]"):
        bring("codebooks", spark.createDataFrame(rows, columns)).table("codebooks")


def _samples(spark: SparkSession, *, user: int = 0, **labels: float) -> DataFrame:
    of_label = [f"{value}D label_{name}" for name, value in labels.items()]
    return spark.range(2).selectExpr(
        "id sample_id", f"cast({user} AS bigint) user_idx", "id item_idx", "100 + id ts",
        *of_label, "1.0D weight", "'train' part", "'none' negative_kind", "false is_repeat",
        "3L item_train_events", "0.0D user_count", "0.0D user_rate", "0.0D item_count",
        "0.0D item_rate", "1 history_length", "array(0L) history_item_idx", "array(9L) history_ts",
    )  # fmt: skip


def test_every_label_of_samples_is_kept(spark, bring: Bring) -> None:
    df = _samples(spark, click=1.0, positive=0.0, buy=1.0)
    found = bring("ranking_samples", df).table("ranking_samples")
    labels = [c for c in found.columns if c.startswith("label_")]
    assert sorted(labels) == ["label_buy", "label_click", "label_positive"]
    row = found.first()
    assert (row.label_click, row.label_positive, row.label_buy) == (1.0, 0.0, 1.0)
    with pytest.raises(SchemaError, match=r"needs column.*label_positive"):
        bring("ranking_samples", _samples(spark)).table("ranking_samples")


def test_unknown_users_are_named(spark, bring: Bring) -> None:
    with pytest.raises(InputError, match=r"1 values of user_idx are not in users.*\[4\]"):
        bring("ranking_samples", _samples(spark, user=4, positive=1.0)).table("ranking_samples")


def test_rows_that_get_lost_stop_the_run(spark, bring: Bring, monkeypatch) -> None:
    df = spark.createDataFrame([(0, 1), (2, 1)], "trigger int, target int")
    context = bring("item_pairs", df, adopted=False)
    conform = own_tables.conform
    with monkeypatch.context() as patch:
        patch.setattr(own_tables, "conform", lambda df, *more: conform(df, *more).limit(1))
        with pytest.raises(RowsLostError, match=r"all 2 rows of item_pairs .* seen 1"):
            own_tables.adopt(context)
    own_tables.adopt(context)  # the short copy is not taken later
    rows = context.table("item_pairs").collect()
    assert sorted((r.trigger, r.target) for r in rows) == [(0, 1), (2, 1)]


def test_what_could_not_be_checked_is_checked_once_there_are_items(
    spark, lake, bring_to: Bring
) -> None:
    df = spark.createDataFrame([(0, 1), (2, 9)], "trigger int, target int")
    context = bring_to(lake, "item_pairs", df)
    assert context.table("item_pairs").count() == 2  # nothing to check against
    _publish_catalogue(spark, lake)
    with pytest.raises(InputError, match=r"target are not in items, such as \[9\]"):
        own_tables.adopt(context)


def test_ids_without_a_catalogue_name_the_stage_to_run(spark, bring_to_bare: Bring) -> None:
    df = spark.createDataFrame([("a", "b")], "trigger_item_id string, target_item_id string")
    with pytest.raises(MissingStageError, match=r"trigger_item_id .* no table items; run stage in"):
        bring_to_bare("item_pairs", df)


def test_items_of_the_users_own_are_not_looked_up_in_themselves(
    spark, bring_to_bare: Bring
) -> None:
    df = spark.createDataFrame([("a",)], "item_id string")
    with pytest.raises(SchemaError, match="table items needs column"):
        bring_to_bare("items", df).table("items")


def test_schema_of_samples_is_that_of_their_labels() -> None:
    table = ranking_samples.TABLE
    assert own_rows.with_labels(table, ["label_a", "x"]) == ranking_samples.table(["a"])
    assert own_rows.with_labels(table, ["x"]) is table
    other = TABLES["items"]
    assert own_rows.with_labels(other, ["label_a"]) is other


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ("cast(1.5 as double)", "no whole number as item_id, such as '1.5'"),
        ("cast(null as string)", r"1 rows have no item_id \(null or blank\)"),
        ("'  '", r"1 rows have no item_id \(null or blank\)"),
        ("array('a')", "item_id should be text or whole numbers, is array<string>"),
    ],
)
def test_ids_that_are_none(spark, bring_to_bare: Bring, ids, words) -> None:
    with pytest.raises(InputError, match=words):
        bring_to_bare("item_embeddings", spark.sql(f"SELECT {ids} item_id, array(1.0) vector"))


def test_ids_of_floats_are_whole_numbers(spark, bring_to_bare: Bring) -> None:
    rows = spark.sql("SELECT cast(id + 1e7 as double) item_id, array(1.0) vector FROM range(2)")
    context = bring_to_bare("item_embeddings", rows)
    ids = context.table("item_embeddings").select("item_id")
    assert sorted(row[0] for row in ids.collect()) == ["10000000", "10000001"]


def test_vectors_too_large_for_distances(spark, bring_to_bare: Bring) -> None:
    with pytest.raises(InputError, match=r"1 vectors with a number beyond 1e\+16 among 1 rows"):
        bring_to_bare("item_embeddings", spark.sql("SELECT 'a' item_id, array(1e25) vector"))


@pytest.mark.parametrize("name", ["v.csv", "v.npy", "v.jsonl"])
def test_formats_that_are_not_read(spark, tmp_path, name) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=rf"{name} is none of .* Parquet files or a safetensors"):
        own_tables.read_any(spark, str(tmp_path / name), "item_embeddings")
