"""The eleven stages in order: what each reads and writes, and which settings it depends on."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qarm.config.codes import Codes
from qarm.errors import ConfigError

if TYPE_CHECKING:
    from qarm.config import Config
    from qarm.ledger import StageResult
    from qarm.pipeline.context import Context


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage. Its function lives in ``module`` and is called ``run``."""

    name: str
    summary: str
    """One line for --help."""
    module: str
    sections: tuple[str, ...]
    """Sections, or single settings (section.name), whose change makes the stage run again."""
    inputs: tuple[str, ...]
    """Tables read."""
    outputs: tuple[str, ...]
    """Tables written."""
    artifacts: tuple[str, ...] = ()
    """Artifacts of other stages read, as "stage/name"."""
    optional_inputs: tuple[str, ...] = ()
    """Tables read if they exist."""
    replaced_by: tuple[tuple[str, ...], ...] = ()
    """Groups of tables: where the user brings all tables of a group, the stage is not needed."""
    reads_sources: bool = False
    """Whether it reads the user's files (``Config.source_uris``)."""
    metrics: tuple[str, ...] = ()
    """Patterns of the names of its metrics, for gates."""
    completes_metrics: bool = False
    """Whether every metric that a gate can name exists once this stage has run."""

    def load(self) -> Callable[[Context], StageResult]:
        """The stage's function."""
        function: Callable[[Context], StageResult] = importlib.import_module(self.module).run
        return function

    def settings(self, config: Config) -> dict[str, Any]:
        """The part of ``config`` that the result depends on, as JSON values."""
        values_by_name: dict[str, Any] = {}
        for name in self.sections:
            section, _, setting = name.partition(".")
            values = getattr(config, section).model_dump(mode="json")
            values_by_name[name] = values[setting] if setting else values
        return values_by_name


#: Settings that a training's result depends on. The number of ranks is not among them: a stopped
#: training resumes with another number of ranks, since all ranks share the same steps.
_TRAINING = ("loader.shards", "loader.shuffle_rows", "training.mixed_precision")

#: Settings of section codes that assign-codes alone reads; the others change the codebook.
_ASSIGN_ONLY = (
    *("resolve_capacity", "vq_exact_anchors", "vq_index_probes", "drift_max_error_ratio"),
)
_FIT = (
    "gates.stop_on",
    *(f"codes.{name}" for name in Codes.model_fields if name not in _ASSIGN_ONLY),
)

#: Metrics of each kind of code.
_COLLISIONS = ("duplicate_rate", "shared_rate", "items_per_code", "largest_code")

#: Metrics of each ranker.
_RANKING = ("auc", "auc_gain", "uauc", "gauc", "log_loss")

STAGES: tuple[Stage, ...] = (
    Stage(
        name="ingest",
        summary="raw logs and catalogue -> items, users, interactions, event_splits, quarantine",
        module="qarm.stages.ingest",
        sections=(
            *("log", "items", "split"),
            *(
                "gates.max_quarantine_share",
                "gates.min_interactions",
                "gates.min_items",
                "gates.stop_on",
            ),
        ),
        inputs=(),
        outputs=("items", "users", "interactions", "event_splits", "quarantine"),
        reads_sources=True,
    ),
    Stage(
        name="mine-pairs",
        summary="training-period events -> id_vectors, item_pairs (User2Item, Swing, ItemCF)",
        module="qarm.stages.mine_pairs",
        sections=("pairs", "gates.min_pairs", "encoder.text_backbone", "encoder.max_tokens"),
        inputs=("items", "interactions", "event_splits"),
        outputs=(
            *("id_vectors", "item_pairs", "item_features"),
            *("scratch_u2i", "scratch_swing", "scratch_itemcf_pairs", "scratch_itemcf_items"),
            "scratch_ledger",
        ),
        optional_inputs=("id_vectors",),
        replaced_by=(("item_pairs", "id_vectors"),),
        metrics=("pairs", "item_coverage"),
    ),
    Stage(
        name="train-alignment",
        summary="item_pairs + catalogue -> encoder (Horovod over Petastorm)",
        module="qarm.stages.train_alignment",
        sections=("encoder", "alignment", *_TRAINING),
        inputs=("items", "item_pairs", "event_splits"),
        outputs=("item_features", "alignment_pairs"),
        optional_inputs=("item_features",),
        replaced_by=(("item_embeddings",),),
        metrics=("recall@*",),
    ),
    Stage(
        name="embed-catalog",
        summary="encoder + catalogue -> item_embeddings",
        module="qarm.stages.embed_catalog",
        sections=("encoder",),
        inputs=("items",),
        outputs=("item_features", "item_embeddings"),
        artifacts=("train-alignment/encoder",),
        optional_inputs=("item_features",),
        replaced_by=(("item_embeddings",),),
    ),
    Stage(
        name="fit-codebooks",
        summary="item_embeddings -> codebooks (VQ anchors, residual k-means)",
        module="qarm.stages.fit_codebooks",
        sections=_FIT,
        inputs=("item_embeddings",),
        outputs=("codebooks",),
        optional_inputs=("items", "event_splits"),
        replaced_by=(("codebooks",), ("semantic_ids",)),
        metrics=("rq_*_error_l*", "rq_*changed*_l*", "vq_anchors_kept"),
    ),
    Stage(
        name="assign-codes",
        summary="codebooks + item_embeddings -> semantic_ids of the whole catalogue",
        module="qarm.stages.assign_codes",
        sections=("codes",),
        inputs=("item_embeddings", "codebooks"),
        outputs=("semantic_ids",),
        artifacts=("fit-codebooks/codebook",),
        optional_inputs=("items",),
        replaced_by=(("semantic_ids",),),
        metrics=(*_COLLISIONS, "resolver_*", "rq_drift_*", "refit_due", "vq_index_recall"),
    ),
    Stage(
        name="quality",
        summary="semantic_ids + vectors + test pairs -> quality of the codes",
        module="qarm.stages.quality",
        sections=("evaluation", "pairs", "alignment.sources"),
        inputs=("semantic_ids", "item_embeddings", "codebooks"),
        outputs=(),
        optional_inputs=("items", "interactions", "event_splits", "item_pairs", "id_vectors"),
        metrics=(*_COLLISIONS, "rq_*", "vq_*", "zero_vectors", "neighbour_overlap*"),
    ),
    Stage(
        name="build-samples",
        summary="events -> ranking_samples with history and negatives",
        module="qarm.stages.build_samples",
        sections=("samples", "loader.shards"),
        inputs=("items", "interactions", "event_splits"),
        outputs=("ranking_samples",),
        replaced_by=(("ranking_samples",),),
    ),
    Stage(
        name="train-ranker",
        summary="ranking_samples + codes -> ranker of each variant, predictions",
        module="qarm.stages.train_ranker",
        sections=("ranker", *_TRAINING),
        inputs=("ranking_samples", "semantic_ids", "item_embeddings", "codebooks"),
        outputs=("predictions",),
        metrics=("selection_auc",),
    ),
    Stage(
        name="evaluate",
        summary="predictions, vectors and test pairs -> metrics",
        module="qarm.stages.evaluate",
        sections=("evaluation", "pairs", "alignment.sources"),
        inputs=("predictions", "interactions", "event_splits", "item_embeddings"),
        outputs=("metrics",),
        completes_metrics=True,
        optional_inputs=("item_pairs", "id_vectors", "item_features", "semantic_ids", "items"),
        metrics=(
            *_RANKING,
            *(f"{name}[[]*]" for name in _RANKING),  # of another label, such as auc[long]
            *("recall@*", "recall_ratio@*"),
        ),
    ),
    Stage(
        name="report",
        summary="tables, metrics and figures -> report.html",
        module="qarm.stages.report",
        sections=(),
        inputs=("metrics", "interactions", "items", "semantic_ids"),
        outputs=(),
        artifacts=("quality/figures",),
        optional_inputs=("item_pairs", "event_splits", "predictions"),
    ),
)

BY_NAME = {stage.name: stage for stage in STAGES}


def stage(name: str) -> Stage:
    """The stage of that name (``-`` and ``_`` are equivalent).

    Raises:
        ConfigError: there is none; lists the names.
    """
    by_name = BY_NAME.get(name.replace("_", "-"))
    if by_name is None:
        raise ConfigError(f"no stage {name!r}; stages: {', '.join(BY_NAME)}")
    return by_name
