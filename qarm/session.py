"""The Spark session, with the settings of ``spark-defaults.conf``."""

from __future__ import annotations

import atexit
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from qarm.errors import ConfigError, StartError
from qarm.lake.files import local_path
from qarm.temporary import temporary_folder

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


#: What is removed when this process ends.
_AT_THE_END = ExitStack()
atexit.register(_AT_THE_END.close)
#: Versions of Java that this Spark runs on.
_JAVA = (17, 21)


def defaults_file() -> Path:
    """``spark-defaults.conf`` beside the package, or the file that QARM_SPARK_DEFAULTS names.

    Raises:
        ConfigError: there is no such file.
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
    """Archive of the JVM classes of Spark and Delta, which the set-up writes; may be absent."""
    return Path(sys.prefix) / "spark-classes.jsa"


def class_archive_options() -> str:
    """JVM options that make it map the archive; empty where there is none.

    A JVM of another version or with other jars ignores the archive.
    """
    archive = class_archive()
    if not archive.is_file():
        return ""
    return f'-XX:SharedArchiveFile="{archive}" -Xshare:auto -Xlog:cds=off -Xlog:cds+dynamic=off'


def local_settings(master: str) -> dict[str, str]:
    """Settings of a session on one machine, except those that ``spark-defaults.conf`` names.

    Spark's default of 200 shuffle partitions and Delta's of 50 are meant for clusters: each is a
    task, and on two cores a log of 15,000 events took four times as long with them; so is each of
    the 10,000 parts in which VACUUM lists a table (37 s for one file, 3 s with 8). Spark's default
    of 1 GB is meant for a driver that only plans; here the driver computes as well. Workers run
    this Python, so that ``qarm.worker_daemon`` can fork them.
    """
    parsed = re.fullmatch(r"local(?:\[(\*|\d+)(?:,\s*\d+)?\])?", master)
    slots = (parsed[1] or "1") if parsed else "*"  # "local" alone is one
    cores = os.cpu_count() or 1 if slots == "*" else int(slots)
    settings = {
        "spark.sql.shuffle.partitions": str(4 * cores),
        "spark.databricks.delta.snapshotPartitions": str(min(cores, 50)),
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": str(4 * cores),
        "spark.driver.memory": f"{_quarter_of_memory()}m",
    }
    if os.environ.get("PYSPARK_PYTHON", sys.executable) == sys.executable:
        settings["spark.python.daemon.module"] = "qarm.worker_daemon"
    given = _defaults()
    return {key: value for key, value in settings.items() if key not in given}


def _defaults() -> dict[str, str]:
    """The settings of ``defaults_file``."""
    lines = [line.split(None, 1) for line in defaults_file().read_text().splitlines()]
    return {line[0]: line[1].strip() if line[1:] else "" for line in lines if line}


def _quarter_of_memory() -> int:
    """A quarter of the memory of this machine or container, in MB, between 1 and 8 GB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (given := limit.read_text().strip()).isdigit():
        total = min(total, int(given))
    return int(min(max(total / 4, 2**30), 2**33) / 2**20)


def open_session(
    name: str, *, master: str = "local[*]", settings: Mapping[str, str] | None = None
) -> SparkSession:
    """The running session, or a new one.

    Under ``spark-submit`` all settings come from there. Otherwise a session is started on
    ``master`` with ``spark-defaults.conf``, overridden by ``local_settings`` and ``settings``.

    Raises:
        StartError: Spark does not start; says why, as far as that can be found out.
    """
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # not under spark-submit
        os.environ.setdefault(
            "PYSPARK_PYTHON", sys.executable
        )  # otherwise workers run PATH's python3
        arguments = ["--properties-file", str(defaults_file()), "--master", master, "--name", name]
        local = local_settings(master) if master.startswith("local") else {}
        if local:  # the driver's ports and its web page are for this machine only
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        for key, value in {**local, **(settings or {})}.items():
            arguments += ["--conf", f"{key}={value}"]
        java = [os.environ.get("SPARK_SUBMIT_OPTS", ""), class_archive_options()]
        os.environ["SPARK_SUBMIT_OPTS"] = " ".join(filter(None, java))
        os.environ["PYSPARK_SUBMIT_ARGS"] = shlex.join([*arguments, "pyspark-shell"])
        if cause := what_prevents_start(settings or {}):
            raise StartError(cause)
    try:
        session = SparkSession.builder.appName(name).getOrCreate()
    except PySparkRuntimeError as error:
        if "JAVA_GATEWAY_EXITED" not in str(error):
            raise
        given = ", ".join(f'"{name}" = "{value}"' for name, value in (settings or {}).items())
        raise StartError(
            "Spark's Java process ended at once; the lines above, which it printed, say why. "
            f"Settings of section [spark], any of which may be wrong: {given or 'none'}. Sizes are "
            "written as 4g"
        ) from error
    session.sparkContext.setLogLevel("ERROR")
    _ship_wheels(session)
    return session


def what_prevents_start(settings: Mapping[str, str]) -> str | None:
    """Why Spark's JVM cannot start here, and the remedy, in a sentence; None: nothing is known.

    Args:
        settings: Spark settings of the configuration.
    """
    home = os.environ.get("SPARK_HOME")
    if home and not os.path.isfile(os.path.join(home, "bin", "spark-submit")):
        return (
            f"SPARK_HOME is {home}, where there is no bin/spark-submit; unset it, or set it to "
            "a folder with Spark"
        )
    java = os.environ.get("JAVA_HOME")
    command = os.path.join(java, "bin", "java") if java else shutil.which("java")
    versions = " or ".join(map(str, _JAVA))
    needed = f"Java {versions} is needed (apt-get install openjdk-17-jre-headless)"
    if command is None:
        return f"no java on PATH, and JAVA_HOME is not set; {needed}"
    try:
        seen = subprocess.run([command, "-version"], capture_output=True, text=True).stderr
    except OSError:
        return f"JAVA_HOME is {java}, where there is no bin/java; {needed}"
    version = re.search(r'version "(?:1\.)?(\d+)', seen)
    if version and int(version[1]) not in _JAVA:
        return f"{command} is Java {version[1]}; {needed}, and JAVA_HOME has to name it"
    given = {**_defaults(), **settings}
    if "spark.jars.packages" not in given:
        return None
    options = " ".join(os.environ.get(n, "") for n in ("JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS"))
    named = re.search(r"-Duser\.home=(\S+)", options)
    home = named[1] if named else os.path.expanduser("~")
    ivy = Path(given.get("spark.jars.ivy", os.path.join(home, ".ivy2.5.2")))
    try:
        ivy.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=ivy):
            pass
    except OSError as error:
        return (
            f"{ivy} cannot be written ({error.strerror}), where Spark keeps the jars of Delta; set "
            '"spark.jars.ivy" in section [spark] to a folder that can'
        )
    return None


def _ship_wheels(spark: SparkSession) -> None:
    """Put the wheels of ``--py-files`` on the workers' path.

    Spark distributes them, but adds only .zip, .egg and .jar files to the path. A wheel is a zip.
    """
    context = spark.sparkContext
    shipped = (context.getConf().get("spark.submit.pyFiles") or "").split(",")
    for path in (local_path(p) or p for p in shipped if p.endswith(".whl")):
        if os.path.isfile(path):
            folder = _AT_THE_END.enter_context(temporary_folder("wheel"))
            copy = os.path.join(folder, f"{os.path.basename(path)}.zip")
            shutil.copyfile(path, copy)
            context.addPyFile(copy)


def is_local(spark: SparkSession) -> bool:
    """Whether the session runs on this machine only."""
    return str(spark.sparkContext.master).startswith("local")
