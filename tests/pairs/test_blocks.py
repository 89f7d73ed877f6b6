"""Lists travel to blocks and are scored there, without Spark: properties on random logs."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qarm.config.learning import ItemCF, Swing
from qarm.pairs import itemcf, swing
from qarm.pairs.blocks import cut_lists, read_blocks, record_type, score_slices
from qarm.pairs.blocks_kernel import slice_lists
from qarm.pairs.itemcf_kernel import NORMALIZATIONS

from . import reference
from .collected import same, same_top
from .reference import Event, Pair, random_log


def batches_of(columns: dict[str, np.ndarray], size: int) -> list[pa.RecordBatch]:
    return pa.table(columns).to_batches(max_chunksize=size)


def shuffled(batches: list[pa.RecordBatch], size: int) -> list[pa.RecordBatch]:
    """What Spark's shuffle does: sort by block, then user."""
    table = pa.Table.from_batches(batches).sort_by(
        [("block", "ascending"), ("user_idx", "ascending")]
    )
    return table.combine_chunks().to_batches(max_chunksize=size)


def mine(columns, fields, reach, prepare, size=3):
    """Columns sorted by user and its order -> (pairs, tally), through tiny batches."""
    slices = list(cut_lists(batches_of(columns, size), fields, reach))
    rows = pa.Table.from_batches(list(score_slices(shuffled(slices, size), fields, prepare)))
    found, tally = {}, np.zeros(3, int)
    for row in rows.to_pylist():
        if row["counts"] is not None:
            tally += row["counts"]
        else:
            assert (row["trigger"], row["target"]) not in found
            found[row["trigger"], row["target"]] = Pair(
                row["score"], row["support"], row["weight"], row["last_ts"] / 1e6
            )
    return found, tally


def arrays(rows, names):
    columns = list(zip(*sorted(rows), strict=True))
    return {name: np.array(column) for name, column in zip(names, columns, strict=True)}


def mine_swing(log: list[Event], config: Swing, blocks: int, keeps):
    """Lists without caps of users; ``keeps`` as in the reference."""
    of: dict[tuple[int, int], list[Event]] = {}
    for event in log:
        of.setdefault((event.user, event.item), []).append(event)
    users_of: dict[int, set[int]] = {}
    for user, item in of:
        users_of.setdefault(item, set()).add(user)
    rows = []
    for (user, item), events in of.items():
        sampled = user in keeps(item, users_of[item])
        rows.append(
            (
                user,
                item,
                max(int(e.seconds * 1e6) for e in events),
                sum(e.weight for e in events),
                sampled,
                item % blocks if sampled else -1,
            )
        )
    columns = arrays(rows, ["user_idx", "item_idx", "ts", "weight", "sampled", "block"])
    prepare = partial(swing._prepare, blocks=blocks, **swing._parameters(config))
    return mine(columns, swing._FIELDS, config.max_items_per_user, prepare)


def mine_itemcf(log: list[Event], config: ItemCF, blocks: int):
    days = [e.seconds // 86400 for e in log]
    decays = [2.0 ** ((day - max(days)) / (config.half_life_days or math.inf)) for day in days]
    degree: dict[int, float] = {}
    for e, decay in zip(log, decays, strict=True):
        degree[e.item] = degree.get(e.item, 0) + e.weight * decay
    rows = [
        (e.user, e.seq, e.item, int(e.seconds * 1e6), e.weight, d, degree[e.item], e.item % blocks)
        for e, d in zip(log, decays, strict=True)
    ]
    names = ["user_idx", "position", "item_idx", "ts", "weight", "decay", "degree", "block"]
    columns = arrays(rows, names)
    reach = config.window_events or len(log)
    recency = config.recency ** np.arange(reach)
    total = sum(degree.values())
    prepare = partial(
        itemcf._prepare,
        blocks=blocks,
        recency=recency,
        scale=itemcf._scale(sum(e.weight for e in log) * 4.5 * recency.sum()),
        totals=(total, total / len(degree)),
        **itemcf._parameters(config),
    )
    return mine(columns, itemcf._FIELDS, reach, prepare)


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
    def keeps(item, users):  # coordinated: one order of users for all items
        return set(sorted(users, key=lambda user: user * 7919 % 101)[:cap])

    config = Swing(
        alpha1=alpha1,
        alpha2=alpha2,
        beta=beta,
        min_items_per_user=0,
        min_support=min_support,
        top_k=top_k,
    )
    found, tally = mine_swing(log, config, blocks, keeps)
    everything = reference.swing(log, config.model_copy(update={"min_support": 1}), keeps)
    supported = {k: p for k, p in everything.items() if p.support >= min_support}
    same_top(found, supported, top_k)
    assert tally.tolist() == [
        len(everything),
        len(everything) - len(supported),
        len(supported) - len(found),
    ]
    assert all(found[j, i].score == p.score for (i, j), p in found.items() if (j, i) in found)


@settings(max_examples=120, deadline=None)
@given(
    log=logs,
    blocks=st.integers(1, 20),
    window=st.integers(0, 160),
    window_days=st.sampled_from([0.0, 0.01, 0.5, 40.0]),
    recency=st.floats(0.3, 1),
    half_life=st.sampled_from([0.0, 0.5, 3.0]),
    normalization=st.sampled_from(NORMALIZATIONS),
    min_support=st.integers(1, 3),
    top_k=st.integers(1, 12),
)
def test_itemcf_equals_its_definition_for_any_blocks(
    log, blocks, window, window_days, recency, half_life, normalization, min_support, top_k
):
    log = [e._replace(minute=e.minute * 60) for e in log]  # over several days
    config = ItemCF(
        window_events=window,
        window_days=window_days,
        recency=recency,
        half_life_days=half_life,
        normalization=normalization,
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
    if normalization not in ("tfidf", "bm25"):
        both = [(p, found[j, i]) for (i, j), p in found.items() if (j, i) in found]
        assert all(there.score == back.score for there, back in both)


def test_of_equal_scores_the_smaller_item_stays():
    items = enumerate((7, 3, 5, 1))
    log = [Event(u, item, seq, seq, 1.0) for seq, item in items for u in range(3)]
    swing_config = Swing(min_items_per_user=0, min_support=1, top_k=2)
    expected = {(1, 3), (1, 5), (3, 1), (3, 5), (5, 1), (5, 3), (7, 1), (7, 3)}
    assert set(mine_swing(log, swing_config, 2, lambda item, users: users)[0]) == expected
    assert set(mine_itemcf(log, ItemCF(recency=1.0, top_k=2), 2)[0]) == expected


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(st.lists(st.integers(-1, 4), min_size=1, max_size=12), min_size=1, max_size=5),
    reach=st.integers(0, 13),
)
def test_a_slice_is_what_its_block_can_reach(blocks, reach):
    indptr = np.cumsum([0, *(len(b) for b in blocks)])
    flat = np.array([b for each in blocks for b in each])
    user, block, bounds, entry = slice_lists(indptr, flat, reach)
    found = {
        (u, b): entry[bounds[k] : bounds[k + 1]].tolist()
        for k, (u, b) in enumerate(zip(user.tolist(), block.tolist(), strict=True))
    }
    expected = {}
    for u, mine in enumerate(blocks):
        for b in set(mine) - {-1}:
            places = [p for p, x in enumerate(mine) if x == b]
            near = [k for k in range(len(mine)) if any(abs(k - p) <= reach for p in places)]
            expected[u, b] = [indptr[u] + k for k in near]
    assert found == expected


def test_no_rows_give_no_pairs_and_zero_counts():
    rows = pa.Table.from_batches(list(score_slices([], itemcf._FIELDS, None)))
    assert rows["counts"].to_pylist() == [[0, 0, 0]]
    assert list(cut_lists([], itemcf._FIELDS, 3)) == []


def test_blocks_are_read_whole_from_sliced_batches():
    record = record_type([("item_idx", "<i8")])
    lists = [np.arange(n, dtype="<i8") for n in (2, 0, 3, 1, 4)]
    batch = pa.record_batch(
        [
            pa.array([0, 0, 1, 1, 1]),
            pa.array([5, 6, 5, 7, 9]),
            pa.array([x.tobytes() for x in lists], pa.binary()),
        ],
        names=["block", "user_idx", "entries"],
    )
    read = list(read_blocks([batch.slice(0, 1), batch.slice(1, 3), batch.slice(4)], record))
    assert [b.number for b in read] == [0, 1]
    assert [b.indptr.tolist() for b in read] == [[0, 2, 2], [0, 3, 4, 8]]
    assert read[1].entries["item_idx"].tolist() == [0, 1, 2, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("rows", [1, 7, 10**6])
def test_kernels_go_on_where_the_output_was_full(monkeypatch, rows):
    from qarm.pairs import blocks

    monkeypatch.setattr(blocks, "_CALL_ROWS", rows)
    log = random_log(3, users=15, items=14, events=200)
    config = Swing(min_items_per_user=0, min_support=1)
    found, _ = mine_swing(log, config, 2, lambda item, users: users)
    same(found, reference.swing(log, config, lambda item, users: users))
    found, _ = mine_itemcf(log, ItemCF(), 2)
    same(found, reference.itemcf(log, ItemCF()))
