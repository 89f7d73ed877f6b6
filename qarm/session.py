"""The Spark session: settings come from ``spark-defaults.conf``, never from code."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from qarm.errors import ConfigError
from qarm.lake.files import local_path

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_BATCH_ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"
_BATCH_BYTES = "spark.sql.execution.arrow.maxBytesPerBatch"
_BATCH_MB = 64
_FEW_ROWS = 1000
#: Applications whose workers were started.
_STARTED: set[str] = set()


def defaults_file() -> Path:
    """``spark-defaults.conf`` beside the package, or the one that QARM_SPARK_DEFAULTS names.

    Raises:
        ConfigError: there is none.
    """
    named = os.environ.get("QARM_SPARK_DEFAULTS")
    path = Path(named) if named else Path(__file__).resolve().parent.parent / "spark-defaults.conf"
    if not path.is_file():
        raise ConfigError(
            f"no Spark settings at {path}; set QARM_SPARK_DEFAULTS to the repository's "
            "spark-defaults.conf, or start by spark-submit --properties-file"
        )
    return path


def class_archive() -> Path:
    """Where the set-up leaves the JVM classes of Spark and Delta, mapped instead of loaded."""
    return Path(sys.prefix) / "spark-classes.jsa"


def class_archive_options() -> str:
    """Options of a JVM that shall use the archive; empty where there is none.

    A JVM that it does not fit (another version, other jars) does without it.
    """
    archive = class_archive()
    if not archive.is_file():
        return ""
    return f'-XX:SharedArchiveFile="{archive}" -Xshare:auto -Xlog:cds=off -Xlog:cds+dynamic=off'


def local_settings(master: str) -> dict[str, str]:
    """Settings of a session on one machine, but for those that ``spark-defaults.conf`` has.

    Spark's 200 and Delta's 50 partitions are meant for clusters. A kept frame has as many as it was
    planned with, and each is a task: on two cores, a log of 15,000 events took four times as long.
    Its 1 GB is meant for a driver that only plans; here the driver computes as well.
    Workers have this Python, so that they can be forked by ``qarm.worker_daemon``.
    """
    found = re.fullmatch(r"local(?:\[(\*|\d+)(?:,\s*\d+)?\])?", master)
    slots = (found[1] or "1") if found else "*"  # "local" alone is one
    cores = os.cpu_count() or 1 if slots == "*" else int(slots)
    settings = {
        "spark.sql.shuffle.partitions": str(4 * cores),
        "spark.databricks.delta.snapshotPartitions": str(min(cores, 50)),
        "spark.driver.memory": f"{_quarter_of_memory()}m",
    }
    if os.environ.get("PYSPARK_PYTHON", sys.executable) == sys.executable:
        settings["spark.python.daemon.module"] = "qarm.worker_daemon"
    given = {line.split()[0] for line in defaults_file().read_text().splitlines() if line.split()}
    return {key: value for key, value in settings.items() if key not in given}


def _quarter_of_memory() -> int:
    """MB: a quarter of what this machine or container has, from 1 to 8 GB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (given := limit.read_text().strip()).isdigit():
        total = min(total, int(given))
    return int(min(max(total / 4, 2**30), 2**33) / 2**20)


def open_session(
    name: str, *, master: str = "local[*]", settings: Mapping[str, str] | None = None
) -> SparkSession:
    """The running session, or a new one.

    Under ``spark-submit`` the session takes all its settings from there. Else one is started with
    ``spark-defaults.conf``, then ``local_settings``, then ``settings``, on ``master``.
    """
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # not under spark-submit
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else workers take PATH's python3
        arguments = ["--properties-file", str(defaults_file()), "--master", master, "--name", name]
        local = local_settings(master) if master.startswith("local") else {}
        for key, value in {**local, **(settings or {})}.items():
            arguments += ["--conf", f"{key}={value}"]
        java = [os.environ.get("SPARK_SUBMIT_OPTS", ""), class_archive_options()]
        os.environ["SPARK_SUBMIT_OPTS"] = " ".join(filter(None, java))
        os.environ["PYSPARK_SUBMIT_ARGS"] = shlex.join([*arguments, "pyspark-shell"])
    session = SparkSession.builder.appName(name).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    _ship_wheels(session)
    return session


def start_workers(spark: SparkSession) -> None:
    """Start the Python workers of a session on one machine, once, and do not wait for them.

    They import for two seconds before their first task, which this has done beside what the
    session does in the JVM first.
    """
    if spark.sparkContext.applicationId not in _STARTED and is_local(spark):
        _STARTED.add(spark.sparkContext.applicationId)
        # Waited for at the end of the program: a task that is cut off prints a trace.
        Thread(target=_run_one_task, args=(spark,)).start()


def _run_one_task(spark: SparkSession) -> None:
    with suppress(Exception):  # whoever needs a worker will see what is wrong
        spark.sparkContext.setJobDescription("start of Python workers")
        spark.range(0, 1, 1, 1).mapInArrow(lambda rows: rows, "id bigint").collect()


def _ship_wheels(spark: SparkSession) -> None:
    """Put wheels of ``--py-files`` on the path of the workers.

    Spark sends them along but puts only .zip, .egg and .jar on the path; a wheel is a zip.
    """
    context = spark.sparkContext
    shipped = (context.getConf().get("spark.submit.pyFiles") or "").split(",")
    for path in (local_path(p) or p for p in shipped if p.endswith(".whl")):
        if os.path.isfile(path):
            copy = os.path.join(
                tempfile.mkdtemp(prefix="qarm-wheel-"), f"{os.path.basename(path)}.zip"
            )
            shutil.copyfile(path, copy)
            context.addPyFile(copy)


@contextmanager
def narrow_rows(spark: SparkSession, row_bytes: int) -> Iterator[None]:
    """Frames that are kept and jobs that run in the block send rows to Python by number alone.

    Spark adds up the bytes of a batch after each row, to end it at 64 MB, which takes as long as
    the rows themselves where these are a few numbers. In the block a batch has as many rows of
    ``row_bytes`` as make up those 64 MB, at most as many as elsewhere; with fewer than 1,000
    nothing changes. All that the block's jobs send must be as narrow, or few rows.
    """
    rows = min(_BATCH_MB * 2**20 // row_bytes, _number(spark, _BATCH_ROWS))
    if rows < _FEW_ROWS:
        yield
        return
    wanted = {_BATCH_ROWS: rows, _BATCH_BYTES: 2**31 - 1}
    before = {name: spark.conf.get(name) for name in wanted}
    for name, number in wanted.items():
        spark.conf.set(name, str(number))
    try:
        yield
    finally:
        for name, value in before.items():
            spark.conf.set(name, str(value))


def _number(spark: SparkSession, name: str) -> int:
    """A setting that is a number; one that means no limit is very large."""
    value = int(spark.conf.get(name) or 0)
    return value if value > 0 else 2**31 - 1


def is_local(spark: SparkSession) -> bool:
    """Whether the session runs on this machine alone."""
    return str(spark.sparkContext.master).startswith("local")
