"""Settings of a session on one machine, which everything else overrides; its Python workers."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace

import pyarrow as pa
import pytest

from qarm import session
from qarm.session import class_archive, class_archive_options, local_settings, narrow_rows
from qarm.worker_daemon import _acknowledge_at_once

SHUFFLE, SNAPSHOT = "spark.sql.shuffle.partitions", "spark.databricks.delta.snapshotPartitions"
MEMORY = "spark.driver.memory"
DAEMON = {"spark.python.daemon.module": "qarm.worker_daemon"}


@pytest.fixture(autouse=True)
def this_python(monkeypatch) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)


@pytest.mark.parametrize(
    ("master", "cores"),
    [
        ("local", 1),
        ("local[*]", os.cpu_count()),
        ("local[3]", 3),
        ("local[*, 4]", os.cpu_count()),
        ("local[3,4]", 3),
    ],
)
def test_partitions_follow_the_cores(master: str, cores: int) -> None:
    sizes = {SHUFFLE: str(4 * cores), SNAPSHOT: str(min(cores, 50))}
    found = local_settings(master)
    assert 1024 <= int(found.pop(MEMORY).removesuffix("m")) <= 8192
    assert found == {**sizes, **DAEMON}


def test_a_settings_file_that_names_them_is_left_alone(tmp_path, monkeypatch) -> None:
    own = tmp_path / "spark.conf"
    own.write_text(f"{SHUFFLE}  31\n# {SNAPSHOT} 9\n{MEMORY} 3g\n")
    monkeypatch.setenv("QARM_SPARK_DEFAULTS", str(own))
    assert local_settings("local[2]") == {SNAPSHOT: "2", **DAEMON}


def test_another_python_of_the_workers_has_its_own_daemon(monkeypatch) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", "/usr/bin/elsewhere")
    assert set(local_settings("local[2]")) == {SHUFFLE, SNAPSHOT, MEMORY}


def test_an_archive_that_does_not_fit_is_left_aside_in_silence(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "a b"))
    assert class_archive_options() == ""
    class_archive().parent.mkdir()
    class_archive().write_bytes(b"no archive")
    command = ["java", *shlex.split(class_archive_options()), "-version"]
    environment = {key: value for key, value in os.environ.items() if key != "JDK_JAVA_OPTIONS"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert str(class_archive()) in command[1]
    assert done.stdout == ""
    assert "rchive" not in done.stderr


@pytest.mark.spark
def test_workers_have_their_packages_and_do_not_read_archives_again(spark) -> None:
    def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import gc
        import zipimport

        for _ in batches:
            pass
        lazily = zipimport.zipimporter.invalidate_caches.__name__ == "_look_at_nothing"
        columns = [[os.getppid()], [lazily], [gc.get_freeze_count()]]
        yield pa.record_batch([pa.array(c) for c in columns], names=["parent", "lazily", "frozen"])

    rows = spark.range(0, 4, 1, 4).mapInArrow(look, "parent long, lazily boolean, frozen long")
    found = rows.collect()
    assert len({row["parent"] for row in found}) == 1
    assert all(row["lazily"] and row["frozen"] > 50_000 for row in found)


@pytest.mark.spark
def test_workers_are_started_once_and_beside_the_caller(spark, monkeypatch) -> None:
    monkeypatch.setattr(session, "_STARTED", set())
    monkeypatch.setattr(session, "suppress", lambda *_: nullcontext())  # or a failure is silent
    ran: list[str] = []
    may_go = threading.Event()

    def task(given) -> None:
        may_go.wait(60)
        session_task(given)
        ran.append(given.sparkContext.getLocalProperty("spark.job.description"))

    session_task = session._run_one_task
    monkeypatch.setattr(session, "_run_one_task", task)
    before = set(threading.enumerate())
    session.start_workers(spark)
    session.start_workers(spark)
    started = [thread for thread in threading.enumerate() if thread not in before]
    assert len(started) == 1
    assert not started[0].daemon  # so that the end of the program waits for it
    assert not ran
    may_go.set()
    started[0].join()
    assert ran == ["start of Python workers"]
    assert spark.sparkContext.getLocalProperty("spark.job.description") != ran[0]


def test_workers_of_a_cluster_are_not_started_before_their_time(monkeypatch) -> None:
    cluster = SimpleNamespace(
        sparkContext=SimpleNamespace(applicationId="one", master="spark://there:7077")
    )
    monkeypatch.setattr(session, "_run_one_task", lambda spark: pytest.fail("started"))
    session.start_workers(cluster)
    assert "one" not in session._STARTED


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="an option of Linux")
def test_what_a_task_gets_is_acknowledged_at_once() -> None:
    def serve(sock: socket.socket, authenticated: bool) -> int:
        assert authenticated
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1
        return 7

    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
        server.accept()[0] as worker,
    ):
        worker.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        assert _acknowledge_at_once(serve, worker, True) == 7
    one, other = socket.socketpair()  # Spark may use such sockets, which have no such option
    with one, other:
        assert _acknowledge_at_once(lambda sock, authenticated: 8, one, False) == 8


@pytest.mark.spark
def test_workers_of_a_session_acknowledge_at_once(spark) -> None:
    def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import daemon

        names = [getattr(getattr(daemon.worker, "func", None), "__name__", "") for _ in batches]
        yield pa.record_batch([pa.array(names[:1])], names=["name"])

    rows = spark.range(0, 1, 1, 1).mapInArrow(look, "name string").collect()
    assert [row["name"] for row in rows] == ["_acknowledge_at_once"]


def _largest_batch(spark, rows: int) -> int:
    """Rows of the largest Arrow batch that Python gets of ``rows`` rows of 1,000 bytes."""

    def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        largest = max(batch.num_rows for batch in batches)
        yield pa.record_batch([pa.array([largest])], names=["rows"])

    wide = spark.range(0, rows, 1, 1).selectExpr("repeat('x', 1000) AS x")
    return int(wide.mapInArrow(look, "rows long").first()["rows"])


@pytest.mark.spark
def test_narrow_rows_go_to_python_by_number_and_settings_come_back(spark) -> None:
    limits = [
        f"spark.sql.execution.arrow.{name}" for name in ("maxRecordsPerBatch", "maxBytesPerBatch")
    ]
    before = [spark.conf.get(name) for name in limits]
    spark.conf.set(limits[1], "100000")  # bytes: about a hundred of these rows
    try:
        assert _largest_batch(spark, 5000) < 200
        with narrow_rows(spark, 1000):
            assert _largest_batch(spark, 5000) == 5000
        with narrow_rows(spark, 2**25 // 1000):  # 2,000 rows of 32 kB would be 64 MB
            assert _largest_batch(spark, 5000) == 2000
        with narrow_rows(spark, 2**20):  # too wide: as without
            assert _largest_batch(spark, 5000) < 200
        assert spark.conf.get(limits[1]) == "100000"
    finally:
        spark.conf.set(limits[1], before[1])
    with pytest.raises(ZeroDivisionError), narrow_rows(spark, 1000):
        _ = 1 / 0
    assert [spark.conf.get(name) for name in limits] == before
