"""Rows, order, padding and errors of the loader, in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from qarm.errors import ConfigError, InputError, RowsLostError
from qarm.training import loader as loader_module
from qarm.training.loader import WEIGHT, EpochLoader
from tests.training import ranks

ROWS = 144


def read(files, *, rank=0, world=1, batch=8, epoch=0, start_step=0, **options):
    """Batches of one rank as dicts of arrays, and the loader."""
    options.setdefault("seed", 3)
    loader = EpochLoader(
        files, ["id", "list"], batch, rank, world, list_lengths={"list": 3}, **options
    )
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


def test_padding_repeats_the_last_row_at_weight_zero(files):
    batches, loader = read(files, batch=100)
    assert [int(b[WEIGHT].sum()) for b in batches] == [100, 44]
    last = batches[-1]
    assert (last["id"][44:] == last["id"][43]).all()
    assert (last["list"][44:] == last["list"][43]).all()
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
    assert ids(read(files, shuffle=False)[0]) == list(range(ROWS))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    layout=st.lists(st.lists(st.integers(0, 23), min_size=1, max_size=4), min_size=1, max_size=4),
    world=st.sampled_from([1, 2, 3]),
    fold=st.sampled_from([1, 2]),
    shard_batch=st.integers(1, 9),
    workers=st.sampled_from([1, 4]),
    block=st.sampled_from([1, 20, 10_000]),
    crash=st.integers(0, 30),
)
def test_every_row_once_at_any_layout_and_restart(
    tmp_path_factory, layout, world, fold, shard_batch, workers, block, crash
):
    """Rows come once over all ranks; the global step t holds the same rows with more ranks; a
    restart at a step gives exactly the rest."""
    shards = world * fold
    full = [size for sizes in layout for size in sizes if size]
    if len(full) < shards:
        return
    files = ranks.write_files(tmp_path_factory.mktemp("layout"), layout)
    options = {"workers": workers, "shards": shards, "shuffle_rows": block}
    batch = shard_batch * fold
    by_rank = [read(files, rank=r, world=world, batch=batch, **options)[0] for r in range(world)]
    assert sorted(i for batches in by_rank for i in ids(batches)) == list(range(sum(full)))
    steps = {len(batches) for batches in by_rank}
    assert len(steps) == 1

    one_rank, loader = read(files, batch=batch * world, **options)
    assert steps == {loader.steps_per_epoch}
    for step, whole in enumerate(one_rank):
        parts = [batches[step] for batches in by_rank]
        for name, values in whole.items():
            assert (np.concatenate([part[name] for part in parts]) == values).all()

    begin = min(crash, loader.steps_per_epoch - 1)
    for rank, batches in enumerate(by_rank):
        rest, _ = read(files, rank=rank, world=world, batch=batch, start_step=begin, **options)
        assert len(rest) == len(batches) - begin
        for seen, expected in zip(rest, batches[begin:], strict=True):
            assert all((seen[name] == expected[name]).all() for name in expected)


def test_a_consumer_that_stops_leaves_no_thread(files):
    import threading

    before = set(threading.enumerate())
    loader = EpochLoader(files, ["id"], 4, 0, 1, 3, workers=2)
    batches = loader.epoch(0)
    next(batches)
    batches.close()
    left = [t for t in set(threading.enumerate()) - before if t.is_alive()]
    assert left == []


def test_rows_that_differ_from_the_footers_stop_the_run_with_both_numbers(files, monkeypatch):
    loader = EpochLoader(files, ["id"], 8, 0, 1, 3)
    plan = loader.plan
    shrunk = tuple(plan.row_groups[:-1])
    object.__setattr__(plan, "row_groups", shrunk)
    batches = loader.epoch(0)
    next(batches)
    object.__setattr__(plan, "row_groups", (*shrunk, loader_module.RowGroup(files[0], 9, 7)))
    with pytest.raises(RowsLostError, match=r"\[137\].*\[144\]"):
        list(batches)


def test_a_file_replaced_after_planning_is_noticed(tmp_path):
    files = ranks.write_files(tmp_path, [[20], [30]])
    loader = EpochLoader(files, ["id"], 8, 0, 1, 3)
    ranks.write_files(tmp_path, [[20], [29]])
    with pytest.raises(RowsLostError, match=r"has 30 rows by its footer, and 29 were read"):
        list(loader.epoch(0))


def test_unusable_input_is_named(files, tmp_path):
    def load(found=files, columns=("id",), world=1, lengths=None, **options):
        loader = EpochLoader(found, columns, 8, 0, world, 1, list_lengths=lengths, **options)
        return list(loader.epoch(0))

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
    loader = EpochLoader([path], ["v"], 2, 0, 1, 1, list_lengths=lengths)
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
    loader = EpochLoader([path], table.column_names, 2, 0, 1, 1, list_lengths={"fixed": 2})
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
