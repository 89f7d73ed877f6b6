"""The stage on a lake: what it sees, what it counts, what it refuses."""

from __future__ import annotations

import pytest
from pyspark.sql import functions as F

from qarm.config.pairs import Pairs
from qarm.errors import ConfigError, GateError, InputError
from qarm.ledger import Ledger
from qarm.pairs.mined import PAIR_COLUMNS
from qarm.pairs.pair_sources import SOURCES, check_sources
from qarm.pairs.scratch import LEDGER
from qarm.pairs.source_record import Inputs, PairSource, SourcePairs, add_mass_lost, version_of
from qarm.pipeline import own_tables
from qarm.pipeline.stages import stage
from qarm.stages.mine_pairs import run
from tests.pairs import reference
from tests.pairs.collected import same, same_top
from tests.pairs.reference import Event, Pair, random_log

PAIRS = {
    "id_vectors": {"rank": 3, "iterations": 1},
    "swing": {"min_items_per_user": 2},
    "itemcf": {"window_events": 3, "top_k": 4},
}


def of_source(context, source):
    rows = context.table("item_pairs").where(F.col("source") == source)
    rows = rows.withColumn("last", F.unix_seconds("last_ts")).collect()
    return {
        (r["trigger"], r["target"]): Pair(r["score"], r["support"], r["weight"], r["last"])
        for r in rows
    }


def table(context, name):
    return sorted(tuple(row) for row in context.table(name).collect())


def test_mines_the_training_period_alone_and_closes_its_ledgers(make_context, fill):
    context = make_context("mine-pairs", pairs=PAIRS)
    config = context.config.pairs
    mined = fill(context, random_log(1, users=16, items=16, events=170))
    result = run(context)
    same(of_source(context, "swing"), reference.swing(mined, config.swing, lambda i, users: users))
    same_top(of_source(context, "itemcf"), reference.itemcf(mined, config.itemcf), 4)
    vectors = {row["item_idx"]: row["vector"] for row in context.table("id_vectors").collect()}
    assert set(vectors) == {e.item for e in mined}
    rows, counts = reference.user2item(mined, vectors, 50, 0.0)
    assert set(of_source(context, "u2i")) == {row[:2] for row in rows}

    ledgers = {ledger.name: ledger for ledger in result.ledgers}
    for ledger in result.ledgers:
        ledger.close("mine-pairs")
    assert result.ledgers[0].name == "item pairs"
    assert result.ledgers[0].rows_out == context.table("item_pairs").count()
    assert result.ledgers[0].dropped["itemcf beyond_top_k"] > 0
    assert ledgers["User2Item targets"].rows_in == len(mined) == counts["targets"]
    assert ledgers["User2Item targets"].rows_out == len(rows)
    metrics = {(m.metric, m.variant): m.value for m in result.metrics}
    for source in ("u2i", "swing", "itemcf"):
        pairs = of_source(context, source)
        covered = {item for pair in pairs for item in pair}
        assert metrics["pairs", source] == len(pairs) > 0
        assert metrics["item_coverage", source] == pytest.approx(len(covered) / len(vectors))
        assert {"items_capped", "most_pairs_of_a_target"} & set(result.facts["skew"][source])
    end = context.table("item_pairs").select(F.unix_seconds(F.min("window_end"))).first()[0]
    assert max(e.seconds for e in mined) <= end < reference.EPOCH.timestamp() + 150 * 60

    before = {name: table(context, name) for name in ("id_vectors", "item_pairs")}
    run(context)
    assert {name: table(context, name) for name in before} == before


def test_gate_and_empty_input_publish_nothing(make_miner, fill):
    context = make_miner(pairs={**PAIRS, "sources": ["itemcf"]})
    fill(context, [Event(u, u, 0, 0, 1.0) for u in range(3)])
    with pytest.raises(GateError, match=r"0 pairs were mined, at least 1 are required"):
        run(context)
    assert "item_pairs" not in context.outputs
    assert context.lake.version("item_pairs") == -1
    fill(context, [Event(0, 1, 200, 0, 1.0)])
    with pytest.raises(InputError, match="the mining period has no positive event"):
        run(context)
    with pytest.raises(ConfigError, match=r"pairs\.sources is empty"):
        run(make_miner(pairs={"sources": []}))


def test_own_splits_must_name_a_part_for_every_event(make_context, fill, spark, tmp_path):
    log = [Event(0, item, item, item, 1.0) for item in range(4)]
    context = make_context("mine-pairs", pairs=PAIRS)
    fill(context, log)
    splits = str(tmp_path / "splits")
    context.table("event_splits").where("item_idx <> 2").write.parquet(splits)
    own = {"tables": {"event_splits": splits}}
    interactions = context.outputs["interactions"]
    context = make_context("mine-pairs", pairs=PAIRS, external=own)
    context.outputs["interactions"] = interactions
    with pytest.raises(InputError, match=r"1 events of interactions have no row .*'item_idx': 2"):
        own_tables.adopt_inputs(context, stage("mine-pairs"))


def test_tables_of_the_user_take_the_place_of_ours(make_context, fill, spark, tmp_path):
    log = [Event(0, 1, 0, 0, 1.0), Event(0, 2, 1, 1, 1.0), Event(0, 3, 2, 2, 1.0)]
    rows = [(1, [1.0, 0.0]), (2, [0.0, 1.0]), (3, [1.0, 0.1])]
    vectors, pairs = str(tmp_path / "vectors"), str(tmp_path / "pairs")
    spark.createDataFrame(rows, "item_idx long, vector array<double>").write.parquet(vectors)
    spark.createDataFrame([(1, 2)], "trigger long, target long").write.parquet(pairs)

    context = make_context(
        "mine-pairs",
        pairs={**PAIRS, "sources": ["u2i"]},
        external={"tables": {"id_vectors": vectors}},
    )
    fill(context, log)
    own_tables.adopt(context)
    result = run(context)
    assert set(of_source(context, "u2i")) == {(1, 2), (1, 3)}  # 3 is nearer to 1 than to 2
    assert "id_vectors" not in context.outputs
    assert result.ledgers[0].name == "item pairs"

    filled = {name: context.outputs[name] for name in ("interactions", "event_splits")}
    context = make_context("mine-pairs", pairs=PAIRS, external={"tables": {"item_pairs": pairs}})
    context.outputs.update(filled)
    result = run(context)
    assert set(context.outputs) == {"interactions", "event_splits", "id_vectors"}
    assert [(ledger.name, ledger.rows_out) for ledger in result.ledgers] == [
        ("positive events of the mining period", 3),
        ("ID vectors, items", 3),
    ]


def _popular(inputs: Inputs) -> SourcePairs:
    """Every item with the most frequent one."""
    counts = inputs.events.groupBy("item_idx").agg(F.count("*").alias("n"), F.max("ts").alias("ts"))
    best = (
        counts.orderBy(F.desc("n"), "item_idx").limit(1).select(F.col("item_idx").alias("target"))
    )
    pairs = (
        counts.crossJoin(best)
        .where("item_idx <> target")
        .select(
            F.col("item_idx").alias("trigger"),
            "target",
            F.lit(1.0).alias("score"),
            F.col("n").alias("support"),
            F.lit(1.0).alias("weight"),
            F.col("ts").alias("last_ts"),
        )
    )
    n = pairs.count()
    ledger = Ledger(name="Popular pairs", rows_in=n, rows_out=n)
    return SourcePairs(pairs=pairs.select(*PAIR_COLUMNS), ledgers=[ledger])


POPULAR = PairSource(
    name="popular", title="Popular", mine=_popular, settings=lambda pairs: {"seed": pairs.seed}
)


def test_a_fourth_source_needs_a_record_alone_and_an_incremental_one_keeps_scratch_tables(
    make_miner, fill, monkeypatch, capsys
):
    pairs = {
        "sources": ["popular", "itemcf"],
        "incremental": ["itemcf"],
        "itemcf": {**PAIRS["itemcf"], "window_days": 1.0},
    }
    with pytest.raises(ConfigError, match=r"pairs\.sources names 'popular'"):
        check_sources(Pairs.model_validate(pairs))
    monkeypatch.setitem(SOURCES, "popular", POPULAR)
    context = make_miner(pairs=pairs)
    mined = fill(context, random_log(1, users=8, items=9, events=60))
    result = run(context)
    for ledger in result.ledgers:
        ledger.close("mine-pairs")
    found = of_source(context, "popular")
    assert len(found) == len({e.item for e in mined}) - 1
    metrics = {(m.metric, m.variant): m.value for m in result.metrics}
    assert metrics["item_coverage", "popular"] == 1.0
    assert set(result.facts["miner_versions"]) == {"popular", "itemcf"}
    assert result.facts["skew"]["popular"] == {}
    scratch = {name for name in context.outputs if name.startswith("scratch_")}
    assert scratch == {"scratch_itemcf_pairs", "scratch_itemcf_items", "scratch_ledger"}
    assert context.outputs[LEDGER.name].version == context.lake.version(LEDGER.name)
    assert of_source(context, "itemcf")
    assert "ItemCF: 1 keys recounted, 0 left" in capsys.readouterr().err


def test_names_of_sources_are_checked_and_suggested():
    with pytest.raises(ConfigError, match=r"pairs\.sources names 'swig'.*did you mean 'swing'"):
        check_sources(Pairs(sources=["swig"]))
    with pytest.raises(ConfigError, match=r"pairs\.incremental names 'user'"):
        check_sources(Pairs(incremental=["user"]))
    with pytest.raises(
        ConfigError, match=r"alignment\.sources names 'x'.*u2i, swing, itemcf, user"
    ):
        check_sources(Pairs(), ["x"])
    check_sources(Pairs(), ["u2i", "user"])


def test_versions_and_lost_mass_follow_the_record():
    pairs = Pairs()
    u2i, swing = SOURCES["u2i"], SOURCES["swing"]
    other = pairs.model_copy(update={"seed": 1})
    assert version_of(u2i, pairs, "1", None) != version_of(u2i, other, "1", None)
    assert version_of(u2i, pairs, "1", "own") == version_of(u2i, other, "1", "own")
    assert version_of(swing, pairs, "1", None) != version_of(swing, other, "1", None)
    assert version_of(swing, pairs, "1", "own") == version_of(swing, pairs, "1", None)
    uncapped = SourcePairs(pairs=None, ledgers=[], skew={"users_capped": 0, "items_capped": 0})
    inputs = Inputs(events=None, vectors=None, config=pairs, keep=None)
    assert add_mass_lost(swing, inputs, uncapped) == 0.0
    assert uncapped.skew["share_of_score_mass_lost"] == 0.0
    assert add_mass_lost(u2i, inputs, uncapped) is None
