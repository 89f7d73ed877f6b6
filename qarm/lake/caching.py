"""Frames that several jobs read: persisted while a block runs, freed after it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class Keeper:
    """``with Keeper() as keep: df = keep(df)`` persists a frame until the block ends."""

    def __init__(self) -> None:
        self._frames: list[DataFrame] = []

    def __call__(self, df: DataFrame) -> DataFrame:
        """``df``, persisted in memory, else on disk."""
        from pyspark import StorageLevel

        self._frames.append(df.persist(StorageLevel.MEMORY_AND_DISK))
        return df

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for frame in self._frames:
            frame.unpersist()
