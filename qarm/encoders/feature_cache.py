"""What an update of table item_features has to do, so that no content is encoded twice.

The table is a cache addressed by content: a row is valid as long as the item has the content whose
hash the row carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from qarm.encoders.backbones import BACKBONE_MODALITIES, backbone_id
from qarm.encoders.encode_content import (
    ROWS_PER_BATCH,
    encode_content,
    has_content,
    with_content,
)
from qarm.errors import InputError
from qarm.lake.counting import count_rows
from schemas import item_features

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from qarm.config.encoder import Encoder

DENSE = (*BACKBONE_MODALITIES, "audio")
"""Modalities that have a feature vector per item."""

_ARROW_ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"


@dataclass(frozen=True)
class ModalityCounts:
    """Items by what happened to their content of one modality."""

    items: int
    """Items in the catalogue."""
    encoded: int
    """Items encoded in this run."""
    reused: int
    """Items whose feature was in the table."""
    missing: int
    """Items without the modality."""
    unreadable: int
    """Items whose image does not decode or cannot be fetched."""


@dataclass(frozen=True)
class ModalityWork:
    """Items of one modality before the update."""

    backbone: str
    """``backbone_id`` of the rows wanted."""
    contents: int
    """Items that have the modality."""
    missing: int
    """Items without it."""
    reused: int
    """Items whose row is valid."""
    to_encode: int
    """Items without a valid row."""


@dataclass(frozen=True)
class FeaturePlan:
    """What an update of item_features has to do."""

    items: int
    """Items in the catalogue."""
    work: dict[str, ModalityWork]
    """Modality -> its work."""
    rows: DataFrame | None
    """All rows of these modalities after the update; None: the table is up to date."""

    def counts(
        self, rows_after: Mapping[str, int], unreadable: Mapping[str, int]
    ) -> dict[str, ModalityCounts]:
        """What became of the items.

        Args:
            rows_after: modality -> rows after the update.
            unreadable: modality -> contents that cannot be read, as ``count_unreadable`` has it.
        """
        counts = {}
        for modality, work in self.work.items():
            rows = rows_after.get(modality, 0)
            counts[modality] = ModalityCounts(
                items=self.items,
                encoded=rows - work.reused,
                reused=work.reused,
                missing=work.missing,
                unreadable=unreadable.get(modality, 0),
            )
        return counts


def dense_modalities(modalities: Iterable[str]) -> list[str]:
    """Those of ``modalities`` that have feature vectors, in fixed order."""
    wanted = set(modalities)
    return [modality for modality in DENSE if modality in wanted]


def plan_update(
    items: DataFrame, known: DataFrame, encoder: Encoder, modalities: Sequence[str]
) -> FeaturePlan:
    """Compare the catalogue with item_features.

    Args:
        items: rows of table items, without removed items.
        known: item_features as it is.
        encoder: names the backbones.
        modalities: of text, image and audio.

    Raises:
        InputError: audio vectors with NaN or of several lengths.
        ConfigError: a backbone is not installed.
    """
    from pyspark.sql import DataFrame
    from pyspark.sql import functions as F

    columns = item_features.TABLE.column_names
    key = ["item_idx", "modality_hash"]
    backbones = {modality: backbone_id(encoder, modality) for modality in modalities}
    valid, missing = {}, {}
    frames = {"items": items, "known": known.where(F.col("modality").isin(list(modalities)))}
    for modality, backbone in backbones.items():
        content = with_content(items, modality)
        own = known.where((F.col("modality") == modality) & (F.col("backbone") == backbone))
        valid[modality] = own.join(content.select(*key), key, "left_semi").select(*columns)
        missing[modality] = content.join(own.select(*key), key, "left_anti")
        frames[f"{modality} contents"] = content
        frames[f"{modality} missing"] = items.where(~has_content(modality))
        frames[f"{modality} reused"] = valid[modality]
        frames[f"{modality} to_encode"] = missing[modality]
    rows = count_rows(frames)
    work = {
        modality: ModalityWork(
            backbone=backbone,
            contents=rows[f"{modality} contents"],
            missing=rows[f"{modality} missing"],
            reused=rows[f"{modality} reused"],
            to_encode=rows[f"{modality} to_encode"],
        )
        for modality, backbone in backbones.items()
    }
    encoded = [
        encode_content(missing[modality], modality, each.backbone, each.to_encode, encoder)
        for modality, each in work.items()
        if each.to_encode
    ]
    if not encoded and rows["known"] == sum(each.reused for each in work.values()):
        return FeaturePlan(rows["items"], work, None)
    after = [*valid.values(), *(frame.select(*columns) for frame in encoded)]
    return FeaturePlan(rows["items"], work, reduce(DataFrame.unionByName, after))


def own_backbones(features: DataFrame, modalities: Sequence[str]) -> dict[str, str]:
    """Modality -> backbone of a table of features that the user brings.

    Raises:
        InputError: a modality has several backbones.
    """
    from pyspark.sql import functions as F

    rows = (
        features.where(F.col("modality").isin(list(modalities)))
        .groupBy("modality")
        .agg(F.count_distinct("backbone").alias("backbones"), F.min("backbone").alias("backbone"))
        .collect()
    )
    for row in rows:
        if row["backbones"] > 1:
            raise InputError(
                f"your item_features have {row['backbones']} backbones for {row['modality']}; "
                "an encoder is trained on one: remove the rows of the others"
            )
    return {row["modality"]: row["backbone"] for row in rows}


def measure(
    features: DataFrame, backbones: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Number of rows, and dimensions of the vectors, by modality.

    Args:
        features: item_features.
        backbones: modality -> backbone whose rows count.

    Raises:
        InputError: vectors of one modality differ in length.
    """
    from pyspark.sql import functions as F

    statistics = features.groupBy("modality", "backbone").agg(
        F.count("*").alias("rows"),
        F.min(F.size("vector")).alias("shortest"),
        F.max(F.size("vector")).alias("longest"),
    )
    rows, dimensions = {}, {}
    for row in statistics.collect():
        modality = row["modality"]
        if backbones.get(modality) != row["backbone"]:
            continue
        if row["shortest"] != row["longest"]:
            raise InputError(
                f"item_features: {modality} vectors of {row['backbone']} must have one length, "
                f"seen {row['shortest']} to {row['longest']}"
            )
        rows[modality], dimensions[modality] = int(row["rows"]), int(row["longest"])
    return rows, dimensions


@contextmanager
def small_arrow_batches(spark: SparkSession) -> Iterator[None]:
    """Limit Arrow batches to ``ROWS_PER_BATCH`` rows within the block: images are large."""
    before = str(spark.conf.get(_ARROW_ROWS))
    spark.conf.set(_ARROW_ROWS, str(ROWS_PER_BATCH))
    try:
        yield
    finally:
        spark.conf.set(_ARROW_ROWS, before)
