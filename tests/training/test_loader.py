"""Rows, order, padding and errors of the loader, in one process."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from qarm.config.training import Loader
from qarm.errors import ConfigError, InputError, RowsLostError
from qarm.training import collectives, row_groups
from qarm.training import loader as loader_module
from qarm.training.loader import WEIGHT, EpochLoader, RowGroup, ShardPlan
from tests.training import ranks

ROWS = 144


def make(files, columns, batch=8, rank=0, world=1, seed=3, lengths=None, **settings):
    """A loader; one shard per rank by default."""
    return EpochLoader(
        files,
        columns,
        Loader(**{"shards": world, **settings}),
        batch_size=batch,
        rank=rank,
        world=world,
        seed=seed,
        list_lengths=lengths,
    )


def read(files, *, epoch=0, start_step=0, **options):
    """Batches of one rank as dicts of arrays, and the loader."""
    loader = make(files, ["id", "list"], lengths={"list": 3}, **options)
    batches = [
        {name: tensor.numpy() for name, tensor in b.items()}
        for b in loader.epoch(epoch, start_step)
    ]
    return batches, loader


def ids(batches):
    """Ids of the rows that are no padding."""
    return [int(i) for b in batches for i, w in zip(b["id"], b[WEIGHT], strict=True) if w > 0]


def test_list_columns_come_as_matrices_that_belong_to_their_rows(files):
    batches, loader = read(files)
    assert all(b["list"].shape == (8, 3) for b in batches)
    assert all((b["list"] == b["id"][:, None] + np.arange(3)).all() for b in batches)
    assert loader.rows_read == ROWS
    assert loader.rows_per_rank == [ROWS]


def test_padding_repeats_a_row_of_the_shard_at_weight_zero(files):
    batches, loader = read(files, batch=100)
    assert [int(b[WEIGHT].sum()) for b in batches] == [100, 44]
    last = batches[-1]
    assert len(set(last["id"][44:])) == 1
    assert last["id"][44] in last["id"][:44]
    assert (last["list"] == last["id"][:, None] + np.arange(3)).all()
    assert loader.steps_per_epoch == 2


def test_order_depends_on_epoch_and_seed_not_on_workers_or_the_order_of_files(files):
    first = ids(read(files)[0])
    assert first == ids(read(files[::-1], workers=3)[0])
    assert sorted(first) == list(range(ROWS))
    others = [
        ids(read(files, epoch=1)[0]),
        ids(read(files, seed=0)[0]),
        ids(read(files, seed=2**40)[0]),
    ]
    assert all(sorted(other) == list(range(ROWS)) and other != first for other in others)
    # Seed 0 is a seed like another; for petastorm it means none.
    assert others[1] == ids(read(files, seed=0)[0])


def test_rows_of_different_row_groups_are_mixed(files):
    batches, _ = read(files, batch=48)
    spread = [int(b["id"].max() - b["id"].min()) for b in batches]
    assert min(spread) > 100


def test_without_shuffling_the_files_order_is_kept(files):
    assert ids(read(files, seed=None)[0]) == list(range(ROWS))


LAYOUTS = st.lists(
    st.lists(st.integers(0, 23), min_size=1, max_size=6), min_size=1, max_size=6
).filter(lambda files: sum(map(np.count_nonzero, files)) >= 4)
"""Rows of the row groups of each file; at least four with rows."""
FAST = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FAST
@given(
    layout=LAYOUTS,
    world=st.sampled_from([1, 2, 3]),
    other_world=st.sampled_from([1, 2, 3]),
    fold=st.sampled_from([1, 2, 4]),
    shard_batch=st.integers(1, 9),
    workers=st.sampled_from([1, 3]),
    shuffle_rows=st.sampled_from([1, 60, 10_000]),
    epoch=st.integers(0, 2),
    crash=st.floats(0, 1),
)
def test_every_row_once_at_any_layout_ranks_and_crash(
    tmp_path_factory,
    layout,
    world,
    other_world,
    fold,
    shard_batch,
    workers,
    shuffle_rows,
    epoch,
    crash,
):
    """Rows come once over all ranks, in equal steps; step t holds the same rows, in the same
    order, at another number of ranks; who starts at step t, with these ranks or others, gets
    exactly the batches from t on."""
    files = ranks.write_files(tmp_path_factory.mktemp("layout"), layout)
    rows, groups = sum(map(sum, layout)), sum(map(np.count_nonzero, layout))
    shards = fold * math.lcm(world, other_world)
    assume(groups >= shards)
    options = {"shards": shards, "shuffle_rows": shuffle_rows, "epoch": epoch}

    def steps(world, start_step=0, **more):
        """Global batches: those of the ranks, joined; checks that ranks agree on steps."""
        batch = shards * shard_batch // world
        found = [
            read(files, rank=r, world=world, batch=batch, start_step=start_step, **options, **more)
            for r in range(world)
        ]
        counts = {len(batches) for batches, _ in found}
        assert counts == {loader.steps_per_epoch - start_step for _, loader in found}
        return [
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            for parts in zip(*(batches for batches, _ in found), strict=True)
        ]

    whole = steps(world)
    assert sorted(ids(whole)) == list(range(rows))
    for batch in whole:
        assert (batch["list"] == batch["id"][:, None] + np.arange(3)).all()
    begin = round(crash * len(whole))
    rest = steps(other_world, begin, workers=workers)
    assert len(rest) == len(whole) - begin
    for seen, expected in zip(rest, whole[begin:], strict=True):
        assert all((seen[name] == expected[name]).all() for name in expected)


@FAST
@given(layout=LAYOUTS, shard_batch=st.integers(1, 40), world=st.sampled_from([1, 2, 4]))
def test_padding_is_less_than_a_step_and_the_unevenness_of_the_shards(layout, shard_batch, world):
    groups = [RowGroup("f", i, n) for i, n in enumerate(n for f in layout for n in f if n)]
    plan = ShardPlan(tuple(groups), 4 * shard_batch // world, world, 4, pa.schema([]))
    dealt = sorted(i for shard in range(4) for i in plan.members(shard))
    assert dealt == list(range(len(groups)))
    rows = [plan.rows_of(shard) for shard in range(4)]
    assert sum(plan.rows_per_rank) == sum(rows) == sum(map(sum, layout))
    # Dealt largest first, no two shards differ by more than the largest row group.
    assert max(rows) - min(rows) <= max(group.rows for group in groups)
    assert (plan.steps - 1) * plan.shard_batch < max(rows) <= plan.steps * plan.shard_batch


def test_a_table_of_few_row_groups_halves_the_shards(files):
    """144 rows in 10 row groups with rows: 16 shards cannot be fed, 8 can; a batch of 12 rows
    takes 4."""
    assert read(files, batch=16, shards=16)[1].plan.shards == 8
    assert read(files, batch=12, shards=16)[1].plan.shards == 4
    with pytest.raises(InputError, match=r"10 row groups .* cannot feed 24 shards on 8 ranks"):
        read(files, batch=3, world=8, shards=24)


def counted(monkeypatch):
    """Row groups that Petastorm's workers decode from now on."""
    found = []
    real = row_groups.to_arrays

    def to_arrays(table, lengths, where):
        found.append(where)
        return real(table, lengths, where)

    monkeypatch.setattr(row_groups, "to_arrays", to_arrays)
    return found


def test_a_resumed_epoch_reads_only_row_groups_with_rows_left(tmp_path, monkeypatch):
    files = ranks.write_files(tmp_path, [[10] * 6] * 4)
    seen = counted(monkeypatch)
    options = {"batch": 10, "shards": 2, "shuffle_rows": 20}  # blocks of one row group
    whole, _ = read(files, **options)
    assert len(seen) == len(set(seen)) == 24
    every = ids(whole)
    for step in (0, 1, 7, 8, 23, 24):
        seen.clear()
        rest, loader = read(files, start_step=step, **options)
        assert ids(rest) == every[10 * step :]
        assert loader.rows_read == 240 - 10 * step
        # Each shard has 12 row groups of 2 steps each; the one in which the epoch stopped is read.
        assert len(seen) == 2 * (12 - step // 2), step


def test_a_consumer_that_stops_leaves_no_thread(files):
    import threading

    before = set(threading.enumerate())
    loader = make(files, ["id"], batch=4)
    batches = loader.epoch(0)
    next(batches)
    batches.close()
    left = [t for t in set(threading.enumerate()) - before if t.is_alive()]
    assert left == []


def test_a_lost_row_group_stops_the_run_with_both_numbers(files, monkeypatch):
    """A worker that dies between two row groups' messages, or drops one in silence."""
    from petastorm.workers_pool.thread_pool import ThreadPool

    real = ThreadPool.get_results

    def lossy(pool):
        found = real(pool)
        return real(pool) if found[0][1] == 2 else found  # drop the third row group of each file

    monkeypatch.setattr(ThreadPool, "get_results", lossy)
    monkeypatch.setattr(row_groups, "_EMPTY_ANSWERS", 3)
    with pytest.raises(RowsLostError, match=r"returned no row group 2 of .* \((28|12|7) rows\)"):
        read(files)


def test_rows_lost_after_reading_stop_every_rank_with_both_numbers(files, monkeypatch):
    """Here rank 0 is handed a step that its lanes have lost a row of; rank 1 has read all."""
    expected = make(files, ["id"], world=2).rows_per_rank
    real = loader_module._next_batch
    lost = iter([1])

    def lossy(lanes, rows):
        batch, count = real(lanes, rows)
        return batch, count - next(lost, 0)

    monkeypatch.setattr(loader_module, "_next_batch", lossy)
    monkeypatch.setattr(collectives, "size", lambda: 2)
    monkeypatch.setattr(collectives, "gather_objects", lambda mine: [mine, expected[1]])
    numbers = rf"\[{expected[0] - 1}, {expected[1]}\] \(in total {ROWS - 1}\).*"
    numbers += rf"\[{expected[0]}, {expected[1]}\] \(in total {ROWS}\)"
    with pytest.raises(RowsLostError, match=numbers):
        read(files, world=2)


def test_a_file_replaced_after_planning_is_noticed(tmp_path):
    files = ranks.write_files(tmp_path, [[20], [30]])
    loader = make(files, ["id"])
    ranks.write_files(tmp_path, [[20], [29]])
    with pytest.raises(RowsLostError, match=r"has 30 rows by its footer, and 29 were read"):
        list(loader.epoch(0))


def test_unusable_input_is_named(files, tmp_path):
    def load(found=files, columns=("id",), **options):
        return list(make(found, columns, **options).epoch(0))

    with pytest.raises(InputError, match="no Parquet files"):
        load([])
    with pytest.raises(InputError, match=r"no column \['nope'\]; it has \['id'"):
        load(columns=["id", "nope"])
    with pytest.raises(InputError, match=r"10 row groups .* cannot feed 11 shards"):
        load(world=11)
    with pytest.raises(InputError, match="'text' is string"):
        load(columns=["text"])
    with pytest.raises(InputError, match=r"'list' .* needs its length"):
        load(columns=["list"])
    with pytest.raises(InputError, match=r"'list' should have 4 values .* has 3"):
        load(columns=["list"], lengths={"list": 4})
    with pytest.raises(InputError, match="listed twice"):
        load([files[0], files[0]])
    with pytest.raises(InputError, match="cannot read the Parquet footer"):
        load([str(tmp_path / "none.parquet")])
    with pytest.raises(ConfigError, match="multiple of the ranks"):
        load(world=2, shards=3)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1, None, 3]), "'v' has 1 nulls"),
        (pa.array([[1, 2, 3], None, [1, 2, 3]]), "'v' has 1 nulls"),
        (pa.array([[1, 2, 3], [1, 2], [1, 2, 3]]), "row 1 .* has 2 .*shortest 2, longest 3"),
        (pa.array([[1, 2, 3], [1, 2, None], [1, 2, 3]]), "null values"),
    ],
)
def test_nulls_and_ragged_lists_are_named(tmp_path: Path, column: pa.Array, message: str):
    path = str(tmp_path / "a.parquet")
    parquet.write_table(pa.table({"v": column}), path)
    lengths = {"v": 3} if pa.types.is_list(column.type) else {}
    loader = make([path], ["v"], batch=2, lengths=lengths)
    with pytest.raises(InputError, match=message):
        list(loader.epoch(0))


def test_types_that_torch_lacks_are_turned_into_integers(tmp_path: Path):
    path = str(tmp_path / "a.parquet")
    table = pa.table(
        {
            "ts": pa.array([1, 2], pa.timestamp("us")),
            "day": pa.array([3, 4], pa.date32()),
            "u": pa.array([5, 6], pa.uint32()),
            "flag": [True, False],
            "fixed": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        }
    )
    parquet.write_table(table, path)
    loader = make([path], table.column_names, batch=2, lengths={"fixed": 2})
    batch = next(iter(loader.epoch(0)))
    order = np.argsort(batch["ts"].numpy())
    found = {name: batch[name].numpy()[order].tolist() for name in table.column_names}
    assert found == {
        "ts": [1, 2],
        "day": [3, 4],
        "u": [5, 6],
        "flag": [True, False],
        "fixed": [[1.0, 2.0], [3.0, 4.0]],
    }
