"""ItemCF of distinct users: the definition, and that a run that counts few equals one of all."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qarm.config.pairs import ItemCF
from qarm.kernels.cooccurrence_days import UNITS
from qarm.pairs import itemcf_users
from qarm.pairs.itemcf import mine_itemcf
from qarm.pairs.itemcf_users import stream_terms
from qarm.pairs.lists import LatestEvents
from qarm.pipeline import own_tables
from qarm.stages.mine_pairs import run
from schemas import itemcf_user_lists, items

from . import reference
from .collected import collect, same
from .reference import Event, random_log
from .test_blocks import listed, logs
from .test_itemcf_days import spread
from .test_stage import of_source

DAY = 86_400
TABLES = ("itemcf_user_counts", "itemcf_user_lists")


def add_terms(log: list[Event], config: ItemCF, sign: int, counts: dict) -> None:
    """The streamed rows of a log's lists, added to (units, users) of each key."""
    signed = [
        pa.record_batch(
            [pa.array(np.full(len(b), sign, np.int32)), b["entries"]], names=["sign", "entries"]
        )
        for b in (listed(log, LatestEvents(config.max_events_per_user)) if log else [])
    ]
    rows = stream_terms(
        signed,
        config.recency ** np.arange(config.window_events or config.max_events_per_user),
        int(config.window_days * DAY * 1e6) or 2**63 - 1,
        config.half_life_days,
    )
    for batch in rows:
        for row in batch.to_pylist():
            key = (row["trigger"], row["target"], row["day"], row["last_ts"])
            units, users = counts.get(key, (0, 0))
            counts[key] = (units + row["units"], users + row["users"])
            if counts[key][1] == 0:
                assert counts.pop(key) == (0, 0)


@settings(max_examples=100, deadline=None)
@given(
    log=logs,
    window=st.sampled_from([0, 1, 3, 160]),
    window_days=st.sampled_from([0.0, 0.2, 1.5]),
    recency=st.sampled_from([1.0, 0.7]),
    half_life=st.sampled_from([0.0, 0.5, 3.0]),
    cap=st.sampled_from([2, 7, 1000]),
    terms=st.sampled_from([1, 50, 1 << 20]),
)
def test_terms_of_users_add_up_to_the_definition_and_can_be_taken_away(
    log, window, window_days, recency, half_life, cap, terms
):
    log = spread(log, 60)
    config = ItemCF(
        counts="users", window_events=window, window_days=window_days, recency=recency,
        half_life_days=half_life, max_events_per_user=cap, normalization="none",
    )  # fmt: skip
    counts: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(itemcf_users, "_LISTED_TERMS", terms)
        add_terms(log, config, 1, counts)
        today = max(e.seconds // DAY for e in log)
        total: dict = defaultdict(float)
        support: dict = defaultdict(int)
        last: dict = defaultdict(float)
        for (i, j, day, last_ts), (units, users) in counts.items():
            decay = 2.0 ** ((day - today) / half_life) if half_life else 1.0
            total[i, j] += units / UNITS * decay
            support[i, j] += users
            last[i, j] = max(last[i, j], last_ts / 1e6)
        expected = {p: x for p, x in reference.itemcf(log, config).items() if p[0] < p[1]}
        assert {p for p in total if p[0] != p[1]} == set(expected)
        for pair, there in expected.items():
            assert total[pair] == pytest.approx(there.weight, abs=1e-7)
            assert (support[pair], last[pair]) == (there.support, there.last)
        few = [e for e in log if e.user % 2]
        add_terms([e for e in log if e.user % 2 == 0], config, -1, counts)
        alone: dict = {}
        add_terms(few, config, 1, alone)
        assert counts == alone
        assert bool(alone) == bool(few)


def test_without_weights_and_decay_counts_are_of_distinct_users(frame):
    log = [e._replace(weight=1.0) for e in random_log(7, users=30, items=12, events=300)]
    config = ItemCF(counts="users", window_events=0, recency=1.0, normalization="jaccard")
    found = collect(mine_itemcf(frame(log), config))[0]
    users = {i: {e.user for e in log if e.item == i} for i in {e.item for e in log}}
    both = {(i, j): users[i] & users[j] for i in users for j in users if i != j}
    assert set(found) == {pair for pair, common in both.items() if common}
    for (i, j), pair in found.items():
        assert pair.weight == pair.support == len(both[i, j])
        assert pair.score == pytest.approx(len(both[i, j]) / len(users[i] | users[j]))
    of_events = collect(mine_itemcf(frame(log), config.model_copy(update={"counts": "events"})))[0]
    assert any(of_events[key].weight > pair.weight for key, pair in found.items())


@pytest.mark.parametrize("normalization", ["cosine", "bm25"])
def test_caps_decay_and_history_equal_the_definition(frame, tiny_batches, normalization):
    log = spread(random_log(6, users=15, items=12, events=200), 60)
    config = ItemCF(
        counts="users", window_events=4, half_life_days=2.0, history_days=4, top_k=200,
        max_events_per_user=8, normalization=normalization,
    )  # fmt: skip
    mined = mine_itemcf(frame(log), config)
    found = collect(mined)[0]
    same(found, reference.itemcf(log, config))
    longer = reference.itemcf(log, config.model_copy(update={"history_days": 0}))
    assert 20 < len(found) < len(longer)
    assert mined.skew["users_capped"] > 1


def test_days_of_users_do_not_add_up():
    with pytest.raises(ValueError, match='by_day needs counts = "events"'):
        ItemCF(by_day=True, window_days=1.0, counts="users")
    with pytest.raises(ValueError, match='incremental needs counts = "users"'):
        ItemCF(incremental=True)


SETTINGS = {
    "counts": "users",
    "incremental": True,
    "window_events": 4,
    "window_days": 2.5,
    "half_life_days": 2.0,
    "history_days": 5,
    "max_events_per_user": 15,
    "min_support": 2,
    "top_k": 5,
}


@pytest.fixture
def lake_of(make_context, spark, tmp_path):
    """A context of its own lake; ItemCF alone, with ID vectors that cost nothing."""
    vectors = str(tmp_path / "vectors")
    rows = [(i, [1.0, float(i)]) for i in range(12)]
    spark.createDataFrame(rows, "item_idx long, vector array<double>").write.parquet(vectors)

    def make(name: str, **itemcf):
        context = make_context(
            "mine-pairs",
            lake=str(tmp_path / name),
            pairs={
                "sources": ["itemcf"],
                "itemcf": {**SETTINGS, **itemcf},
                "estimate_mass_lost": False,
            },
            external={"tables": {"id_vectors": vectors}},
        )
        own_tables.adopt(context)
        return context

    return make


@pytest.fixture
def night(fill):
    """A run of the stage on the events before a day's end; the facts about skew."""

    def mine(context, events: list[Event], day: int):
        fill(context, [e for e in events if e.minute < day * 1440], train_until=day * 1440)
        for name in TABLES:
            context.outputs.pop(name, None)
        result = run(context)
        for ledger in result.ledgers:
            ledger.close("mine-pairs")
        return result.facts["skew"]["itemcf"]

    return mine


def contents(context, names=("item_pairs", *TABLES)) -> dict[str, list]:
    """All rows of the tables, but for hashes of settings and versions of tables."""
    left_out = ("miner_version", "counted_with", "counts_version")
    return {
        name: sorted(map(tuple, context.table(name).drop(*left_out).collect())) for name in names
    }


def positive(events: list[Event], day: int) -> list[Event]:
    return [e for e in events if e.minute < day * 1440 and e.weight > 0.6]


@pytest.mark.slow
def test_nights_with_late_events_backfill_and_takedowns_equal_a_recount(
    lake_of, night, fill, without_item
):
    log = spread(random_log(8, users=20, items=12, events=260), 60)
    context = lake_of("nightly")

    def changes(events, day):
        return night(context, events, day)["users_with_changes"]

    late = Event(1, 3, 2 * 1440 + 5, 0, 1.0)
    missing = {e for e in log if e.user in (2, 3) and 1440 < e.minute < 3000}  # filled in later
    first = [e for e in log if e != late and e not in missing]
    everybody = {e.user for e in positive(first, 4)}
    assert changes(first, 4) == len(everybody)
    today = {e.user for e in positive(first, 5)} & {
        e.user for e in positive(first, 5) if e.minute >= 4 * 1440
    }
    assert 0 < changes(first, 5) == len(today) < 20
    assert 1 < changes([*log, late], 5) <= 3
    versions = context.ref("itemcf_user_counts").version
    assert changes([*log, late], 5) == 0
    assert context.ref("itemcf_user_counts").version == versions  # published again
    erased = [e for e in [*log, late] if e.user != 0]
    removed = without_item(5)
    context.overwrite(items.TABLE, removed)
    skew = night(context, erased, 8)
    old = [e for e in positive(erased, 8) if e.item != 5 and e.minute < 3 * 1440]
    assert skew["events_before_history"] == len(set(old)) > 20
    step_by_step = contents(context)
    assert all(step_by_step.values())
    assert context.table("itemcf_user_lists").where("user_idx = 0").isEmpty()
    for name in ("item_pairs", "itemcf_user_counts"):
        assert context.table(name).where("trigger = 5 OR target = 5").isEmpty(), name

    fresh = lake_of("fresh")
    fresh.overwrite(items.TABLE, removed)
    night(fresh, erased, 8)
    assert contents(fresh) == step_by_step
    plain = lake_of("plain", incremental=False)
    plain.overwrite(items.TABLE, removed)
    night(plain, erased, 8)
    same(of_source(context, "itemcf"), of_source(plain, "itemcf"))


def test_a_crash_between_the_tables_changes_nothing(lake_of, night, monkeypatch):
    log = spread(random_log(9, users=10, items=10, events=120), 60)
    context = lake_of("crashes")
    night(context, log, 3)
    whole = context.overwrite

    def broken(table, df, **lineage):
        if table is itemcf_user_lists.TABLE:
            raise OSError("the disk is full")
        return whole(table, df, **lineage)

    monkeypatch.setattr(context, "overwrite", broken)
    with pytest.raises(OSError, match="the disk is full"):
        night(context, log, 4)
    monkeypatch.setattr(context, "overwrite", whole)
    night(context, log, 5)
    fresh = lake_of("fresh")
    night(fresh, log, 5)
    assert contents(context) == contents(fresh)


def test_other_settings_count_everybody_anew(lake_of, night):
    log = spread(random_log(9, users=10, items=10, events=120), 60)
    context = lake_of("settings")
    everybody = night(context, log, 4)["users_with_changes"]
    assert night(lake_of("settings", top_k=3), log, 4)["users_with_changes"] == 0
    other = lake_of("settings", window_events=2)
    assert night(other, log, 4)["users_with_changes"] == everybody > 5
    fresh = lake_of("fresh", window_events=2)
    night(fresh, log, 4)
    assert contents(other) == contents(fresh)
