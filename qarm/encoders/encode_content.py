"""Spark task: raw text, image or audio content of items -> feature vectors of frozen backbones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qarm.encoders.backbones import shared_backbone
from qarm.errors import InputError
from qarm.ingest.images import decode_problem
from qarm.lake import files
from qarm.lake.tables import check_vectors

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from qarm.config.encoder import Encoder

ROWS_PER_BATCH = 64
"""Largest Arrow batch for a task that holds images; an image takes thousands of times the memory
of a text."""

_ITEMS_PER_TASK = {"text": 512, "image": 256}
_MAX_TASKS = 20_000


def has_content(modality: str) -> Column:
    """Whether an item of table items has the modality; never null."""
    from pyspark.sql import functions as F

    if modality == "image":
        return F.col("image").isNotNull() | F.col("image_uri").isNotNull()
    length = F.length(modality) if modality == "text" else F.size(modality)
    return F.coalesce(length > 0, F.lit(False))


def count_unreadable(items: DataFrame, features: DataFrame, modality: str) -> int:
    """Items with the modality but without features whose content really cannot be read.

    They are read once more, so that features which got lost are not taken for unreadable ones. Only
    images can be unreadable.

    Args:
        items: rows of table items.
        features: rows of item_features of this modality.
        modality: text, image or audio.
    """
    from pyspark.sql import functions as F

    if modality != "image":
        return 0
    without = with_content(items, modality).join(
        features.select("item_idx", "modality_hash"), ["item_idx", "modality_hash"], "left_anti"
    )
    readable = F.udf(_is_readable, "boolean")("content", "uri")
    return without.where(~readable).count()


def _is_readable(content: bytes | None, uri: str | None) -> bool:
    if content is None:
        (content,) = fetch_contents(pa.array([None], pa.binary()), pa.array([uri]))
    return content is not None and decode_problem(bytes(content)) is None


def with_content(items: DataFrame, modality: str) -> DataFrame:
    """(item_idx, content, uri, modality_hash) of the items that have the modality.

    Args:
        items: rows of table items.
        modality: text, image or audio.

    Returns:
        ``content`` is null for an image that is given by its URI alone. ``modality_hash`` is the
        SHA-256 of the content, of the URI for such an image.
    """
    from pyspark.sql import functions as F

    if modality == "image":
        content, uri = F.col("image"), F.col("image_uri")
        digest = F.sha2(F.coalesce(F.col("image"), F.col("image_uri").cast("binary")), 256)
    else:
        content, uri = F.col(modality), F.lit(None).cast("string")
        digest = F.sha2(content.cast("string"), 256)
    return items.where(has_content(modality)).select(
        "item_idx", content.alias("content"), uri.alias("uri"), digest.alias("modality_hash")
    )


def encode_content(
    content: DataFrame, modality: str, backbone: str, rows: int, encoder: Encoder
) -> DataFrame:
    """Rows of item_features for ``content``; images that cannot be read have no row.

    Args:
        content: rows of ``with_content``.
        modality: text, image or audio. Audio vectors are taken as they are.
        backbone: written into the rows.
        rows: number of rows of ``content``.
        encoder: names the backbones.

    Raises:
        InputError: audio vectors with NaN or of several lengths.
    """
    from pyspark.sql import functions as F

    labels = (F.lit(modality).alias("modality"), F.lit(backbone).alias("backbone"))
    if modality == "audio":
        check_vectors(content, "content", "items.audio")
        vector = F.col("content").alias("vector")
        return content.select("item_idx", *labels, "modality_hash", vector)
    # Rows and order of a task depend on the items alone, not on the cluster: the last digits of a
    # feature depend on what else is in its batch.
    tasks = min(max(1, -(-rows // _ITEMS_PER_TASK[modality])), _MAX_TASKS)
    spread = content.repartition(tasks, "item_idx").sortWithinPartitions("item_idx")
    encode = partial(encode_batches, modality=modality, encoder_json=encoder.model_dump_json())
    schema = "item_idx bigint, modality_hash string, vector array<float>"
    return spread.mapInArrow(encode, schema).select("*", *labels)


def encode_batches(
    batches: Iterator[pa.RecordBatch], *, modality: str, encoder_json: str
) -> Iterator[pa.RecordBatch]:
    """Spark task: (item_idx, content, uri, modality_hash) -> (item_idx, modality_hash, vector).

    Args:
        batches: rows of ``with_content``.
        modality: text or image.
        encoder_json: section encoder as JSON; a process keeps one backbone per configuration.

    Raises:
        InputError: the text backbone returns NaN or infinity.
    """
    import torch

    torch.set_num_threads(1)
    backbone = shared_backbone(encoder_json, modality)
    for batch in batches:
        contents = fetch_contents(batch.column("content"), batch.column("uri"))
        vectors = backbone.encode(contents)
        is_finite = np.isfinite(vectors).all(axis=1)
        if modality == "text" and not is_finite.all():
            raise InputError(
                f"the text backbone returned NaN or infinity for {(~is_finite).sum()} texts, such "
                f"as {contents[int(np.argmin(is_finite))][:80]!r}; its weights are damaged"
            )
        kept = batch.filter(pa.array(is_finite))
        yield pa.RecordBatch.from_arrays(
            [kept.column("item_idx"), kept.column("modality_hash"), as_lists(vectors[is_finite])],
            names=["item_idx", "modality_hash", "vector"],
        )


def fetch_contents(contents: pa.Array, uris: pa.Array) -> list[Any]:
    """Contents (n,), bytes or str, read from the URI where only that is given.

    None where there is no such file.
    """
    fetched: list[Any] = contents.to_pylist()
    for i, uri in enumerate(uris.to_pylist()):
        if fetched[i] is None and uri is not None:
            try:
                with files.open_file(uri) as file:
                    fetched[i] = bytes(file.read())
            # A store that is down fails the stage: otherwise its images would count as unreadable.
            except (OSError, ValueError) as error:
                if not files.is_absent(error):
                    raise
    return fetched


def as_lists(vectors: NDArray[np.float32]) -> pa.Array:
    """(n, d) float32 as an Arrow array of n lists."""
    count, width = vectors.shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    return pa.ListArray.from_arrays(offsets, flat)
