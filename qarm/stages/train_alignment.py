"""Stage train-alignment: item_pairs + catalogue -> encoder."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from qarm.alignment import pairs_table
from qarm.alignment.encoder_task import EncoderResult, EncoderTask, ItemFiles
from qarm.alignment.held_out import METRIC
from qarm.encoders.fusion import ATTRIBUTES
from qarm.errors import ConfigError, InputError
from qarm.lake.files import remove_tree
from qarm.ledger import Ledger, Metric, StageResult
from qarm.pipeline.features import FeatureUpdate, live_items, update_features
from qarm.training.launch import launch
from qarm.training.settings import run_config
from qarm.training.writer import in_training_order
from schemas import alignment_pairs

if TYPE_CHECKING:
    from qarm.pipeline.context import Context


def run(context: Context) -> StageResult:
    """Encode the catalogue's content, write the training table, train, publish the encoder.

    Raises:
        InputError: no pair of the configured sources, or no item with content.
        ConfigError: a backbone to fine-tune is not a configured modality.
        TrainingError: a rank failed.
    """
    config = context.config
    if missing := set(config.alignment.finetune) - set(config.encoder.modalities):
        raise ConfigError(
            f"alignment.finetune names {sorted(missing)}, encoder.modalities are "
            f"{config.encoder.modalities}; add them there, or remove them here"
        )
    features = update_features(context, config.encoder)
    has_attributes = ATTRIBUTES in config.encoder.modalities and _has_attributes(context)
    used = [*features.dimensions, *([ATTRIBUTES] if has_attributes else [])]
    if unused := set(config.encoder.modalities) - set(used):
        context.say(f"no item has {', '.join(sorted(unused))}; the encoder is built without")
    if not used:
        raise InputError(
            f"no item has any of {config.encoder.modalities}; map columns of the catalogue to "
            "them under [items], or set encoder.modalities to what the catalogue has"
        )
    ledger, files = _write_pairs(context)
    task = _task(context, features, has_attributes, files)
    result = launch(
        "qarm.alignment.encoder_trainer:train",
        task,
        EncoderResult,
        config.training,
        work_dir=context.work_dir("ranks"),
        spark=context.spark,
        shards=config.loader.shards,
    )
    # They are for resuming after a crash; if they stayed, `--force` would only load the last one.
    remove_tree(context.work_dir("checkpoints"))
    read = Ledger(
        name="pairs read by the ranks in the last epoch",
        rows_in=ledger.rows_out,
        rows_out=sum(result.rows_per_rank),
    )
    return StageResult(
        ledgers=[ledger, read, *features.ledgers()],
        metrics=_metrics(result, config.alignment.seed),
        artifacts={"encoder": result.artifact},
        facts={
            "rows_per_rank": result.rows_per_rank,
            "history": [_repeatable(epoch) for epoch in result.history],
            "start": result.start,
            "best_epoch": result.best_epoch,
            "temperature": result.temperature,
            "items": result.items,
            "features": {m: asdict(c) for m, c in features.counts.items()},
            "backbones": features.backbones,
        },
    )


def _has_attributes(context: Context) -> bool:
    return not live_items(context).where("size(attributes) > 0").isEmpty()


def _write_pairs(context: Context) -> tuple[Ledger, dict[str, list[str]]]:
    """Commit alignment_pairs; the ledger of its rows, and the live files of each part."""
    alignment, table = context.config.alignment, alignment_pairs.TABLE
    chosen = pairs_table.choose_pairs(
        context.table("item_pairs"),
        live_items(context),
        alignment,
        own_pairs=context.is_external("item_pairs"),
    )
    for line in chosen.messages:
        context.say(line)
    ordered = in_training_order(
        chosen.rows,
        table,
        about_rows=chosen.kept,
        shards=context.config.loader.shards,
        seed=alignment.seed,
    )
    written = context.lake.read(context.overwrite(table, ordered))
    parts = {row["part"]: row["count"] for row in written.groupBy("part").count().collect()}
    ledger = Ledger(
        name="item pairs",
        rows_in=context.table("item_pairs").count(),
        rows_out=parts.get("train", 0),
        dropped={**chosen.dropped, "held_out": parts.get("valid", 0)},
    )
    return ledger, _files_by_part(context)


def _files_by_part(context: Context) -> dict[str, list[str]]:
    """Live files of alignment_pairs; the part is a folder of the path."""
    live = context.live_files(alignment_pairs.TABLE.name)
    return {part: [f for f in live if f"/part={part}/" in f] for part in ("train", "valid")}


def _task(
    context: Context,
    features: FeatureUpdate,
    has_attributes: bool,
    files: dict[str, list[str]],
) -> EncoderTask:
    config = context.config
    return EncoderTask(
        encoder=config.encoder,
        alignment=config.alignment,
        loader=config.loader,
        fit=run_config(
            config.training,
            run_id=context.run_id,
            tables={**context.inputs, **context.outputs},
            checkpoints=context.work_dir("checkpoints"),
            events=context.work_dir("events"),
        ),
        train_files=files["train"],
        valid_files=files["valid"],
        items=ItemFiles(
            pair_files=files["train"] + files["valid"],
            feature_files=context.lake.live_files(features.ref),
            item_files=context.live_files("items"),
            backbones=features.backbones,
            feature_dims=features.dimensions,
            buckets=config.encoder.attribute_buckets if has_attributes else 0,
            contents=list(config.alignment.finetune),
        ),
        artifact_uri=context.work_dir("encoder"),
    )


def _repeatable(epoch: dict[str, float]) -> dict[str, float]:
    """The epoch's record without what depends on the machine's speed."""
    return {k: v for k, v in epoch.items() if k not in ("rows_per_second", "input_wait_share")}


def _metrics(result: EncoderResult, seed: int) -> list[Metric]:
    """Held-out recall: before training, after each epoch, and of the epoch that was kept."""
    n = result.valid_pairs
    if not n:
        return []

    def metric(value: float, variant: str, where: str = "all") -> Metric:
        return Metric(
            metric=METRIC, value=value, n=n, part="valid", slice=where, variant=variant, seed=seed
        )

    best = metric(result.best_metrics[METRIC], "aligned")
    epochs = [
        metric(record[METRIC], "aligned", f"epoch {int(record['epoch']) + 1}")
        for record in result.history
    ]
    return [metric(result.start[METRIC], "start"), best, *epochs]
