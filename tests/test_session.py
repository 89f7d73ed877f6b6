"""Settings of a session on one machine, which everything else overrides; its Python workers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address

import psutil
import pyarrow as pa
import pytest

from qarm.session import class_archive, class_archive_options, local_settings, what_prevents_start

SHUFFLE, SNAPSHOT = "spark.sql.shuffle.partitions", "spark.databricks.delta.snapshotPartitions"
MEMORY = "spark.driver.memory"
LISTING = "spark.sql.sources.parallelPartitionDiscovery.parallelism"
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
    sizes = {SHUFFLE: str(4 * cores), LISTING: str(4 * cores), SNAPSHOT: str(min(cores, 50))}
    found = local_settings(master)
    assert 1024 <= int(found.pop(MEMORY).removesuffix("m")) <= 8192
    assert found == {**sizes, **DAEMON}


def test_a_settings_file_that_names_them_is_left_alone(tmp_path, monkeypatch) -> None:
    own = tmp_path / "spark.conf"
    own.write_text(f"{SHUFFLE}  31\n# {SNAPSHOT} 9\n{MEMORY} 3g\n")
    monkeypatch.setenv("QARM_SPARK_DEFAULTS", str(own))
    assert local_settings("local[2]") == {SNAPSHOT: "2", LISTING: "8", **DAEMON}


def test_another_python_of_the_workers_has_its_own_daemon(monkeypatch) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", "/usr/bin/elsewhere")
    assert set(local_settings("local[2]")) == {SHUFFLE, SNAPSHOT, MEMORY, LISTING}


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
def test_workers_are_forked_with_their_packages(spark) -> None:
    def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import gc

        for _ in batches:
            pass
        columns = [[os.getppid()], [gc.get_freeze_count()]]
        yield pa.record_batch([pa.array(c) for c in columns], names=["parent", "frozen"])

    found = spark.range(0, 4, 1, 4).mapInArrow(look, "parent long, frozen long").collect()
    assert len({row["parent"] for row in found}) == 1
    assert all(row["frozen"] > 50_000 for row in found)


@pytest.mark.spark
def test_in_local_mode_spark_listens_on_this_machine_only(spark) -> None:
    """Horovod's rendezvous, a Python server, is another matter: see docs/cluster.md."""
    listening = [
        ip_address(connection.laddr.ip.removeprefix("::ffff:"))
        for process in psutil.Process().children(recursive=True)
        if process.name() == "java"
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert all(address.is_loopback for address in listening), listening


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"JAVA_HOME": "/nonexistent"}, "no bin/java; Java 17 or 21 is needed"),
        ({"JAVA_HOME": "", "PATH": "/nonexistent"}, "no java on PATH"),
        ({"SPARK_HOME": "/opt/nospark"}, "SPARK_HOME is /opt/nospark"),
        ({"JDK_JAVA_OPTIONS": "-Duser.home=/proc/nohome"}, "/proc/nohome/.ivy2.* cannot be writt"),
    ],
)
def test_why_spark_has_not_started(monkeypatch, variables, words) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert re.search(words, what_prevents_start({}) or "")


def test_another_java_is_named(monkeypatch, tmp_path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"25.0.1\" 2025-10-21' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert "bin/java is Java 25; Java 17 or 21 is needed" in (what_prevents_start({}) or "")


@pytest.mark.parametrize(
    ("variables", "memory", "words"),
    [
        ({"JAVA_HOME": "/nonexistent"}, "1g", "StartError: JAVA_HOME is /nonexistent"),
        ({}, "4 GB", 'may be wrong: "spark.driver.memory" = "4 GB". Sizes are written as 4g'),
    ],
)
def test_a_session_that_cannot_start_is_a_sentence(tmp_path, variables, memory, words) -> None:
    environment = {**os.environ, **variables}
    text = f'lake = "{tmp_path}/lake"\n[spark]\n"spark.driver.memory" = "{memory}"\n'
    (tmp_path / "x.toml").write_text(text)
    command = [sys.executable, "-m", "qarm.cli", "ingest", "--config", str(tmp_path / "x.toml")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert words in done.stderr
