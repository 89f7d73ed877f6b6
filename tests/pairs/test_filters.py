"""Filters of pairs: what each removes, and that every pair is accounted for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from pyspark.sql import functions as F

from qarm.config.pairs import Filters
from qarm.errors import ConfigError
from qarm.pairs import judges
from qarm.pairs.filters import filter_pairs, is_active
from qarm.stages.mine_pairs import run
from schemas import items

from .reference import random_log

PAIRS = [(1, 2, 0.9, 3), (1, 3, 0.5, 1), (2, 3, 0.1, 3), (3, 4, 0.7, 5), (4, 1, 0.3, 2)]


def same_colour() -> judges.PairJudge:
    """A judge for tests: the texts' first words agree."""

    def judge(triggers: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        agree = [a.split()[0] == b.split()[0] for a, b in zip(triggers, targets, strict=True)]
        return np.array(agree)

    return judge


def answers_nothing() -> judges.PairJudge:
    """A judge that returns no verdicts."""
    return lambda triggers, targets: np.zeros(0, bool)


@pytest.fixture
def pairs(spark):
    schema = "trigger bigint, target bigint, score double, support bigint"
    return spark.createDataFrame(PAIRS, schema).repartition(3)


def kept(df):
    return df.persist()


def left(found):
    df, removed = found
    return {(r["trigger"], r["target"]) for r in df.collect()}, removed


def test_content_floor_keeps_what_it_cannot_judge(spark, pairs):
    rows = [(1, [1.0, 0.0]), (2, [2.0, 0.1]), (3, [0.0, 3.0]), (4, [0.0, 0.0])]
    vectors = spark.createDataFrame(rows, "item_idx bigint, vector array<float>")
    config = Filters(min_content_similarity=0.5)
    found = filter_pairs(pairs, config, keep=kept, vectors=vectors)
    rest, removed = left(found)
    assert rest == {(1, 2), (3, 4), (4, 1)}
    assert removed == {"filter_content": 2}


def test_a_judge_is_asked_about_what_is_left_and_has_texts(spark, pairs):
    rows = [(1, "red cup"), (2, "red bowl"), (3, "blue cup"), (4, None)]
    texts = spark.createDataFrame(rows, "item_idx bigint, text string")
    unlike = [(i, [1.0, 0.0] if i != 2 else [0.0, 1.0]) for i in range(1, 5)]
    vectors = spark.createDataFrame(unlike, "item_idx bigint, vector array<float>")
    config = Filters(judge="tests.pairs.test_filters:same_colour", min_content_similarity=0.5)
    assert is_active(config)
    assert not is_active(Filters())
    rest, removed = left(filter_pairs(pairs, config, keep=kept, vectors=vectors, texts=texts))
    assert rest == {(3, 4), (4, 1)}
    assert removed == {"filter_content": 2, "filter_judge": 1}  # the first filter counts


def test_a_judge_that_is_not_there_or_answers_wrongly(spark, pairs):
    texts = spark.createDataFrame([(i, "red") for i in range(5)], "item_idx bigint, text string")
    for name in ("nowhere:judge", "qarm.pairs.judges:nothing", ""):
        with pytest.raises(ConfigError, match=r"expected package\.module:function"):
            judges.open_judge(name)
    config = Filters(judge="tests.pairs.test_filters:answers_nothing")
    with pytest.raises(Exception, match="expected one verdict per pair"):
        filter_pairs(pairs, config, keep=kept, texts=texts)


def test_the_packaged_judge_tells_subjects_apart():
    judge = judges.open_judge("qarm.pairs.judges:shares_subject")
    verdicts = judge(
        ["red ceramic tea cup", "red ceramic tea cup"],
        ["porcelain tea mug", "wooden train for children"],
    )
    assert verdicts.tolist() == [True, False]


def test_the_stage_says_what_filters_removed_and_its_ledgers_close(
    make_miner, fill, spark, tiny_text_model, capsys
):
    context = make_miner(
        pairs={
            "sources": ["itemcf"],
            "filters": {
                "min_content_similarity": -0.99,
                "judge": "tests.pairs.test_filters:same_colour",
            },
        },
        encoder={"text_backbone": tiny_text_model},
    )
    fill(context, random_log(1, users=25, items=20, events=120))
    rows = [(str(i), i, "x", f"{'red' if i % 2 else 'blue'} {i}") for i in range(20)]
    schema = "item_id string, item_idx bigint, content_hash string, text string"
    table = spark.createDataFrame(rows, schema).withColumn("source_type", F.lit("string"))
    context.overwrite(items.TABLE, table)
    result = run(context)
    total = result.ledgers[0]
    total.close("mine-pairs")
    assert total.rows_out == context.table("item_pairs").count() > 0
    assert total.dropped["itemcf filter_judge"] > 0
    assert context.table("item_pairs").where("(trigger + target) % 2 = 1").isEmpty()
    assert "ItemCF pairs removed by filters:" in capsys.readouterr().err
