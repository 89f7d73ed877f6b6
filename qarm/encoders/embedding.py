"""Spark task: items with their features -> rows of item_embeddings."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qarm.encoders.artifact import load
from qarm.encoders.encode_content import as_lists, fetch_contents
from qarm.encoders.fusion import ATTRIBUTES, ItemBatch, ItemEncoder
from qarm.encoders.hashing import attribute_buckets
from qarm.errors import InputError
from schemas import item_embeddings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_ITEMS_PER_TASK = 4096
_MAX_TASKS = 20_000


def frozen_modalities(card: Mapping[str, Any]) -> list[str]:
    """Modalities whose cached features the encoder takes, from its card."""
    return [m for m in card["feature_dims"] if m not in card["finetune"]]


def check_backbones(card: Mapping[str, Any], backbones: Mapping[str, str]) -> None:
    """Check that features come from the backbones that the encoder was trained on.

    Args:
        card: of the encoder.
        backbones: modality -> backbone of item_features.

    Raises:
        InputError: they do not; names modality and both backbones.
    """
    for modality in frozen_modalities(card):
        trained, seen = card["backbones"].get(modality), backbones.get(modality)
        if seen is not None and seen != trained:
            raise InputError(
                f"the encoder was trained on {modality} features of {trained}, item_features has "
                f"those of {seen}; run train-alignment again, or restore section encoder"
            )


def encoder_inputs(
    items: DataFrame,
    features: DataFrame,
    card: Mapping[str, Any],
    backbones: Mapping[str, str],
    rows: int,
) -> DataFrame:
    """Columns that ``embed_batches`` reads, in tasks of similar size.

    Args:
        items: rows of table items.
        features: item_features.
        card: of the encoder.
        backbones: modality -> backbone of the features to take.
        rows: number of items.

    Returns:
        item_id, item_idx, content_hash; attributes; ``vector_<modality>`` of frozen backbones
        (null: the item has none); ``content_<modality>`` and ``uri_<modality>`` of trained ones.
    """
    from pyspark.sql import functions as F

    columns = ["item_id", "item_idx", "content_hash"]
    if card["attributes"]:
        columns.append(ATTRIBUTES)
    contents = []
    for modality in card["finetune"]:
        uri = F.col("image_uri") if modality == "image" else F.lit(None).cast("string")
        contents += [F.col(modality).alias(f"content_{modality}"), uri.alias(f"uri_{modality}")]
    df = items.select(*columns, *contents)
    for modality, backbone in backbones.items():
        own = features.where((F.col("modality") == modality) & (F.col("backbone") == backbone))
        vectors = own.select("item_idx", F.col("vector").alias(f"vector_{modality}"))
        df = df.join(vectors, "item_idx", "left")
    tasks = min(max(1, -(-rows // _ITEMS_PER_TASK)), _MAX_TASKS)
    return df.repartition(tasks, "item_idx").sortWithinPartitions("item_idx")


def embed(inputs: DataFrame, uri: str, version: str) -> DataFrame:
    """Rows of item_embeddings for ``encoder_inputs``.

    Args:
        inputs: see ``encoder_inputs``.
        uri: folder of the encoder.
        version: its version.
    """
    schema = ", ".join(f"{c.name} {c.type}" for c in item_embeddings.TABLE.columns)
    return inputs.mapInArrow(partial(embed_batches, uri=uri, version=version), schema)


def embed_batches(
    batches: Iterator[pa.RecordBatch], *, uri: str, version: str
) -> Iterator[pa.RecordBatch]:
    """Spark task: rows of ``encoder_inputs`` -> rows of item_embeddings.

    Raises:
        InputError: the artifact has another version, or a vector is not finite.
    """
    import torch

    torch.set_num_threads(1)
    encoder = _shared_encoder(uri, version)
    for batch in batches:
        items = item_batch(batch, encoder)
        with torch.inference_mode():
            vectors = encoder(items).numpy()
        is_finite = np.isfinite(vectors).all(axis=1)
        if not is_finite.all():
            bad = batch.column("item_id").filter(pa.array(~is_finite))
            raise InputError(
                f"encoder {version} returns NaN or infinity for {len(bad)} items, such as "
                f"{bad[0].as_py()!r}; check their rows of item_features"
            )
        yield pa.RecordBatch.from_arrays(
            [
                batch.column("item_id"),
                batch.column("item_idx"),
                pa.array([version] * batch.num_rows),
                batch.column("content_hash"),
                pa.array(item_modalities(items, encoder.modalities), pa.list_(pa.string())),
                as_lists(vectors),
            ],
            names=item_embeddings.TABLE.column_names,
        )


@functools.lru_cache(maxsize=2)
def _shared_encoder(uri: str, version: str) -> ItemEncoder:
    """One instance per process.

    Raises:
        InputError: the artifact has another version.
    """
    encoder, card = load(uri)
    if card["version"] != version:
        raise InputError(f"the encoder at {uri} is {card['version']}, expected {version}")
    return encoder


def item_batch(batch: pa.RecordBatch, encoder: ItemEncoder) -> ItemBatch:
    """The encoder's input, from rows of ``encoder_inputs``."""
    import torch

    items = ItemBatch(batch.num_rows)
    for modality, width in encoder.feature_dims.items():
        if modality in encoder.finetune:
            vectors = _encoded(batch, modality, encoder)
            present = np.isfinite(vectors).all(axis=1)
        else:
            vectors, present = _features(batch, f"vector_{modality}", width)
        items.features[modality] = torch.from_numpy(vectors)
        items.present[modality] = torch.from_numpy(present)
    if ATTRIBUTES in encoder.modalities:
        offsets, ids = attribute_buckets(batch.column(ATTRIBUTES), encoder.config.attribute_buckets)
        items.offsets, items.ids = torch.from_numpy(offsets), torch.from_numpy(ids).long()
    return items


def _encoded(batch: pa.RecordBatch, modality: str, encoder: ItemEncoder) -> NDArray[np.float32]:
    """Features (n, width) of raw content by the trained backbone; NaN where there is none."""
    contents = fetch_contents(batch.column(f"content_{modality}"), batch.column(f"uri_{modality}"))
    vectors = np.full((len(contents), encoder.feature_dims[modality]), np.nan, dtype=np.float32)
    present = [i for i, content in enumerate(contents) if content]
    if present:
        vectors[present] = encoder.backbone(modality).encode([contents[i] for i in present])
    return vectors


def _features(
    batch: pa.RecordBatch, name: str, width: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Vectors (n, width), 0 where there is none, and which rows have one (n,)."""
    vectors = np.zeros((batch.num_rows, width), dtype=np.float32)
    present = np.zeros(batch.num_rows, dtype=bool)
    if name in batch.schema.names:
        column = batch.column(name)
        present = column.is_valid().to_numpy(zero_copy_only=False)
        flat = column.filter(column.is_valid()).flatten().to_numpy()
        if len(flat) != present.sum() * width:
            raise InputError(f"{name}: {present.sum()} vectors should have {width} numbers each")
        vectors[present] = flat.reshape(-1, width)
    return vectors, present


def item_modalities(items: ItemBatch, modalities: Sequence[str]) -> list[list[str]]:
    """Those of ``modalities`` that each item has."""
    present = {name: mask.numpy() for name, mask in items.present.items()}
    if items.offsets is not None:
        present[ATTRIBUTES] = items.offsets.diff().numpy() > 0
    names = [name for name in modalities if name in present]
    masks = np.stack([present[name] for name in names], axis=1)
    # Few patterns, many items.
    patterns, inverse = np.unique(masks, axis=0, return_inverse=True)
    lists = [[n for n, has in zip(names, row, strict=True) if has] for row in patterns]
    return [lists[i] for i in inverse.reshape(-1)]
