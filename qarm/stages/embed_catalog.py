"""Stage embed-catalog: encoder + catalogue -> item_embeddings."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from qarm.encoders.artifact import load, read_card
from qarm.encoders.feature_cache import (
    FeatureUpdate,
    as_lists,
    fetch_contents,
    live_items,
    update_features,
)
from qarm.encoders.fusion import ATTRIBUTES, ItemBatch, ItemEncoder
from qarm.encoders.hashing import attribute_buckets
from qarm.errors import InputError, plain_errors
from qarm.lake.tables import TableRef
from qarm.ledger import Ledger, StageResult
from schemas import item_embeddings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context

_ITEMS_A_TASK = 4096
_MOST_TASKS = 20_000


def run(context: Context) -> StageResult:
    """Encode the items whose content is new or changed; the table then holds the whole catalogue.

    Rows of items that left the catalogue, and of other encoder versions, are deleted: the table
    holds the current encoder's vectors, and Delta's log those before. A second run touches no row.

    Raises:
        InputError: the encoder's artifact cannot be read, features are not those that it was
            trained on, or a vector is not finite.
    """
    published = context.artifact("train-alignment", "encoder")
    uri, version = published["uri"], published["version"]
    card = read_card(uri)
    frozen = [m for m in card["feature_dims"] if m not in card["finetune"]]
    features = update_features(context, frozen)
    _check_backbones(card, features, frozen)
    live = live_items(context)
    table = _current_table(context)
    known = context.lake.read(table)
    current = known.where(known.encoder_version == version)
    keys = ["item_id", "content_hash"]
    kept = current.join(live.select(*keys), keys, "left_semi")
    todo = live.join(current.select(*keys), keys, "left_anti")
    fresh_rows, kept_rows, all_rows = todo.count(), kept.count(), known.count()
    if fresh_rows or kept_rows < all_rows:
        context.say(f"encoding {fresh_rows:,} items, {kept_rows:,} are up to date")
        inputs = encoder_inputs(context, todo, card, features, fresh_rows)
        embedded = inputs.mapInArrow(
            partial(embed_batches, uri=uri, version=version), _output_schema()
        )
        columns = item_embeddings.TABLE.column_names
        with plain_errors():
            table = context.merge(
                item_embeddings.TABLE,
                kept.select(*columns).unionByName(embedded.select(*columns)),
                update_when="s.content_hash <> t.content_hash",
                delete_missing_where="true",
                encoder_version=version,
            )
    context.outputs[table.name] = table
    return _result(context, table, version, features, fresh_rows, kept_rows)


def _check_backbones(card: dict[str, Any], features: FeatureUpdate, frozen: Sequence[str]) -> None:
    for modality in frozen:
        trained, seen = card["backbones"].get(modality), features.backbones.get(modality)
        if seen is not None and seen != trained:
            raise InputError(
                f"the encoder was trained on {modality} features of {trained}, item_features has "
                f"those of {seen}; run train-alignment again, or set section encoder back"
            )


def _current_table(context: Context) -> TableRef:
    context.lake.create(item_embeddings.TABLE)
    name = item_embeddings.TABLE.name
    return TableRef(name, context.lake.path(name), context.lake.version(name))


def encoder_inputs(
    context: Context,
    items: DataFrame,
    card: dict[str, Any],
    features: FeatureUpdate,
    rows: int,
) -> DataFrame:
    """What ``embed_batches`` takes of each item, in tasks of like size.

    item_id, item_idx, content_hash; attributes; ``vector_<modality>`` of frozen backbones (null:
    the item has none); ``content_<modality>`` and ``uri_<modality>`` of trained ones.
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
    table = context.lake.read(features.ref)
    for modality, backbone in features.backbones.items():
        own = table.where((table.modality == modality) & (table.backbone == backbone))
        df = df.join(
            own.select("item_idx", F.col("vector").alias(f"vector_{modality}")), "item_idx", "left"
        )
    tasks = min(max(1, -(-rows // _ITEMS_A_TASK)), _MOST_TASKS)
    return df.repartition(tasks, "item_idx").sortWithinPartitions("item_idx")


def _output_schema() -> str:
    return ", ".join(f"{c.name} {c.type}" for c in item_embeddings.TABLE.columns)


def embed_batches(
    batches: Iterator[pa.RecordBatch], *, uri: str, version: str
) -> Iterator[pa.RecordBatch]:
    """Spark task: items and their features -> rows of item_embeddings."""
    import numpy as np
    import pyarrow as pa
    import torch

    torch.set_num_threads(1)
    encoder = _shared_encoder(uri, version)
    for batch in batches:
        items = item_batch(batch, encoder)
        with torch.inference_mode():
            vectors = encoder(items).numpy()
        if not np.isfinite(vectors).all():
            bad = batch.column("item_id").filter(pa.array(~np.isfinite(vectors).all(axis=1)))
            raise InputError(
                f"the encoder {version} gives NaN or infinity for {len(bad)} items, such as "
                f"{bad[0].as_py()!r}; look at their rows of item_features"
            )
        count = batch.num_rows
        yield pa.RecordBatch.from_arrays(
            [
                batch.column("item_id"),
                batch.column("item_idx"),
                pa.array([version] * count),
                batch.column("content_hash"),
                pa.array(modalities_of(items, encoder), pa.list_(pa.string())),
                as_lists(vectors),
            ],
            names=item_embeddings.TABLE.column_names,
        )


@functools.lru_cache(maxsize=2)
def _shared_encoder(uri: str, version: str) -> ItemEncoder:
    """One instance a process.

    Raises:
        InputError: the artifact is of another version.
    """
    encoder, card = load(uri)
    if card["version"] != version:
        raise InputError(f"the encoder at {uri} is {card['version']}, expected {version}")
    return encoder


def item_batch(batch: pa.RecordBatch, encoder: ItemEncoder) -> ItemBatch:
    """The encoder's input from the columns of ``encoder_inputs``."""
    import numpy as np
    import torch

    items = ItemBatch(batch.num_rows)
    for modality, width in encoder.feature_dims.items():
        if modality in encoder.finetune:
            contents = fetch_contents(
                batch.column(f"content_{modality}"), batch.column(f"uri_{modality}")
            )
            vectors = np.full((len(contents), width), np.nan, dtype=np.float32)
            there = [i for i, content in enumerate(contents) if content]
            if there:
                backbone = encoder.backbone(modality)
                vectors[there] = backbone.encode([contents[i] for i in there])
            present = np.isfinite(vectors).all(axis=1)
        else:
            vectors, present = _dense(batch, f"vector_{modality}", width)
        items.features[modality] = torch.from_numpy(vectors)
        items.present[modality] = torch.from_numpy(present)
    if ATTRIBUTES in encoder.modalities:
        offsets, ids = attribute_buckets(batch.column(ATTRIBUTES), encoder.config.attribute_buckets)
        items.offsets, items.ids = torch.from_numpy(offsets), torch.from_numpy(ids).long()
    return items


def _dense(batch: pa.RecordBatch, name: str, width: int) -> tuple[Any, Any]:
    """Vectors (n, width), 0 where there is none, and which are there (n,)."""
    import numpy as np

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


def modalities_of(items: ItemBatch, encoder: ItemEncoder) -> list[list[str]]:
    """Modalities that each item has."""
    import numpy as np

    there = {name: present.numpy() for name, present in items.present.items()}
    if items.offsets is not None:
        there[ATTRIBUTES] = items.offsets.diff().numpy() > 0
    names = [name for name in encoder.modalities if name in there]
    table = np.stack([there[name] for name in names], axis=1)
    # Few patterns, many items.
    patterns, inverse = np.unique(table, axis=0, return_inverse=True)
    lists = [[n for n, has in zip(names, row, strict=True) if has] for row in patterns]
    return [lists[i] for i in inverse.reshape(-1)]


def _result(
    context: Context,
    table: TableRef,
    version: str,
    features: FeatureUpdate,
    fresh_rows: int,
    kept_rows: int,
) -> StageResult:
    from pyspark.sql import functions as F

    items = (
        context.table("items")
        .agg(F.count("*").alias("all"), F.count("removed_at").alias("removed"))
        .first()
    )
    assert items is not None
    rows = context.lake.read(table)
    per = rows.groupBy(F.concat_ws("+", "modalities").alias("pattern")).count().collect()
    patterns = {row["pattern"] or "none": int(row["count"]) for row in per}
    main = Ledger(
        name="items of the catalogue",
        rows_in=items["all"],
        rows_out=sum(patterns.values()),
        dropped={"removed_item": items["removed"]},
    )
    return StageResult(
        ledgers=[main, *features.ledgers()],
        facts={
            "encoder_version": version,
            "encoded": fresh_rows,
            "unchanged": kept_rows,
            "modalities": dict(sorted(patterns.items())),
            "without_content": patterns.get("none", 0),
        },
    )
