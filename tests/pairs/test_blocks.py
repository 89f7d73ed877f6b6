"""Lists travel to blocks and are scored there, without Spark: properties on random logs."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qarm.config.pairs import ItemCF, Swing
from qarm.kernels.block_lists import OWN, SAMPLED, cut_to_blocks
from qarm.pairs import itemcf, lists, swing
from qarm.pairs.blocks import Routing, cut_lists, read_block, score_slices

from . import reference
from .collected import same, same_top
from .reference import Event, Pair, random_log


def batches_of(log: list[Event], size: int = 3) -> list[pa.RecordBatch]:
    columns = {
        "user_idx": np.array([e.user for e in log], np.int64),
        "item_idx": np.array([e.item for e in log], np.int64),
        "ts": np.array([int(e.seconds * 1e6) for e in log], np.int64),
        "seq": np.array([e.seq for e in log], np.int64),
        "weight": np.array([e.weight for e in log], np.float64),
    }
    return pa.table(columns).to_batches(max_chunksize=size)


def listed(log: list[Event], packer, tasks: int = 3) -> list[pa.RecordBatch]:
    """Events -> lists, through several map tasks and reduce tasks, as Spark would."""
    batches = batches_of(log)
    keys = np.arange(tasks)
    parts = [p for k in range(3) for p in lists.stream_parts(batches[k::3], packer, keys)]
    shuffled = [sorted_rows(parts, key) for key in keys]
    return [batch for part in shuffled for batch in lists.stream_lists(part, packer)]


def sorted_rows(batches: list[pa.RecordBatch], key: int) -> list[pa.RecordBatch]:
    """What the shuffle sends to one task, in small batches."""
    table = pa.Table.from_batches(batches)
    return table.filter(pc.equal(table["key"], int(key))).combine_chunks().to_batches(2)


def mine(packed: list[pa.RecordBatch], routing: Routing, prepare, hash_of=lambda user: 0):
    """Lists -> (pairs, tally), each block on its own."""
    keys = np.arange(routing.blocks)
    hashed = [
        pa.record_batch(
            [
                b["user_idx"],
                pa.array([hash_of(u) for u in b["user_idx"].to_pylist()], pa.int64()),
                b["entries"],
            ],
            names=["user_idx", "user_hash", "entries"],
        )
        for b in packed
    ]
    slices = list(cut_lists(hashed, routing, keys))
    found, tally = {}, np.zeros(3, int)
    for key in keys:
        mine = sorted_rows(slices, key) if slices else []
        for row in pa.Table.from_batches(list(score_slices(mine, prepare))).to_pylist():
            if row["counts"] is not None:
                tally += row["counts"]
            else:
                assert (row["trigger"], row["target"]) not in found
                found[row["trigger"], row["target"]] = Pair(
                    row["score"], row["support"], row["weight"], row["last_ts"] / 1e6
                )
    return found, tally


def mine_swing(log: list[Event], config: Swing, blocks: int, hash_of, most: int):
    """Whole lists; an item with more than ``most`` users keeps those with the smallest hash."""
    packed = listed(log, lists.DistinctItems(0, config.max_items_per_user, False))
    users_of: dict[int, set[int]] = {}
    for event in log:
        users_of.setdefault(event.item, set()).add(event.user)
    hot = {i: sorted(map(hash_of, u))[most - 1] for i, u in users_of.items() if len(u) > most}
    routing = Routing(
        blocks,
        config.max_items_per_user,
        np.array(sorted(hot), np.int64),
        np.array([hot[item] for item in sorted(hot)], np.int64),
    )
    prepare = partial(swing._prepare, **swing._parameters(config))
    return mine(packed, routing, prepare, hash_of)


class Held:
    """A broadcast, without Spark."""

    def __init__(self, value):
        self.value = value


def mine_itemcf(log: list[Event], config: ItemCF, blocks: int):
    degree: dict[int, float] = {}
    for e in log:
        degree[e.item] = degree.get(e.item, 0) + e.weight
    items = sorted(degree)
    reach = config.window_events or len(log)
    recency = config.recency ** np.arange(reach)
    everything = config.recency == 1.0 and reach >= len(log)
    rules = itemcf.make_rules(
        config,
        np.empty(0) if everything else recency,
        sum(e.weight for e in log) * 4.5 * recency.sum(),
    )
    weights = Held((np.array(items), np.array([degree[i] for i in items])))
    prepare = partial(itemcf.prepare_block, weights=weights, rules=rules)
    return mine(listed(log, lists.LatestEvents(len(log))), Routing(blocks, reach), prepare)


logs = st.builds(
    random_log,
    st.integers(0, 10**6),
    users=st.integers(1, 20),
    items=st.integers(1, 15),
    events=st.integers(1, 150),
)


@settings(max_examples=60, deadline=None)
@given(
    log=logs,
    blocks=st.integers(1, 20),
    cap=st.integers(2, 20),
    alpha1=st.floats(0, 20),
    alpha2=st.floats(0, 3),
    beta=st.floats(-0.5, 1),
    min_support=st.integers(1, 4),
    top_k=st.integers(1, 12),
)
def test_swing_equals_its_definition_for_any_blocks(
    log, blocks, cap, alpha1, alpha2, beta, min_support, top_k
):
    def hash_of(user):
        return user * 7919 % 101

    def keeps(item, users):  # coordinated: one order of users for all items
        return set(sorted(users, key=hash_of)[:cap])

    config = Swing(
        alpha1=alpha1,
        alpha2=alpha2,
        beta=beta,
        min_items_per_user=0,
        min_support=min_support,
        top_k=top_k,
    )
    found, tally = mine_swing(log, config, blocks, hash_of, cap)
    everything = reference.swing(log, config.model_copy(update={"min_support": 1}), keeps)
    supported = {k: p for k, p in everything.items() if p.support >= min_support}
    same_top(found, supported, top_k)
    assert tally.tolist() == [
        len(everything),
        len(everything) - len(supported),
        len(supported) - len(found),
    ]
    assert all(found[j, i].score == p.score for (i, j), p in found.items() if (j, i) in found)


@settings(max_examples=100, deadline=None)
@given(
    log=logs,
    blocks=st.integers(1, 20),
    window=st.integers(0, 160),
    window_days=st.sampled_from([0.0, 0.01, 0.5, 40.0]),
    recency=st.one_of(st.just(1.0), st.floats(0.3, 1)),
    min_support=st.integers(1, 3),
    top_k=st.integers(1, 12),
)
def test_itemcf_equals_its_definition_for_any_blocks(
    log, blocks, window, window_days, recency, min_support, top_k
):
    log = [e._replace(minute=e.minute * 60) for e in log]  # over several days
    config = ItemCF(
        window_events=window,
        window_days=window_days,
        recency=recency,
        min_support=min_support,
        top_k=top_k,
    )
    found, tally = mine_itemcf(log, config, blocks)
    everything = reference.itemcf(log, config.model_copy(update={"min_support": 1}))
    supported = {k: p for k, p in everything.items() if p.support >= min_support}
    same_top(found, supported, top_k)
    assert tally.tolist() == [
        len(everything),
        len(everything) - len(supported),
        len(supported) - len(found),
    ]
    both = [(p, found[j, i]) for (i, j), p in found.items() if (j, i) in found]
    assert all(there.score == back.score for there, back in both)


def test_of_equal_scores_the_smaller_item_stays():
    items = enumerate((7, 3, 5, 1))
    log = [Event(u, item, seq, seq, 1.0) for seq, item in items for u in range(3)]
    swing_config = Swing(min_items_per_user=0, min_support=1, top_k=2)
    expected = {(1, 3), (1, 5), (3, 1), (3, 5), (5, 1), (5, 3), (7, 1), (7, 3)}
    assert set(mine_swing(log, swing_config, 2, hash, 100)[0]) == expected
    assert set(mine_itemcf(log, ItemCF(recency=1.0, top_k=2), 2)[0]) == expected


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(st.lists(st.integers(-1, 4), min_size=1, max_size=12), min_size=1, max_size=5),
    reach=st.integers(0, 13),
)
def test_a_slice_is_what_its_block_can_reach(blocks, reach):
    indptr = np.cumsum([0, *(len(b) for b in blocks)])
    flat = np.array([b for each in blocks for b in each])
    words = np.arange(3 * len(flat)).reshape(-1, 3)
    sampled = np.ones(len(flat), bool)
    at, user, length, out = cut_to_blocks(indptr, words, flat, sampled, reach, 5)
    ends = np.cumsum(length)
    found = {
        (int(user[k]), b): out[ends[k] - length[k] : ends[k]]
        for b in range(5)
        for k in range(at[b], at[b + 1])
    }
    expected = {}
    for u, mine in enumerate(blocks):
        for b in set(mine) - {-1}:
            places = [p for p, x in enumerate(mine) if x == b]
            near = [k for k in range(len(mine)) if any(abs(k - p) <= reach for p in places)]
            expected[u, b] = [(k, mine[k] == b) for k in near]
    assert set(found) == set(expected)
    for key, near in expected.items():
        mark = found[key][:, 0] >> 32
        assert [(int(m & (SAMPLED - 1)), bool(m & OWN)) for m in mark] == near
        assert (mark & SAMPLED).all()
        assert found[key][:, 1].tolist() == [3 * (indptr[key[0]] + k) + 1 for k, _ in near]


def test_no_rows_give_no_pairs_and_zero_counts():
    rows = pa.Table.from_batches(list(score_slices([], None)))
    assert rows["counts"].to_pylist() == [[0, 0, 0]]
    assert list(cut_lists([], Routing(2, 3), np.arange(2))) == []


def test_only_wanted_items_are_scored():
    log = random_log(3, users=15, items=14, events=200)
    config = ItemCF(recency=1.0, window_events=0, top_k=100)
    whole, _ = mine_itemcf(log, config, 3)
    packed = listed(log, lists.LatestEvents(len(log)))
    wanted = np.array([2, 5, 9])
    slices = list(
        cut_lists(
            [
                pa.record_batch(
                    [b["user_idx"], pa.array(np.zeros(len(b), np.int64)), b["entries"]],
                    names=["user_idx", "user_hash", "entries"],
                )
                for b in packed
            ],
            Routing(3, len(log), wanted=wanted),
            np.arange(3),
        )
    )
    triggers = set()
    for key in range(3):
        block = read_block(sorted_rows(slices, key))
        if block is not None:
            triggers |= set(block.items[block.trigger].tolist())
    assert triggers == {2, 5, 9} & {i for i, _ in whole}


def test_items_far_apart_are_coded_by_sorting(monkeypatch):
    from qarm.pairs import blocks

    log = random_log(3, users=15, items=14, events=200)
    found, _ = mine_itemcf(log, ItemCF(), 2)
    monkeypatch.setattr(blocks, "_SPARSE", 0)
    again, _ = mine_itemcf(log, ItemCF(), 2)
    assert again == found


@pytest.mark.parametrize("rows", [1, 7, 10**6])
def test_kernels_go_on_where_the_output_was_full(monkeypatch, rows):
    from qarm.pairs import blocks

    monkeypatch.setattr(blocks, "_CALL_ROWS", rows)
    log = random_log(3, users=15, items=14, events=200)
    config = Swing(min_items_per_user=0, min_support=1)
    found, _ = mine_swing(log, config, 2, hash, 100)
    same(found, reference.swing(log, config, lambda item, users: users))
    found, _ = mine_itemcf(log, ItemCF(), 2)
    same(found, reference.itemcf(log, ItemCF()))


def test_blocks_are_more_where_one_would_hold_too_much(spark):
    from qarm.pairs.blocks import count_blocks

    sizes = [20] * 500 + [200] * 5  # entries: 11,000
    rows = spark.createDataFrame(
        [(n, bytearray(n * lists.RECORD.itemsize)) for n in sizes],
        "user_idx bigint, entries binary",
    )
    cores = spark.sparkContext.defaultParallelism
    assert count_blocks(rows, 11_000, 1000, 11_000) == cores
    few = count_blocks(rows, 11_000, 1000, 6_000)
    many = count_blocks(rows, 11_000, 1000, 3_000)
    assert cores < few < many <= 256
    assert count_blocks(rows, 11_000, 1, 3_000) <= few  # a short reach ships less
