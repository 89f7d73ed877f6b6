"""The dependency box: every pin of setup.py, and the calls that broke outside it."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ["", *(metadata.metadata("qarm").get_all("Provides-Extra") or [])]


def _box() -> list[Requirement]:
    """The requirements of setup.py, all extras, that apply to this Python."""
    lines = dict.fromkeys(line.strip() for line in metadata.requires("qarm") or [])
    found = {}
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in EXTRAS):
            found[requirement.name] = requirement
    return list(found.values())


def _module(distribution: str) -> str:
    """The module a distribution is imported by: the one of its name, else its shortest."""
    name = canonicalize_name(distribution)
    modules = [
        module
        for module, owners in metadata.packages_distributions().items()
        if name in map(canonicalize_name, owners) and not module.startswith("_")
    ]
    own = name.replace("-", "_")
    return own if own in modules else min(modules, key=len)


def test_the_box_is_closed() -> None:
    box = _box()
    assert {"pyspark", "torch", "petastorm", "horovod", "numpy", "pytest"} <= {r.name for r in box}
    for requirement in box:
        operators = {bound.operator for bound in requirement.specifier}
        assert "==" in operators or {">=", "<"} <= operators, f"{requirement} is open on a side"


@pytest.mark.parametrize("requirement", _box(), ids=lambda requirement: requirement.name)
@pytest.mark.filterwarnings("ignore")
def test_package_is_inside_its_bounds_and_imports(requirement: Requirement) -> None:
    version = metadata.version(requirement.name)
    assert requirement.specifier.contains(version, prereleases=True), f"{version}: {requirement}"
    importlib.import_module(_module(requirement.name))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [{"workers_count": 1}, {}], ids=["one worker", "default pool"])
def test_petastorm_reads_every_row(tmp_path: Path, settings: dict[str, int]) -> None:
    """0.13.1 came back short in 21 of 60 such reads."""
    from petastorm import make_batch_reader

    rows = np.arange(1000)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"row": rows}), path, row_group_size=100)
    assert pq.ParquetFile(path).num_row_groups == 10
    for epoch in range(30):
        with make_batch_reader(path.as_uri(), num_epochs=1, seed=1 + epoch, **settings) as reader:
            read = [batch.row for batch in reader]
        assert np.array_equal(np.sort(np.concatenate([*read, []])), rows), f"read {epoch}"


@pytest.mark.horovod
def test_horovod_adds_over_two_ranks(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        textwrap.dedent(
            """
            import json, pathlib, sys
            import horovod.torch as hvd, torch

            hvd.init()
            total = hvd.allreduce(torch.full((3,), 10.0 ** hvd.rank()), op=hvd.Sum)
            told = {"size": hvd.size(), "total": total.tolist(), "gloo": bool(hvd.gloo_built())}
            pathlib.Path(sys.argv[1], f"{hvd.rank()}.json").write_text(json.dumps(told))
            hvd.shutdown()
            """
        )
    )
    horovodrun = Path(sys.executable).with_name("horovodrun")
    done = subprocess.run(
        [horovodrun, "-np", "2", "-H", "localhost:2", sys.executable, script, tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(2):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        assert told == {"size": 2, "total": [11.0, 11.0, 11.0], "gloo": True}


@pytest.mark.spark
def test_delta_writes_reads_and_feeds_changes(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "table")
    spark.sql(
        f"CREATE TABLE delta.`{path}` (id BIGINT, value STRING) USING delta "
        "TBLPROPERTIES (delta.enableChangeDataFeed = true, delta.enableDeletionVectors = false)"
    )
    rows = spark.range(4).select("id", F.lit("old").alias("value"))
    rows.write.format("delta").mode("append").save(path)
    spark.sql(
        f"MERGE INTO delta.`{path}` t USING (SELECT 3L AS id UNION ALL SELECT 4L) s ON t.id = s.id "
        "WHEN MATCHED THEN UPDATE SET value = 'new' "
        "WHEN NOT MATCHED THEN INSERT (id, value) VALUES (s.id, 'new')"
    )

    now = spark.read.format("delta").load(path)
    before = spark.read.format("delta").option("versionAsOf", 1).load(path)
    assert {tuple(row) for row in now.collect()} == {
        (0, "old"), (1, "old"), (2, "old"), (3, "new"), (4, "new"),
    }  # fmt: skip
    assert before.where("value = 'old'").count() == before.count() == 4
    assert set(before.inputFiles()) != set(now.inputFiles())

    changes = (
        spark.read.format("delta")
        .option("readChangeFeed", "true")
        .option("startingVersion", 2)
        .load(path)
        .select("id", "value", "_change_type")
    )
    assert {tuple(row) for row in changes.collect()} == {
        (3, "old", "update_preimage"),
        (3, "new", "update_postimage"),
        (4, "new", "insert"),
    }


def _settings() -> dict[str, str]:
    """Keys and values of spark-defaults.conf."""
    lines = (ROOT / "spark-defaults.conf").read_text().splitlines()
    return dict(line.split(None, 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.spark
def test_spark_has_the_settings_of_spark_defaults(spark: SparkSession) -> None:
    settings = _settings()
    running = dict(spark.sparkContext.getConf().getAll())
    assert {key: running.get(key) for key in settings} == settings
    sizes = [key for key in settings if re.search(r"memory|cores|partitions|instances", key)]
    assert not sizes, "sizes are the user's"


@pytest.mark.spark
def test_spark_reads_nanoseconds_as_longs(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "nanos.parquet"
    moment = pa.array([1_291_796_760_000_000_000], pa.timestamp("ns", tz="UTC"))
    pq.write_table(pa.table({"ts": moment}), path, version="2.6")
    (row,) = spark.read.parquet(str(path)).collect()
    assert row.ts == 1_291_796_760_000_000_000


@pytest.mark.spark
def test_spark_writes_microseconds_in_utc(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "micros")
    spark.sql("SELECT TIMESTAMP '2010-12-08 08:26:00.000001' AS ts").write.parquet(path)
    table = pq.read_table(path)
    assert table.schema.field("ts").type == pa.timestamp("us", tz="UTC")
    assert table["ts"].cast(pa.int64()).to_pylist() == [1_291_796_760_000_001]
