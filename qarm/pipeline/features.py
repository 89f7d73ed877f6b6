"""Table item_features for the stages that need it: brought up to date in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qarm.encoders.encode_content import count_unreadable
from qarm.encoders.feature_cache import (
    ModalityCounts,
    dense_modalities,
    measure,
    own_backbones,
    plan_update,
    small_arrow_batches,
)
from qarm.errors import plain_errors
from qarm.lake.tables import TableRef
from qarm.ledger import Ledger
from schemas import Table, item_features

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.config.encoder import Encoder
    from qarm.pipeline.context import Context


@dataclass(frozen=True)
class FeatureUpdate:
    """item_features after ``update_features``."""

    ref: TableRef
    backbones: dict[str, str]
    """Modality -> backbone of its rows."""
    dimensions: dict[str, int]
    """Modality -> dimensions of its features; modalities that no item has are absent."""
    counts: dict[str, ModalityCounts] = field(default_factory=dict)
    """Modality -> what happened to the items; empty for features that the user brings."""

    def ledgers(self) -> list[Ledger]:
        """One per modality: items in, features out."""
        return [
            Ledger(
                name=f"items with {modality} features",
                rows_in=c.items,
                rows_out=c.encoded + c.reused,
                dropped={f"no_{modality}": c.missing, f"unreadable_{modality}": c.unreadable},
            )
            for modality, c in self.counts.items()
        ]


def update_features(
    context: Context, encoder: Encoder, modalities: Sequence[str] | None = None
) -> FeatureUpdate:
    """Bring item_features up to date with the catalogue.

    Features that the user brings are taken as they are.

    Args:
        context: of the stage; its tables are read and written.
        encoder: names modalities and backbones.
        modalities: of text, image and audio; None: those of ``encoder``.

    Raises:
        InputError: audio vectors with NaN or of several lengths, or a backbone that returns NaN.
        ConfigError: a backbone is not installed.
    """
    wanted = dense_modalities(encoder.modalities if modalities is None else modalities)
    if context.is_external("item_features"):
        ref = context.ref("item_features")
        own = context.lake.read(ref)
        backbones = own_backbones(own, wanted)
        return FeatureUpdate(ref, backbones, measure(own, backbones)[1])
    # The latest version, published or not: what a failed run has encoded is not encoded again.
    ref = latest(context, item_features.TABLE)
    plan = plan_update(live_items(context), context.lake.read(ref), encoder, wanted)
    for modality, work in plan.work.items():
        if work.to_encode:
            context.say(f"encoding {modality} of {work.to_encode:,} items")
    if plan.rows is not None:
        names = ", ".join(f"'{modality}'" for modality in wanted)
        with small_arrow_batches(context.spark), plain_errors():
            ref = context.merge(
                item_features.TABLE,
                plan.rows,
                update_when="s.modality_hash <> t.modality_hash",
                delete_missing_where=f"t.modality IN ({names})",
            )
    context.outputs[ref.name] = ref
    backbones = {modality: work.backbone for modality, work in plan.work.items()}
    features = context.lake.read(ref)
    rows, dimensions = measure(features, backbones)
    items, unreadable = live_items(context), {}
    for modality, work in plan.work.items():
        if work.contents > rows.get(modality, 0):
            own = features.where(f"modality = '{modality}'")
            unreadable[modality] = count_unreadable(items, own, modality)
    backbones = {modality: backbones[modality] for modality in dimensions}
    return FeatureUpdate(ref, backbones, dimensions, plan.counts(rows, unreadable))


def live_items(context: Context) -> DataFrame:
    """Items that are in the catalogue."""
    return context.table("items").where("removed_at IS NULL")


def latest(context: Context, table: Table) -> TableRef:
    """The latest version of a table, published or not; created where it does not exist."""
    context.lake.create(table)
    return TableRef(table.name, context.lake.path(table.name), context.lake.version(table.name))
