"""Stage train-alignment: item_pairs + catalogue -> encoder."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qarm.alignment.held_out import METRIC
from qarm.alignment.item_store import StoreSpec
from qarm.alignment.pairs_table import (
    selected_pairs,
    sources_to_use,
    training_table,
    weights,
    with_part,
)
from qarm.alignment.trainer import TrainSpec
from qarm.encoders.fusion import ATTRIBUTES
from qarm.errors import ConfigError, InputError
from qarm.lake.files import remove_tree
from qarm.ledger import Ledger, Metric, StageResult
from qarm.pipeline.features import FeatureUpdate, live_items, update_features
from qarm.training.launch import launch
from qarm.training.settings import fit_settings, launch_settings
from qarm.training.writer import write_training_table
from schemas import alignment_pairs

if TYPE_CHECKING:
    from qarm.pipeline.context import Context


def run(context: Context) -> StageResult:
    """Encode the catalogue's content, write the training table, train, publish the encoder.

    Raises:
        InputError: no pair of the configured sources, or no item with content.
        ConfigError: a backbone to fine-tune is no configured modality.
        TrainingError: a rank failed.
    """
    config = context.config
    if missing := set(config.alignment.finetune) - set(config.encoder.modalities):
        raise ConfigError(
            f"alignment.finetune names {sorted(missing)}, encoder.modalities are "
            f"{config.encoder.modalities}; add them there, or leave them out here"
        )
    features = update_features(context, config.encoder)
    has_attributes = ATTRIBUTES in config.encoder.modalities and _has_attributes(context)
    used = [*features.dimensions, *([ATTRIBUTES] if has_attributes else [])]
    if unused := set(config.encoder.modalities) - set(used):
        context.say(f"no item has {', '.join(sorted(unused))}; the encoder goes without")
    if not used:
        raise InputError(
            f"no item has any of {config.encoder.modalities}; map columns of the catalogue to "
            "them under [items], or set encoder.modalities to what it has"
        )
    ledger, files = _write_pairs(context)
    spec = _train_spec(context, features, has_attributes, files)
    result = launch(
        "qarm.alignment.trainer:train",
        spec.as_dict(),
        **launch_settings(config),
        work_dir=context.work_dir("ranks"),
        spark=context.spark,
    )
    # They are for going on after a crash; kept, `--force` would only load the last one.
    remove_tree(spec.fit["checkpoint_folder"])
    read = Ledger(
        name="pairs read by the ranks in the last epoch",
        rows_in=ledger.rows_out,
        rows_out=sum(result["rows_per_rank"]),
    )
    return StageResult(
        ledgers=[ledger, read, *features.ledgers()],
        metrics=_metrics(result, config.alignment.seed),
        artifacts={"encoder": result["artifact"]},
        facts={
            "rows_per_rank": result["rows_per_rank"],
            "history": [_repeatable(epoch) for epoch in result["history"]],
            "start": result["start"],
            "best_epoch": result["best_epoch"],
            "temperature": result["temperature"],
            "items": result["items"],
            "features": {m: asdict(c) for m, c in features.counts.items()},
            "backbones": features.backbones,
        },
    )


def _has_attributes(context: Context) -> bool:
    return not live_items(context).where("size(attributes) > 0").isEmpty()


def _write_pairs(context: Context) -> tuple[Ledger, dict[str, list[str]]]:
    """Commit alignment_pairs; where the rows went, and the live files of each part."""
    alignment = context.config.alignment
    item_pairs = context.table("item_pairs")
    sources = alignment.sources
    if context.is_external("item_pairs"):
        there = [row["source"] for row in item_pairs.select("source").distinct().collect()]
        sources = sources_to_use(alignment.sources, there)
    if sources != alignment.sources:
        shares = ", ".join(f"{name} (share {share:g})" for name, share in sources.items())
        context.say(
            f"your item_pairs have none of alignment.sources ({', '.join(alignment.sources)}); "
            f"trained on what they have: {shares}"
        )
    pairs = selected_pairs(item_pairs, live_items(context), sources)
    fates: Counter[str] = Counter()
    of_source: Counter[str] = Counter()
    for row in pairs.groupBy("source", "fate").count().collect():
        fates[row["fate"]] += int(row["count"])
        of_source[row["source"]] += int(row["count"])
    kept = with_part(pairs.where("fate = 'kept'"), alignment.valid_share, alignment.seed)
    kept = kept.select("trigger", "target", "source", "part")
    counts = kept.where("part = 'train'").groupBy("source").count().collect()
    by_source = {row["source"]: int(row["count"]) for row in counts}
    row_weights = weights(by_source, sources, of_source)
    if absent := sorted(set(sources) - set(row_weights)):
        context.say(f"no training pair of {', '.join(absent)}; trained on the other sources")
    table = training_table(kept, row_weights)
    write_training_table(
        context,
        alignment_pairs.TABLE,
        table,
        about_rows=fates["kept"],
        shards=context.config.loader.shards,
        seed=alignment.seed,
    )
    written = context.table(alignment_pairs.TABLE.name).groupBy("part").count().collect()
    parts = {row["part"]: int(row["count"]) for row in written}
    dropped = {fate: n for fate, n in sorted(fates.items()) if fate != "kept"}
    ledger = Ledger(
        name="item pairs",
        rows_in=sum(fates.values()),
        rows_out=parts.get("train", 0),
        dropped={**dropped, "held_out": parts.get("valid", 0)},
    )
    return ledger, _files_by_part(context)


def _files_by_part(context: Context) -> dict[str, list[str]]:
    """Live files of alignment_pairs; the part is a folder of the path."""
    live = context.live_files(alignment_pairs.TABLE.name)
    return {part: [f for f in live if f"/part={part}/" in f] for part in ("train", "valid")}


def _train_spec(
    context: Context,
    features: FeatureUpdate,
    has_attributes: bool,
    files: dict[str, list[str]],
) -> TrainSpec:
    config = context.config
    store = StoreSpec(
        pair_files=files["train"] + files["valid"],
        feature_files=context.lake.live_files(features.ref),
        item_files=context.live_files("items"),
        backbones=features.backbones,
        feature_dims=features.dimensions,
        buckets=config.encoder.attribute_buckets if has_attributes else 0,
        contents=list(config.alignment.finetune),
    )
    return TrainSpec(
        encoder=config.encoder.model_dump(mode="json"),
        alignment=config.alignment.model_dump(mode="json"),
        train_files=files["train"],
        valid_files=files["valid"],
        store=asdict(store),
        artifact_uri=context.work_dir("encoder"),
        loader=config.loader.model_dump(mode="json"),
        fit={
            "checkpoint_folder": context.work_dir("checkpoints"),
            "events_folder": context.work_dir("events"),
            **fit_settings(context),
        },
    )


def _repeatable(epoch: dict[str, float]) -> dict[str, float]:
    """The epoch's record without what depends on the machine's speed."""
    return {k: v for k, v in epoch.items() if k not in ("rows_per_second", "input_wait_share")}


def _metrics(result: dict[str, Any], seed: int) -> list[Metric]:
    """Held-out recall: before training, of each epoch, and of the epoch that was kept."""
    n = result["valid_pairs"]
    if not n:
        return []

    def metric(value: float, variant: str, where: str = "all") -> Metric:
        return Metric(
            metric=METRIC, value=value, n=n, part="valid", slice=where, variant=variant, seed=seed
        )

    best = metric(result["best_metrics"][METRIC], "aligned")
    epochs = [
        metric(record[METRIC], "aligned", f"epoch {int(record['epoch']) + 1}")
        for record in result["history"]
    ]
    return [metric(result["start"][METRIC], "start"), best, *epochs]
