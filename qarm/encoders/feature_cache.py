"""Frozen backbone features of the catalogue in table item_features: nothing is encoded twice.

The table is a cache addressed by content: a row stands as long as the item has the content whose
hash it carries. So a run looks at the table's latest version, not at a published one, and work
that a crash left behind is not done again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from qarm.encoders.backbones import BACKBONE_MODALITIES, backbone_id, shared_backbone
from qarm.errors import InputError, plain_errors
from qarm.lake import files
from qarm.lake.tables import TableRef, check_vectors
from qarm.ledger import Ledger
from schemas import item_features

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

    from qarm.config.encoder import Encoder
    from qarm.pipeline.context import Context

DENSE = (*BACKBONE_MODALITIES, "audio")

_ITEMS_A_TASK = {"text": 512, "image": 256}
_MOST_TASKS = 20_000
#: Rows of an Arrow batch: an image takes thousands of times the memory of a text.
_ROWS_A_BATCH = {"text": 512, "image": 64}
_ARROW_ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"


@dataclass(frozen=True)
class ModalityCounts:
    """What became of the items' content of one modality."""

    items: int
    """Items in the catalogue."""
    encoded: int
    """Items encoded now."""
    reused: int
    """Items whose feature was there."""
    missing: int
    """Items without the modality."""
    unreadable: int
    """Items whose image does not decode or cannot be fetched."""


@dataclass(frozen=True)
class FeatureUpdate:
    """The table after ``update_features``."""

    ref: TableRef
    backbones: dict[str, str]
    """Modality -> backbone of its rows."""
    dimensions: dict[str, int]
    """Modality -> width of its features; a modality that no item has is left out."""
    counts: dict[str, ModalityCounts] = field(default_factory=dict)

    def ledgers(self) -> list[Ledger]:
        """One a modality: items in, features out."""
        return [
            Ledger(
                name=f"items with {modality} features",
                rows_in=c.items,
                rows_out=c.encoded + c.reused,
                dropped={f"no_{modality}": c.missing, f"unreadable_{modality}": c.unreadable},
            )
            for modality, c in self.counts.items()
        ]


def update_features(context: Context, modalities: Sequence[str] | None = None) -> FeatureUpdate:
    """Bring item_features up to date with the catalogue.

    Args:
        context: its configuration names modalities and backbones.
        modalities: of text, image and audio; None: those configured.

    Raises:
        InputError: audio vectors with NaN or of several lengths, or a backbone that yields NaN.
        ConfigError: a backbone is not installed.
    """
    asked = context.config.encoder.modalities if modalities is None else modalities
    wanted = [m for m in DENSE if m in asked]
    if context.is_external("item_features"):
        return _external(context, wanted)
    backbones = {m: backbone_id(context.config.encoder, m) for m in wanted}
    live = live_items(context)
    table = _current_table(context)
    known = context.lake.read(table)
    items = live.count()
    kept, fresh, before = [], [], {}
    for modality in wanted:
        content = with_content(live, modality)
        own = known.where(_is(modality, backbones[modality]))
        keys = ["item_idx", "modality_hash"]
        kept.append(own.join(content.select(*keys), keys, "left_semi"))
        todo = content.join(own.select(*keys), keys, "left_anti")
        before[modality] = (content.count(), kept[-1].count(), todo.count())
        if before[modality][2]:
            context.say(f"encoding {modality} of {before[modality][2]:,} items")
            fresh.append(
                _encoded(context, todo, modality, backbones[modality], before[modality][2])
            )
    stale = known.where(known.modality.isin(wanted)).count() - sum(b[1] for b in before.values())
    if fresh or stale:
        columns = item_features.TABLE.column_names
        frames = [frame.select(*columns) for frame in (*kept, *fresh)]
        with _arrow_rows(context, min(_ROWS_A_BATCH.values())), plain_errors():
            table = context.merge(
                item_features.TABLE,
                _union(frames),
                update_when="s.modality_hash <> t.modality_hash",
                delete_missing_where=f"t.modality IN ({_quoted(wanted)})",
            )
    context.outputs[table.name] = table
    after, dimensions = _measure(context, table, backbones)
    counts = {
        m: ModalityCounts(
            items=items,
            encoded=after.get(m, 0) - reused,
            reused=reused,
            missing=items - contents,
            unreadable=contents - after.get(m, 0),
        )
        for m, (contents, reused, _) in before.items()
    }
    return FeatureUpdate(table, {m: backbones[m] for m in dimensions}, dimensions, counts)


def live_items(context: Context) -> DataFrame:
    """Items that are in the catalogue."""
    return context.table("items").where("removed_at IS NULL")


def with_content(items: DataFrame, modality: str) -> DataFrame:
    """(item_idx, content, uri, modality_hash) of the items that have the modality."""
    from pyspark.sql import functions as F

    if modality == "image":
        there = F.col("image").isNotNull() | F.col("image_uri").isNotNull()
        content, uri = F.col("image"), F.col("image_uri")
        digest = F.sha2(F.coalesce(F.col("image"), F.col("image_uri").cast("binary")), 256)
    else:
        content, uri = F.col(modality), F.lit(None).cast("string")
        digest = F.sha2(content.cast("string"), 256)
        there = F.length(content) > 0 if modality == "text" else F.size(content) > 0
    return items.where(there).select(
        "item_idx", content.alias("content"), uri.alias("uri"), digest.alias("modality_hash")
    )


def _external(context: Context, wanted: Sequence[str]) -> FeatureUpdate:
    """The user's own features, one backbone a modality."""
    from pyspark.sql import functions as F

    ref = context.ref("item_features")
    df = context.lake.read(ref).where(F.col("modality").isin(list(wanted)))
    rows = df.groupBy("modality").agg(
        F.count_distinct("backbone").alias("backbones"), F.min("backbone").alias("backbone")
    )
    backbones = {}
    for row in rows.collect():
        if row["backbones"] > 1:
            raise InputError(
                f"your item_features have {row['backbones']} backbones for {row['modality']}; "
                "an encoder is trained on one: leave the others' rows out"
            )
        backbones[row["modality"]] = row["backbone"]
    dimensions = _measure(context, ref, backbones)[1]
    return FeatureUpdate(ref, backbones, dimensions)


def _current_table(context: Context) -> TableRef:
    """The latest version, made if need be."""
    context.lake.create(item_features.TABLE)
    name = item_features.TABLE.name
    return TableRef(name, context.lake.path(name), context.lake.version(name))


def _is(modality: str, backbone: str) -> Column:
    from pyspark.sql import functions as F

    return (F.col("modality") == modality) & (F.col("backbone") == backbone)


def _encoded(
    context: Context, content: DataFrame, modality: str, backbone: str, rows: int
) -> DataFrame:
    """Rows of item_features for ``content``; unreadable images are left out."""
    from pyspark.sql import functions as F

    labels = (F.lit(modality).alias("modality"), F.lit(backbone).alias("backbone"))
    if modality == "audio":
        check_vectors(content, "content", "items.audio")
        vector = F.col("content").alias("vector")
        return content.select("item_idx", *labels, "modality_hash", vector)
    # Tasks of like size whose rows and order depend on the items alone, not on the cluster: the
    # last digits of a feature depend on what else is in its batch.
    tasks = min(max(1, -(-rows // _ITEMS_A_TASK[modality])), _MOST_TASKS)
    spread = content.repartition(tasks, "item_idx").sortWithinPartitions("item_idx")
    encode = partial(
        encode_batches, modality=modality, encoder_json=encoder_json(context.config.encoder)
    )
    schema = "item_idx bigint, modality_hash string, vector array<float>"
    return spread.mapInArrow(encode, schema).select("*", *labels)


def encoder_json(encoder: Encoder) -> str:
    """The configuration as text: what tasks are told and processes cache by."""
    return encoder.model_dump_json()


def encode_batches(
    batches: Iterator[pa.RecordBatch], *, modality: str, encoder_json: str
) -> Iterator[pa.RecordBatch]:
    """Spark task: (item_idx, content, uri, modality_hash) -> (item_idx, modality_hash, vector)."""
    import numpy as np
    import pyarrow as pa
    import torch

    torch.set_num_threads(1)
    backbone = shared_backbone(encoder_json, modality)
    for batch in batches:
        contents = fetch_contents(batch.column("content"), batch.column("uri"))
        vectors = backbone.encode(contents)
        good = np.isfinite(vectors).all(axis=1)
        if modality == "text" and not good.all():
            raise InputError(
                f"the text backbone gave NaN or infinity for {(~good).sum()} texts, such as "
                f"{contents[int(np.argmin(good))][:80]!r}; its weights are damaged"
            )
        kept = batch.filter(pa.array(good))
        yield pa.RecordBatch.from_arrays(
            [kept.column("item_idx"), kept.column("modality_hash"), as_lists(vectors[good])],
            names=["item_idx", "modality_hash", "vector"],
        )


def fetch_contents(contents: pa.Array, uris: pa.Array) -> list[Any]:
    """Contents, fetched where only a URI is given; None for what cannot be fetched."""
    found = contents.to_pylist()
    for i, uri in enumerate(uris.to_pylist()):
        if found[i] is None and uri is not None:
            try:
                with files.open_file(uri) as file:
                    found[i] = bytes(file.read())
            except (OSError, ValueError, ImportError):
                continue
    return found


def as_lists(vectors: Any) -> pa.Array:
    """(n, d) float32 as an Arrow array of lists."""
    import numpy as np
    import pyarrow as pa

    count, width = vectors.shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    return pa.ListArray.from_arrays(offsets, flat)


def _measure(
    context: Context, ref: TableRef, backbones: dict[str, str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Rows and width of each modality.

    Raises:
        InputError: vectors of one modality differ in length, or hold NaN.
    """
    from pyspark.sql import functions as F

    df = context.lake.read(ref)
    per = df.groupBy("modality", "backbone").agg(
        F.count("*").alias("rows"),
        F.min(F.size("vector")).alias("least"),
        F.max(F.size("vector")).alias("most"),
    )
    rows, dimensions = {}, {}
    for row in per.collect():
        modality = row["modality"]
        if backbones.get(modality) != row["backbone"]:
            continue
        if row["least"] != row["most"]:
            raise InputError(
                f"item_features: {modality} vectors of {row['backbone']} must have one length, "
                f"seen {row['least']} to {row['most']}"
            )
        rows[modality], dimensions[modality] = int(row["rows"]), int(row["most"])
    return rows, dimensions


def _union(frames: Sequence[DataFrame]) -> DataFrame:
    whole = frames[0]
    for frame in frames[1:]:
        whole = whole.unionByName(frame)
    return whole


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


@contextmanager
def _arrow_rows(context: Context, rows: int) -> Iterator[None]:
    """Arrow batches of at most ``rows`` rows within the block."""
    conf = context.spark.conf
    before = str(conf.get(_ARROW_ROWS))
    conf.set(_ARROW_ROWS, str(rows))
    try:
        yield
    finally:
        conf.set(_ARROW_ROWS, before)
