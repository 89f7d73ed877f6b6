"""Settings of the session: sizes of one machine, which everything else overrides."""

from __future__ import annotations

import os

import pytest

from qarm.session import local_sizes

SHUFFLE, SNAPSHOT = "spark.sql.shuffle.partitions", "spark.databricks.delta.snapshotPartitions"


@pytest.mark.parametrize(
    ("master", "cores"),
    [
        ("local", os.cpu_count()),
        ("local[*]", os.cpu_count()),
        ("local[3]", 3),
        ("local[*, 4]", os.cpu_count()),
        ("local[3,4]", 3),
    ],
)
def test_partitions_follow_the_cores(master: str, cores: int) -> None:
    assert local_sizes(master) == {SHUFFLE: str(4 * cores), SNAPSHOT: str(min(cores, 50))}


def test_a_settings_file_that_names_them_is_left_alone(tmp_path, monkeypatch) -> None:
    own = tmp_path / "spark.conf"
    own.write_text(f"{SHUFFLE}  31\n# {SNAPSHOT} 9\n")
    monkeypatch.setenv("QARM_SPARK_DEFAULTS", str(own))
    assert local_sizes("local[2]") == {SNAPSHOT: "2"}
