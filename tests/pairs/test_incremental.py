"""Night after night in one lake equals everything at once in an empty one: User2Item, Swing, and
ItemCF by day."""

from __future__ import annotations

import pytest

from qarm.errors import ConfigError
from qarm.pipeline import own_tables
from qarm.stages.mine_pairs import run
from schemas import items

from .reference import Event, random_log
from .test_itemcf_days import spread

TABLES = (
    *("item_pairs", "u2i_days", "u2i_counted", "swing_scored", "swing_items"),
    *("itemcf_days", "itemcf_item_days", "itemcf_counted"),
)
SETTINGS = {
    "sources": ["u2i", "swing", "itemcf"],
    "estimate_mass_lost": False,
    "itemcf": {"by_day": True, "window_days": 1.0, "half_life_days": 2.0, "top_k": 5},
    "u2i": {"incremental": True, "window": 4},
    "swing": {
        "incremental": True,
        "min_items_per_user": 2,
        "max_items_per_user": 9,
        "max_users_per_item": 6,
        "min_support": 1,
        "top_k": 5,
    },
}


@pytest.fixture
def vectors(spark, tmp_path) -> str:
    """ID vectors of the user's own: they stay from night to night."""
    path = str(tmp_path / "vectors")
    rows = [(i, [1.0, float(i), float(i * i % 5)]) for i in range(12)]
    spark.createDataFrame(rows, "item_idx long, vector array<double>").write.parquet(path)
    return path


def contents(context, names=TABLES) -> dict[str, list]:
    """All rows of the tables, but for hashes of the run's settings, which name the lake."""
    left_out = ("miner_version", "counted_with", "scored_with")
    return {
        name: sorted(map(tuple, context.table(name).drop(*left_out).collect())) for name in names
    }


@pytest.mark.slow
def test_nights_with_late_events_takedowns_and_backfill_equal_a_recompute(
    make_context, fill, without_item, tmp_path, vectors
):
    log = spread(random_log(8, users=20, items=12, events=220), 60)
    own = {"pairs": SETTINGS, "external": {"tables": {"id_vectors": vectors}}}
    context = make_context("mine-pairs", **own)
    own_tables.adopt(context)

    def night(events: list[Event], day: int) -> tuple[int, int, int]:
        """Users whose triggers, items whose Swing scores and days whose pairs were counted."""
        fill(context, [e for e in events if e.minute < day * 1440], train_until=day * 1440)
        for name in TABLES:
            context.outputs.pop(name, None)
        result = run(context)
        for ledger in result.ledgers:
            ledger.close("mine-pairs")
        by_name = {each.name: each for each in result.ledgers}
        mined = by_name["positive events of the mining period"].rows_out
        assert by_name["User2Item targets"].rows_in == mined
        skew = result.facts["skew"]
        return (
            skew["u2i"]["users_with_changes"],
            skew["swing"]["items_scored"],
            skew["itemcf"]["days_counted"],
        )

    late = Event(1, 3, 1440 + 5, 0, 1.0)
    missing = {e for e in log if e.user in (2, 3) and e.minute < 2000}  # filled in later
    first = [e for e in log if e != late and e not in missing]
    users, scored, counted = night(first, 4)
    assert min(users, scored) > 5
    assert counted == 4
    assert night(first, 4) == (0, 0, 0)
    last_day = {e.user for e in first if 4 * 1440 <= e.minute < 5 * 1440 and e.weight > 0.6}
    users, _, counted = night(first, 5)
    assert users == len(last_day) < 20
    assert counted == 1
    users, _, counted = night([*log, late], 5)
    assert 1 < users <= 3  # a late event, and two users filled in
    assert counted == 3  # their two days, and the one that reaches into the second
    erased = [e for e in [*log, late] if e.user != 0]
    assert night(erased, 5)[0] == 1
    gone = without_item(5)
    context.overwrite(items.TABLE, gone)
    night(erased, 7)
    step_by_step = contents(context)
    assert all(step_by_step.values())
    for name in ("item_pairs", "u2i_days", "swing_scored", "itemcf_days"):
        assert context.table(name).where("trigger = 5 OR target = 5").isEmpty(), name
    for name in ("u2i_days", "u2i_counted"):
        assert context.table(name).where("user_idx = 0").isEmpty(), name

    plain = {**SETTINGS, "sources": ["u2i", "swing"], "u2i": {"window": 4}}
    plain["swing"] = {**SETTINGS["swing"], "incremental": False}
    for pairs, names in ((SETTINGS, TABLES), (plain, ("item_pairs",))):
        fresh = make_context(
            "mine-pairs", **{**own, "pairs": pairs, "lake": str(tmp_path / f"fresh-{len(names)}")}
        )
        fresh.overwrite(items.TABLE, gone)
        fill(fresh, [e for e in erased if e.minute < 7 * 1440], train_until=7 * 1440)
        run(fresh)
        for name, rows in contents(fresh, names).items():
            there = step_by_step[name]
            if pairs is plain:  # ItemCF by day is compared with its definition in its own test
                there = [row for row in there if "itemcf" not in row]
            assert rows == there, name


def test_pinned_id_vectors_are_published_again(make_context, fill):
    log = random_log(8, users=20, items=12, events=220)
    pairs = {"sources": ["u2i"], "u2i": {"incremental": True}}
    first = make_context("mine-pairs", pairs=pairs)
    fill(first, [e for e in log if e.item < 8], train_until=150)
    run(first)
    version = first.ref("id_vectors").version
    pinned = make_context("mine-pairs", pairs={**pairs, "id_vectors": {"version": version}})
    fill(pinned, log, train_until=150)
    result = run(pinned)
    assert pinned.ref("id_vectors").version == version
    ledger = next(each for each in result.ledgers if each.name == "ID vectors, items")
    ledger.close("mine-pairs")
    assert 0 < ledger.dropped["not_in_the_pinned_version"] <= 4
    late = make_context("mine-pairs", pairs={**pairs, "id_vectors": {"version": version + 9}})
    fill(late, log, train_until=150)
    with pytest.raises(ConfigError, match=f"version {version + 9} was asked for"):
        run(late)
