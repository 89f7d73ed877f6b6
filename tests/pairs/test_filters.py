"""Filters of pairs: what each removes, and that every pair is accounted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from pyspark.sql import functions as F

from qarm.config import load
from qarm.config.pairs import Filters
from qarm.errors import ConfigError
from qarm.pairs import filters, judges
from qarm.pairs.filters import filter_pairs, score_bounds
from qarm.stages.mine_pairs import run
from schemas import items

from .reference import random_log

PAIRS = [(1, 2, 0.9, 3), (1, 3, 0.5, 1), (2, 3, 0.1, 3), (3, 4, 0.7, 5), (4, 1, 0.3, 2)]


def same_colour(settings: Mapping[str, Any]) -> judges.PairJudge:
    """A judge for tests: the texts' first words agree, or it answers wrongly."""

    def judge(triggers: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        agree = [a.split()[0] == b.split()[0] for a, b in zip(triggers, targets, strict=True)]
        return np.array(agree[: int(settings.get("most", 10**6))])

    return judge


@pytest.fixture
def pairs(spark):
    schema = "trigger bigint, target bigint, score double, support bigint"
    return spark.createDataFrame(PAIRS, schema).repartition(3)


@pytest.fixture
def events(spark):
    rows = [(1,)] * 9 + [(2,)] * 4 + [(3,)] * 5 + [(4,)]
    return spark.createDataFrame(rows, "item_idx bigint")


def kept(df):
    return df.persist()


def left(found):
    df, removed = found
    return {(r["trigger"], r["target"]) for r in df.collect()}, removed


def test_support_and_scores(pairs, events):
    config = Filters(min_support={"u2i": 3}, score_quantiles={"u2i": (0.3, 0.8)})
    rest, removed = left(filter_pairs(pairs, "u2i", config, events=events, keep=kept))
    # Scores .1 .3 | .5 .7 | .9: a pair counts for the first filter that removes it.
    assert rest == {(3, 4)}
    assert removed == {"filter_support": 2, "filter_low_score": 1, "filter_high_score": 1}
    rest, removed = left(filter_pairs(pairs, "swing", config, events=events, keep=kept))
    assert (len(rest), removed) == (5, {})
    assert not filters.is_active(config, "swing")


def test_bounds_are_exact_and_ties_stay(spark, pairs):
    assert score_bounds(pairs, 0.0, 1.0, kept) == (0.1, 0.9)
    assert score_bounds(pairs.limit(0), 0.1, 0.9, kept) == (-np.inf, np.inf)
    same = spark.createDataFrame([(0.5,)] * 10, "score double")
    assert score_bounds(same, 0.3, 0.6, kept) == (0.5, 0.5)


def test_popular_items(pairs, events):
    config = Filters(max_item_events=5)
    rest, removed = left(filter_pairs(pairs, "itemcf", config, events=events, keep=kept))
    assert rest == {(2, 3), (3, 4)}
    assert removed == {"filter_popular": 3}


def test_content_floor_keeps_what_it_cannot_judge(spark, pairs, events):
    rows = [(1, [1.0, 0.0]), (2, [2.0, 0.1]), (3, [0.0, 3.0]), (4, [0.0, 0.0])]
    vectors = spark.createDataFrame(rows, "item_idx bigint, vector array<float>")
    config = Filters(min_content_similarity=0.5)
    found = filter_pairs(pairs, "u2i", config, events=events, keep=kept, vectors=vectors)
    rest, removed = left(found)
    assert rest == {(1, 2), (3, 4), (4, 1)}
    assert removed == {"filter_content": 2}


def test_a_judge_is_asked_about_what_is_left_and_has_texts(spark, pairs, events):
    rows = [(1, "red cup"), (2, "red bowl"), (3, "blue cup"), (4, None)]
    texts = spark.createDataFrame(rows, "item_idx bigint, text string")
    config = Filters(judge="tests.pairs.test_filters:same_colour", min_support={"u2i": 2})
    found = filter_pairs(pairs, "u2i", config, events=events, keep=kept, texts=texts)
    rest, removed = left(found)
    assert rest == {(1, 2), (3, 4), (4, 1)}
    assert removed == {"filter_support": 1, "filter_judge": 1}


def test_a_judge_that_is_not_there_or_answers_wrongly(spark, pairs, events):
    texts = spark.createDataFrame([(i, "red") for i in range(5)], "item_idx bigint, text string")
    for name in ("nowhere:judge", "qarm.pairs.judges:nothing", ""):
        with pytest.raises(ConfigError, match=r"expected package\.module:function"):
            judges.open_judge(name, "{}")
    config = Filters(judge="tests.pairs.test_filters:same_colour", judge_settings={"most": 0})
    with pytest.raises(Exception, match="one verdict a pair is expected"):
        filter_pairs(pairs, "u2i", config, events=events, keep=kept, texts=texts)


def test_the_packaged_judge_tells_subjects_apart():
    judge = judges.open_judge("qarm.pairs.judges:shares_subject", '{"min_cosine": 0.4}')
    verdicts = judge(
        ["red ceramic tea cup", "red ceramic tea cup"],
        ["porcelain tea mug", "wooden train for children"],
    )
    assert verdicts.tolist() == [True, False]


def test_settings_that_do_not_fit_name_the_field(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("[pairs.filters]\nscore_quantiles = { swing = [0.9, 0.1] }\n")
    with pytest.raises(ConfigError, match=r"score_quantiles\.swing needs 0 <= low < high <= 1"):
        load(str(path))
    path.write_text("[pairs.filters]\nmin_support = { u2u = 3 }\n")
    with pytest.raises(ConfigError, match=r"min_support names \['u2u'\]; sources:"):
        load(str(path))


def test_the_stage_says_what_filters_removed_and_its_ledgers_close(
    make_context, fill, spark, tiny_text_model, capsys
):
    context = make_context(
        "mine-pairs",
        pairs={
            "sources": ["itemcf"],
            "id_vectors": {"rank": 3, "iterations": 1},
            "filters": {
                "min_support": {"itemcf": 2},
                "score_quantiles": {"itemcf": [0.0, 0.9]},
                "min_content_similarity": 0.0,
                "text_backbone": tiny_text_model,
            },
        },
    )
    fill(context, random_log(1, users=25, items=20, events=260))
    rows = [(str(i), i, "x", f"text {i}") for i in range(20)]
    schema = "item_id string, item_idx bigint, content_hash string, text string"
    table = spark.createDataFrame(rows, schema).withColumn("source_type", F.lit("string"))
    context.overwrite(items.TABLE, table)
    result = run(context)
    total = result.ledgers[0]
    total.close("mine-pairs")
    assert total.rows_out == context.table("item_pairs").count() > 0
    assert total.dropped["itemcf filter_support"] > 0
    assert total.dropped["itemcf filter_high_score"] > 0
    assert context.table("item_pairs").where("support < 2").isEmpty()
    assert "ItemCF pairs removed by filters:" in capsys.readouterr().err
