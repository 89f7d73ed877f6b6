"""Real ranks: one and two as processes of this machine, two in Spark executors."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import qarm.training.launch as launch_module
from qarm.config.training import Training
from qarm.errors import ConfigError, InputError, StorageError, TrainingError
from qarm.training.collectives import RankLostError
from qarm.training.launch import LOG_FILE, child_environment, choose_backend, launch
from qarm.training.worker import LAUNCHER_PID, resolve
from tests.training import ranks

ROWS = 144


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Like the fixture of the package, once for this module."""
    return ranks.write_files(tmp_path_factory.mktemp("ranks") / "data", ranks.LAYOUT)


def everything(files: list[str]) -> dict:
    """Two canonical shards, global batch 16: step t has the same rows on 1 and 2 ranks."""
    return {"files": files, "batch": 16, "shards": 2, "checkpoints": None}


@pytest.fixture(scope="module")
def both(files, tmp_path_factory) -> tuple[dict, dict]:
    """All checks on two ranks, in one start of them, and on one rank."""
    folder = tmp_path_factory.mktemp("both")
    spec = {**everything(files), "begun": str(folder / "begun")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_GATEWAY_PORT", "1")
        patch.setenv("STORE_SECRET", "hush-hush")
        two = ranks.run("everything", spec, 2, folder / "two")
        return two, ranks.run("everything", spec, 1, f"file://{folder}/one")


@pytest.mark.horovod
def test_collectives(both):
    two, one = both
    seen = two["collectives"]
    assert seen == {
        "size": 2,
        "local_rank": 0,
        "cycle_ms": "3",
        "sum": [3.0],
        "gathered": [1],
        "exchanged": [[3.0, 3.0], [3.0, 2.0, 2.0], [0, 1, 1]],
        "objects": [{"rank": 0}, {"rank": 1}],
        "broadcast": "from 0",
        "metrics": {"a": 0.75},
        # The gradient of both ranks' losses: 2 x 2 x 1.5.
        "bfloat16": [[1.5, 2.5], [6.0], "torch.bfloat16"],
        "broadcasts_equal": True,
        "has_state": 2,
        "sparse_rows": [2],
        "sparse_value": 1.0,
        "dense_value": 1.5,
        "unused_value": 0.0,
        "threads": max(1, len(os.sched_getaffinity(0)) // 2),
        "secret": ["hush-hush", "hush-hush"],  # inherited: not on the command line of any process
        "shown": [],
        "cores": seen["cores"],
        "gateway": None,
        "horovod": True,
        "uneven": seen["uneven"],
    }
    assert (
        "equally many rows on all 2 ranks; rank 0 has 1, all ranks together have 3"
        in seen["uneven"]
    )
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        share = len(cores) // 2
        assert seen["cores"] == [cores[:share], cores[share : 2 * share]]
    assert one["collectives"]["cores"] == [cores]
    assert one["collectives"]["size"] == 1
    assert one["collectives"]["exchanged"] == [[1.0, 1.0], [1.0, 1.0, 1.0], [0]]
    assert not one["collectives"]["horovod"], "one process should not need Horovod"
    assert one["collectives"]["objects"] == [{"rank": 0}]
    assert one["collectives"]["uneven"] == ""


@pytest.mark.horovod
def test_two_ranks_take_the_steps_of_one_with_twice_the_batch(both):
    two, one = both
    for loss in ("point", "contrastive"):
        assert two[loss]["same"], f"{loss}: the ranks' weights differ"
        assert two[loss]["losses"] == pytest.approx(one[loss]["losses"], abs=1e-9)
        assert two[loss]["weights"] == pytest.approx(one[loss]["weights"], abs=1e-9)
        assert sum(two[loss]["rows_per_rank"]) == ROWS == one[loss]["rows_per_rank"][0]
        assert two[loss]["rank_mean"] == 0.5


@pytest.mark.horovod
def test_every_row_comes_once_in_another_order_each_epoch(both):
    epochs = both[0]["orders"]
    for epoch in epochs:
        assert sorted(epoch["ids"][0] + epoch["ids"][1]) == list(range(ROWS))
        assert epoch["sizes"] == [[8, 3]]
        assert epoch["steps"][0] == epoch["steps"][1]
    assert epochs[0]["ids"][0] != epochs[1]["ids"][0] != epochs[2]["ids"][0]
    assert epochs[3]["ids"] == epochs[0]["ids"]
    assert {tuple(sorted(e["ids"][0])) for e in epochs} == {tuple(sorted(epochs[0]["ids"][0]))}


@pytest.mark.horovod
def test_a_loss_that_is_not_finite_stops_all_ranks_and_names_the_one(both):
    messages = both[0]["infinite"]
    assert len(messages) == 2
    assert messages[0] == messages[1]
    assert "not finite at epoch 0, step 0" in messages[0]
    assert "rank 1: loss sum inf" in messages[0]


@pytest.mark.horovod
def test_the_error_of_a_rank_comes_with_its_traceback(tmp_path, capsys):
    with pytest.raises(TrainingError) as raised:
        ranks.run("fail", {"numerator": 7}, 2, tmp_path)
    message = str(raised.value)
    assert "First error, of rank 1" in message
    assert 'unlucky = spec["numerator"] / 0' in message
    assert message.index("ZeroDivisionError") < message.index("End of the log")
    assert "a line before the end" in (tmp_path / LOG_FILE).read_text()
    shown = capsys.readouterr().err
    assert "a line of progress" in shown
    assert "a line before the end" not in shown


@pytest.mark.parametrize("name", ["tests.training.ranks:nothing", "nowhere:train", "", "json"])
def test_a_function_that_is_not_there_is_named(name):
    with pytest.raises(ConfigError, match=f"no training function '{name}'"):
        resolve(name)


@pytest.mark.horovod
def test_all_ranks_stop_early_by_the_mean_of_their_metrics(both):
    assert both[0]["early"]["seen"] == [[3, 0, 0.5]] * 2
    assert both[1]["early"]["seen"] == [[5, 4, 0.9]], "rank 0 alone would have continued"


def killed_run(files: list[str], folder: Path, **more: object) -> dict:
    """Spec of the run with dropout that ``both`` has whole, with checkpoints each four steps."""
    return {
        "files": files,
        "batch": 16,
        "checkpoints": str(folder / "checkpoints"),
        "checkpoint_steps": 4,
        **ranks.DROPOUT_RUN,
        **more,
    }


def damage_latest(folder: Path) -> None:
    """Flip the last byte of the latest checkpoint's model."""
    path = max(folder.glob("step-*")) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.fire
@pytest.mark.slow
@pytest.mark.horovod
def test_killed_ranks_resume_in_mid_epoch(both, files, tmp_path, capsys):
    """All ranks are killed at a random step and the latest checkpoint is damaged. One rank of the
    rerun is killed at another step; the command starts both again and ends as the run that was
    never killed."""
    whole = both[0]["dropout"]
    rng = random.Random(0)
    first, second = rng.randrange(9, 14), rng.randrange(4, 9)
    spec = killed_run(files, tmp_path)
    work = (2, tmp_path / "ranks")
    with pytest.raises(RankLostError, match=r"rank \d was lost \(killed by signal 9\)"):
        ranks.run("train", {**spec, "kill": {"0": first, "1": first}}, *work)
    damage_latest(tmp_path / "checkpoints")
    once = {"kill": {"1": second}, "kill_once": str(tmp_path / "killed")}
    again = ranks.run("train", {**spec, **once}, *work, restarts=1)
    said = capsys.readouterr().err
    assert (tmp_path / "killed").exists()
    assert "model.safetensors has the hash" in said
    assert "rank 1 was lost (killed by signal 9)" in said
    assert "Restart 1 of 1" in said

    def saved(steps: int) -> list[int]:
        return [s for s in range(1, steps + 1) if s % 4 == 0 or s % whole["steps"] == 0]

    before = saved(first)[-2]  # the last one is damaged
    assert again["resumed_step"] == saved(before + second)[-1]
    assert again["resumed_step"] % whole["steps"] != 0, "not in mid-epoch"
    assert again["same"]
    assert again["weights"] == whole["weights"]
    assert again["losses"] == whole["losses"]
    assert again["rows_per_rank"] == whole["rows_per_rank"]


@pytest.mark.horovod
def test_fewer_ranks_resume_what_more_began(both):
    """Two canonical shards: the rows of each step stay, though one rank reads both."""
    two, one = both
    assert two["begun"] is None, "it should have stopped in the sixth step"
    assert one["begun"]["resumed_step"] == 4
    assert one["begun"]["weights"] == pytest.approx(two["contrastive"]["weights"], abs=1e-9)
    assert one["begun"]["losses"] == pytest.approx(two["contrastive"]["losses"], abs=1e-9)
    assert one["begun"]["rows_per_rank"] == [ROWS]


@pytest.mark.fire
def test_a_disk_that_fills_while_a_checkpoint_is_written(both, files, tmp_path, small_disk):
    """One sentence with the class that it has on the rank, and no restart; with room the same
    command gives the undisturbed weights."""
    spec = killed_run(files, small_disk)
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(free - 8192))  # room for the first file of a checkpoint, not for all
    said = r"No space left on device.*\. Make room, then run.*\(rank 0; log: .*ranks.log\)"
    with pytest.raises(StorageError, match=said):
        ranks.run("train", spec, 1, tmp_path / "ranks", restarts=1)
    assert not list(small_disk.rglob("*.tmp"))
    filler.unlink()
    again = ranks.run("train", spec, 1, tmp_path / "ranks")
    assert again["weights"] == both[1]["dropout"]["weights"]


def test_restarts_take_the_ranks_that_spark_has_slots_for(monkeypatch, tmp_path, spark):
    """Faults injected: a rank is lost, and its executor does not come back."""
    started = []

    def run(start, task, session):
        started.append(start.ranks)
        if len(started) == 1:
            return "horovod.spark.run failed: executor lost"
        if start.ranks > 2:
            raise launch_module._NoSlotsError("Spark gave no free task slots")
        Path(start.work_dir, "result.json").write_text('{"done": true}')
        return None

    monkeypatch.setattr(launch_module, "_in_spark", run)
    training = Training(ranks=4, backend="spark", restarts=2)
    options = {"work_dir": str(tmp_path), "spark": spark}
    assert launch("a:b", {}, dict, training, **options, shards=4) == {"done": True}
    assert started == [4, 4, 2]
    started.clear()
    with pytest.raises(TrainingError, match="no free task slots"):
        launch("a:b", {}, dict, training, **options)
    assert started == [4, 4], "without canonical shards other ranks would read other rows"


@pytest.mark.fire
@pytest.mark.horovod
@pytest.mark.parametrize(
    ("function", "rank", "line"),
    [
        ("stall", 0, 'name="the.second"'),
        ("stop", 1, "average_gradients(model)  # the second"),
    ],
)
def test_a_stalled_rank_is_named(tmp_path, function, rank, line):
    """It sleeps, or is stopped with all its threads; the other gives up and names it."""
    with pytest.raises(RankLostError) as raised:
        ranks.run(function, {"rank": rank}, 2, tmp_path, stall_seconds=2)
    message = str(raised.value)
    assert re.search(rf"rank {rank} stopped or stalled. rank {1 - rank} waited \d s in", message)
    assert line in message, "the traceback shows where it waited"
    left = json.loads((tmp_path / f"failure-{1 - rank}.json").read_text())
    assert f"rank {rank} stopped or stalled" in left["message"]


def check_listening(pids: list[int]) -> None:
    """The launcher waits for its ranks, and they for each other, on 127.0.0.1 alone."""
    of_each = [psutil.Process(pid).net_connections("inet") for pid in pids]
    assert all(of_each)
    assert psutil.CONN_LISTEN in [each.status for each in of_each[0]]
    used = {connection.laddr.ip for connections in of_each for connection in connections}
    assert used <= {"127.0.0.1", "::ffff:127.0.0.1"}


@pytest.mark.fire
@pytest.mark.horovod
@pytest.mark.parametrize(("world", "number"), [(2, signal.SIGKILL), (1, signal.SIGINT)])
def test_ranks_listen_here_alone_and_none_outlives_its_launcher(tmp_path, world, number):
    pids = tmp_path / "pids"
    code = (
        "from tests.training import ranks\n"
        f"ranks.run('wait', {{'pids': {str(pids)!r}}}, {world}, {str(tmp_path)!r})"
    )
    environment = {**child_environment(1, 60), LAUNCHER_PID: ""}
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL
    )

    def alive() -> list[int]:
        names = [p.name for p in pids.iterdir()] if pids.exists() else []
        return [int(name) for name in names if Path("/proc", name).exists()]

    def wait_for(count: int, seconds: float) -> None:
        end = time.monotonic() + seconds
        while len(alive()) != count and time.monotonic() < end:
            time.sleep(0.1)
        assert len(alive()) == count

    wait_for(world, 120)
    if world > 1:
        check_listening([parent.pid, *alive()])
    parent.send_signal(number)
    parent.wait()
    # An interrupted launcher waits for its ranks; after kill -9 they find out by themselves.
    wait_for(0, 0 if number == signal.SIGINT else 30)


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_ranks_run_in_spark_executors(spark, files, tmp_path):
    """They train; then an error of one of them reaches the caller with its class."""
    spec = {"files": files, "batch": 16, "epochs": 1, "left": str(tmp_path / "left.json")}
    training = Training(ranks=2, backend="spark", restarts=0)
    options = {"work_dir": str(tmp_path / "spark"), "spark": spark}
    with pytest.raises(InputError, match=r"column 'x' is missing \(rank 1; log: "):
        launch("tests.training.ranks:train_then_fail", spec, dict, training, **options)
    left = json.loads((tmp_path / "left.json").read_text())
    assert left["ranks"] == 2
    assert left["same"]
    assert sum(left["rows_per_rank"]) == ROWS


def test_backends_are_chosen_and_checked(spark):
    assert choose_backend("auto", None) == "local"
    assert choose_backend("auto", spark) == "local"
    assert choose_backend("spark", spark) == "spark"
    with pytest.raises(ConfigError, match="needs a Spark session"):
        choose_backend("spark", None)


def test_children_share_the_cores_and_find_the_package(monkeypatch):
    monkeypatch.setenv("HOROVOD_STALL_CHECK_TIME_SECONDS", "7")
    environment = child_environment(2, 30)
    assert environment["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert str(Path(__file__).parents[2]) in environment["PYTHONPATH"].split(os.pathsep)
    assert environment["HOROVOD_STALL_CHECK_TIME_SECONDS"] == "7"
    assert int(environment["MALLOC_MMAP_THRESHOLD_"]) > 2**30
    assert "hugetlb" in environment["GLIBC_TUNABLES"]
    assert environment["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"] == "30"
