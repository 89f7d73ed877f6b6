"""What a stage receives: configuration, session, pinned inputs, and where to write."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from qarm import __version__, progress
from qarm.config import Config, fingerprint
from qarm.errors import ConfigError, MissingStageError
from qarm.lake import files, manifest
from qarm.lake.tables import Lake, TableRef
from qarm.pipeline import own_tables
from schemas import Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@dataclass
class Context:
    """Argument of a stage's ``run``. Reads are pinned to a version; writes carry lineage."""

    config: Config
    spark: SparkSession
    lake: Lake
    stage: str
    run_id: str
    code_version: str
    config_hash: str
    as_of: datetime | None = None
    """The current time of the run; None: just after the log's last event (``as_of`` of ingest)."""
    outputs: dict[str, TableRef] = field(default_factory=dict)
    """Tables written so far."""
    inputs: dict[str, TableRef] = field(default_factory=dict)
    """Tables read so far."""
    adopted: dict[str, TableRef] = field(default_factory=dict)
    """Copies of the user's own tables, made before the stage started (``own_tables.adopt``)."""

    def ref(self, name: str) -> TableRef:
        """The pinned version of a table: written by this run, the user's own, or published.

        Raises:
            MissingStageError: no stage has published it, and the user has brought none.
        """
        pinned = self.find(name)
        if pinned is None:
            raise MissingStageError(
                f"stage {self.stage} needs table {name}, which no stage has published in "
                f"{self.lake.root}; run the stage that writes it, or name your own table under "
                f"[external.tables] {name}"
            )
        return pinned

    def find(self, name: str) -> TableRef | None:
        """Like ``ref``, or None where there is no such table.

        Raises:
            LookupError: a table of the user's own that the stage does not declare as an input.
        """
        if name in self.outputs:
            return self.outputs[name]
        if name in self.inputs:
            return self.inputs[name]
        if self.is_external(name):
            if name not in self.adopted:
                raise LookupError(
                    f"stage {self.stage} reads {name}, which is not among its inputs in "
                    "qarm/pipeline/stages.py, so that your own table was not copied in; this is a "
                    "bug: please report it"
                )
            pinned: TableRef | None = self.adopted[name]
        else:
            pinned = manifest.pinned(self.lake.root, name)
        if pinned is not None:
            self.inputs[name] = pinned
        return pinned

    def is_external(self, name: str) -> bool:
        """Whether the user brings this table (``external.tables``)."""
        return name in self.config.external.tables

    def table(self, name: str) -> DataFrame:
        """The table at its pinned version."""
        return self.lake.read(self.ref(name))

    def artifact(self, stage: str, name: str) -> dict[str, Any]:
        """An artifact published by another stage: {uri, version, ...}.

        Raises:
            MissingStageError: the stage has not run.
        """
        published = manifest.find(self.lake.root, stage)
        if published is None or name not in published.artifacts:
            raise MissingStageError(
                f"stage {self.stage} needs {name} of stage {stage}, which has not run in "
                f"{self.lake.root}"
            )
        return published.artifacts[name]

    def facts(self, stage: str) -> dict[str, Any]:
        """Facts published by another stage; empty if it has not run."""
        published = manifest.find(self.lake.root, stage)
        return published.facts if published is not None else {}

    @property
    def now(self) -> datetime:
        """``--as-of``, else just after the log's last event, else 1970 (UTC, naive)."""
        if self.as_of is not None:
            return self.as_of
        known = self.facts("ingest").get("as_of")
        return datetime.fromisoformat(known) if known else datetime(1970, 1, 1)

    @property
    def lineage(self) -> dict[str, Any]:
        """Metadata of every commit."""
        return {
            "stage": self.stage,
            "run_id": self.run_id,
            "config_hash": self.config_hash,
            "code_version": self.code_version,
            "as_of": str(self.as_of) if self.as_of else None,
            "inputs": {name: ref.as_dict() for name, ref in sorted(self.inputs.items())},
        }

    def overwrite(
        self, table: Table, df: DataFrame, *, drawn_at: int | None = None, **lineage: Any
    ) -> TableRef:
        """Replace a table in one commit; ``lineage`` adds to the commit's metadata."""
        ref = self.lake.overwrite(table, df, {**self.lineage, **lineage}, drawn_at=drawn_at)
        self.outputs[table.name] = ref
        return ref

    def pin(self, table: Table, version: int) -> TableRef:
        """Publish an earlier version of one of this stage's tables again.

        Raises:
            ConfigError: there is no such version.
        """
        newest = self.lake.version(table.name)
        if version > newest:
            raise ConfigError(
                f"{table.name}: expected version {version}, the lake has "
                f"{f'versions up to {newest}' if newest >= 0 else 'no such table'}"
            )
        ref = TableRef(table.name, self.lake.path(table.name), version)
        self.outputs[table.name] = ref
        return ref

    def merge(
        self,
        table: Table,
        df: DataFrame,
        *,
        update_when: str | None = None,
        delete_missing_where: str | None = None,
        leave: DataFrame | None = None,
        drawn_at: int | None = None,
        **lineage: Any,
    ) -> TableRef:
        """MERGE into a table on its key; see ``Lake.merge``."""
        ref = self.lake.merge(
            table,
            df,
            {**self.lineage, **lineage},
            update_when=update_when,
            delete_missing_where=delete_missing_where,
            leave=leave,
            drawn_at=drawn_at,
        )
        self.outputs[table.name] = ref
        return ref

    def live_files(self, name: str) -> list[str]:
        """URIs of the Parquet files of a table's pinned version."""
        return self.lake.live_files(self.ref(name))

    def work_dir(self, *parts: str) -> str:
        """URI of the folder of this run's artifacts; equal runs share it."""
        return files.join(self.lake.root, "artifacts", self.stage, self.run_id, *parts)

    def say(self, message: str) -> None:
        """Print a line of progress."""
        progress.say(f"{self.stage}: {message}")


def open_context(
    config: Config, spark: SparkSession, name: str, tables: Iterable[str] | None = None
) -> Context:
    """Context of a command that only reads what stages have published.

    Args:
        config: the configuration.
        spark: the session.
        name: of the command, for messages.
        tables: what it reads; the user's own tables among them are adopted. None: all of these.
    """
    context = Context(
        config=config,
        spark=spark,
        lake=Lake(spark, config.lake),
        stage=name,
        run_id=name,
        code_version=__version__,
        config_hash=fingerprint(config.model_dump(mode="json")),
    )
    own_tables.adopt(context, tables)
    return context
