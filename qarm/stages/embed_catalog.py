"""Stage embed-catalog: encoder + catalogue -> item_embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qarm.encoders.artifact import read_card
from qarm.encoders.embedding import check_backbones, embed, encoder_inputs, frozen_modalities
from qarm.errors import plain_errors
from qarm.lake.counting import count_rows
from qarm.ledger import Ledger, StageResult
from qarm.pipeline.features import latest, live_items, update_features
from schemas import item_embeddings

if TYPE_CHECKING:
    from qarm.lake.tables import TableRef
    from qarm.pipeline.context import Context


def run(context: Context) -> StageResult:
    """Encode the items whose content is new or changed; the table then holds the whole catalogue.

    The table holds the vectors of the current encoder alone: rows of removed items and of other
    encoder versions are deleted (Delta keeps earlier versions of the table). A run without changes
    writes no commit.

    Raises:
        InputError: the encoder's artifact cannot be read, the features come from other backbones
            than it was trained on, or a vector is not finite.
    """
    published = context.artifact("train-alignment", "encoder")
    uri, version = published["uri"], published["version"]
    card = read_card(uri)
    features = update_features(context, context.config.encoder, frozen_modalities(card))
    check_backbones(card, features.backbones)
    live = live_items(context)
    table = latest(context, item_embeddings.TABLE)
    known = context.lake.read(table)
    current = known.where(known.encoder_version == version)
    key = ["item_id", "content_hash"]
    valid = current.join(live.select(*key), key, "left_semi")
    missing = live.join(current.select(*key), key, "left_anti")
    rows = count_rows({"encoded": missing, "unchanged": valid, "known": known})
    encoded, unchanged = rows["encoded"], rows["unchanged"]
    if encoded or unchanged < rows["known"]:
        context.say(f"encoding {encoded:,} items, {unchanged:,} are up to date")
        feature_rows = context.lake.read(features.ref)
        inputs = encoder_inputs(missing, feature_rows, card, features.backbones, encoded)
        columns = item_embeddings.TABLE.column_names
        with plain_errors():
            table = context.merge(
                item_embeddings.TABLE,
                valid.select(*columns).unionByName(embed(inputs, uri, version).select(*columns)),
                update_when="s.content_hash <> t.content_hash",
                delete_missing_where="true",
                encoder_version=version,
            )
    context.outputs[table.name] = table
    ledger, modalities = _count(context, table)
    return StageResult(
        ledgers=[ledger, *features.ledgers()],
        facts={
            "encoder_version": version,
            "encoded": encoded,
            "unchanged": unchanged,
            "modalities": dict(sorted(modalities.items())),
            "without_content": modalities.get("none", 0),
        },
    )


def _count(context: Context, table: TableRef) -> tuple[Ledger, dict[str, int]]:
    """Items in and rows out; and rows by the modalities that they have."""
    from pyspark.sql import functions as F

    items = (
        context.table("items")
        .agg(F.count("*").alias("all"), F.count("removed_at").alias("removed"))
        .first()
    )
    assert items is not None
    pattern = F.concat_ws("+", "modalities").alias("pattern")
    counts = context.lake.read(table).groupBy(pattern).count().collect()
    modalities = {row["pattern"] or "none": int(row["count"]) for row in counts}
    ledger = Ledger(
        name="items of the catalogue",
        rows_in=items["all"],
        rows_out=sum(modalities.values()),
        dropped={"removed_item": items["removed"]},
    )
    return ledger, modalities
