"""Shared fixtures: one real Spark session with Delta, and small real data."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from qarm.config import Config
from qarm.lake.tables import Lake
from qarm.memory import PeakMemory
from qarm.pipeline.context import Context
from qarm.session import class_archive_options
from tests.sessions import FEW_PARTITIONS

pytest_plugins = [
    "tests.lakes.alignment",
    "tests.lakes.codes",
    "tests.lakes.encoders",
    "tests.lakes.evaluation",
    "tests.lakes.pairs",
    "tests.lakes.quality",
    "tests.lakes.ranking",
    "tests.lakes.report",
]

ROOT = Path(__file__).resolve().parent.parent

# JVMs that tests start live for a minute or two and plan small queries once: with the quick
# compiler alone, one thread of garbage collection and mapped classes they need half the processor
# time. (It has room for 48 MB of code by default, and larger frames: ALS needs more stack.)
os.environ.setdefault(
    "JDK_JAVA_OPTIONS",
    "-XX:+UseSerialGC -Xss4m -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m "
    + class_archive_options(),
)


MEMORY = pytest.StashKey[PeakMemory]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Watch the memory of this process and all that it starts; not in the workers."""
    if not hasattr(session.config, "workerinput"):
        session.config.stash[MEMORY] = PeakMemory().__enter__()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much it was."""
    memory = terminalreporter.config.stash[MEMORY]
    memory.__exit__(None, None, None)
    terminalreporter.write_line(f"peak {memory.peak_bytes / 1e9:.1f} GB over all processes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs Spark, and sort files: slow ones first, the cluster in the middle.

    A file is run by one process, so that a long one at the end would leave the other idle; the
    pipeline that the cluster's is compared with takes half the time in a session that is warm.
    """
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()):
            item.add_marker("spark")
    marks: dict[Path, set[str]] = {}
    for item in items:
        marks.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())
    of_cluster = [item for item in items if "cluster" in marks[item.path]]
    others = [item for item in items if "cluster" not in marks[item.path]]
    others.sort(key=lambda item: "slow" not in marks[item.path])
    middle = others[len(others) // 2].path if others else None
    place = next((n for n, item in enumerate(others) if item.path == middle), 0)
    items[:] = [*others[:place], *of_cluster, *others[place:]]


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """Local Spark with two slots and few partitions; all else is as users have it.

    Adaptive execution and code generation are on, as in ``spark-defaults.conf``.
    """
    from qarm.session import open_session

    session = open_session(
        "qarm tests",
        master="local[2]",
        settings={
            **FEW_PARTITIONS,
            "spark.driver.memory": "2g",
            # What a query leaves dies young. This session lives for ten minutes and more, so that
            # the second compiler pays where it starts after four times as many calls as usual.
            "spark.driver.extraJavaOptions": "-Xmn700m -XX:TieredStopAtLevel=4 "
            "-XX:Tier4InvocationThreshold=20000 -XX:Tier4MinInvocationThreshold=2400 "
            "-XX:Tier4CompileThreshold=60000 -XX:Tier4BackEdgeThreshold=160000",
            # Classes of plans that recur from test to test are compiled once.
            "spark.sql.codegen.cache.maxEntries": "2000",
        },
    )
    yield session
    session.stop()


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Lake:
    """An empty lake."""
    return Lake(spark, str(tmp_path / "lake"))


@pytest.fixture
def make_context(spark: SparkSession, tmp_path: Path):
    """Context of a stage on the lake under tmp_path, for a configuration given as keywords."""

    def make(stage: str, config: Config | None = None, **sections: object) -> Context:
        config = config or Config.model_validate({"lake": str(tmp_path / "lake"), **sections})
        return Context(
            config=config,
            spark=spark,
            lake=Lake(spark, config.lake),
            stage=stage,
            run_id=f"test-{stage}",
            code_version="test",
            config_hash="test",
        )

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KB; needs the right to mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of development data beside the checkout; skips where it is absent."""
    folder = Path(os.environ.get("QARM_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the development data at {folder} (set QARM_SHARED_DATA)")
    return folder
