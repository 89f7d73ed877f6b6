"""A lake as its readers see it: the tables that stages have published, at their versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qarm.errors import MissingStageError
from qarm.lake import manifest
from qarm.lake.tables import Lake, TableRef

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class PublishedLake:
    """Published tables and artifacts under one root; nothing here writes."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        self._lake = Lake(spark, root)
        self.root = self._lake.root

    def refs(self) -> dict[str, TableRef]:
        """Table -> its published version, for all tables that have one."""
        names = {name for each in manifest.all_of(self.root).values() for name in each.outputs}
        refs = {name: manifest.pinned(self.root, name) for name in sorted(names)}
        return {name: ref for name, ref in refs.items() if ref is not None}

    def table(self, name: str) -> DataFrame:
        """The rows of a table at its published version.

        Raises:
            MissingStageError: no stage has published it; lists the tables that are published.
        """
        ref = manifest.pinned(self.root, name)
        if ref is None:
            raise MissingStageError(
                f"no stage has published {name} in {self.root}; published: "
                f"{', '.join(self.refs()) or 'nothing'}"
            )
        return self._lake.read(ref)

    def artifact(self, stage: str, name: str) -> dict[str, Any]:
        """{uri, version, ...} of an artifact, such as ``artifact("train-alignment", "encoder")``.

        Raises:
            MissingStageError: the stage has not published it.
        """
        published = manifest.find(self.root, stage)
        if published is None or name not in published.artifacts:
            raise MissingStageError(f"stage {stage} has not published {name} in {self.root}")
        return published.artifacts[name]


def open_lake(spark: SparkSession, root: str) -> PublishedLake:
    """The lake under ``root`` (a path or URI), for reading."""
    return PublishedLake(spark, root)
