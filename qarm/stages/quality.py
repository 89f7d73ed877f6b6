"""Stage quality: how good the codes are, from tables of ours or of the user's own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from qarm.codes.codebook import Codebook
from qarm.errors import InputError, plain_errors
from qarm.evaluation import code_use, kept_pairs, new_pairs
from qarm.evaluation.code_change import code_change, codes_before
from qarm.evaluation.code_neighbours import neighbour_overlap
from qarm.evaluation.code_pairs import pair_agreement
from qarm.evaluation.code_slices import SLICES, with_slices
from qarm.evaluation.prefix_cosine import prefix_cosines
from qarm.evaluation.purity import category_purity
from qarm.lake import files
from qarm.pipeline.code_inputs import encoder_versions, load_codebook
from qarm.pipeline.result import Ledger, Metric, StageResult

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context

FILE = "quality.json"


@dataclass
class _Found:
    """Figures, and why some are not there."""

    metrics: list[Metric] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Part of the report -> why."""
    facts: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)


def run(context: Context) -> StageResult:
    """Measure what can be measured with the tables that are there; say what is left out, and why.

    ``semantic_ids`` is needed. Reconstruction and neighbours need the codebook and vectors,
    held-out pairs a log with a test part and training pairs, purity a catalogue with attributes.

    Raises:
        InputError: codes of several codebooks, of another codebook than the one given, or no rows.
    """
    from pyspark.sql import functions as F

    table = context.table("semantic_ids")
    counts = {r[0]: int(r[1]) for r in table.groupBy("codebook_id").count().collect()}
    chosen = _chosen(context, counts)
    book = _codebook(context, chosen)
    found = _Found()
    ids = table.where(F.col("codebook_id") == chosen)
    ids = ids.select("item_idx", "rq", "rq_resolved", "vq", "encoder_version")
    ids = with_slices(context, ids).persist()
    with plain_errors():
        context.say("use and collisions")
        sizes = _of_codes(ids, book, found)
        _of_vectors(context, ids, book, sizes, counts[chosen], found)
        if sizes:
            _of_pairs(context, ids, found)
            _of_categories(context, ids, len(sizes), found)
            _since_before(context, ids, chosen, found)
    ids.unpersist()
    for part, why in found.left_out.items():
        context.say(f"{part}: left out, {why}")
    facts = {
        "codebook_id": chosen,
        "rq_sizes": sizes,
        "vq_anchors": len(book.anchors) if book else 0,
        "slices": list(SLICES.items()),
        "left_out": found.left_out,
        **found.facts,
    }
    return StageResult(
        ledgers=[
            Ledger(
                name="semantic ids",
                rows_in=sum(counts.values()),
                rows_out=counts[chosen],
                dropped={f"codebook {c}": n for c, n in sorted(counts.items()) if c != chosen},
            )
        ],
        metrics=found.metrics,
        facts=facts,
        artifacts={"figures": _publish(context, facts, found.metrics), **found.artifacts},
    )


def _publish(context: Context, facts: dict[str, Any], metrics: list[Metric]) -> dict[str, Any]:
    """All figures as one JSON file, for whoever has nothing but the lake's folder."""
    uri = files.join(context.work_dir(), FILE)
    tree = {"facts": facts, "metrics": [asdict(metric) for metric in metrics]}
    files.write_text(uri, json.dumps(tree, indent=1))
    return {"uri": uri, "version": context.run_id}


def _chosen(context: Context, counts: dict[str, int]) -> str:
    """The codebook whose codes are measured: the only one, or that of the last assign-codes."""
    if not counts:
        raise InputError(
            f"stage {context.stage}: semantic_ids has no rows; expected one an item of the "
            "catalogue"
        )
    if len(counts) == 1:
        return next(iter(counts))
    published = context.facts("assign-codes").get("codebook_id")
    if not context.is_external("semantic_ids") and published in counts:
        return str(published)
    raise InputError(
        f"stage {context.stage}: semantic_ids has codes of several codebooks ({sorted(counts)}) "
        "and no run says which one to take; bring those of one"
    )


def _codebook(context: Context, chosen: str) -> Codebook | None:
    """The codebook ``chosen``, or None where there are codes alone."""
    from pyspark.sql import functions as F

    if context.find("codebooks") is None:
        return None
    if context.is_external("codebooks"):
        book = load_codebook(context)
        named = not (chosen.startswith("user-") or book.codebook_id.startswith("user-"))
        if named and book.codebook_id != chosen:
            raise InputError(
                f"semantic_ids are of codebook {chosen}, your codebook is {book.codebook_id}; "
                "bring the one that made the codes"
            )
        return book
    rows = context.table("codebooks").where(F.col("codebook_id") == chosen).toArrow()
    return Codebook.from_rows(rows, f"codebook {chosen}") if rows.num_rows else None


def _of_codes(ids: DataFrame, book: Codebook | None, found: _Found) -> list[int]:
    """Use and collisions of every kind of code; the sizes of the residual levels."""
    from pyspark.sql import functions as F

    row = ids.agg(
        F.max(F.size("rq")).alias("levels"),
        F.min(F.size("rq")).alias("fewest"),
        F.max(F.size("vq")).alias("vq"),
        F.count("rq_resolved").alias("resolved"),
        F.max(F.array_max("vq")).alias("anchor"),
    ).first()
    assert row is not None
    levels = int(row["levels"])
    if levels != row["fewest"]:
        raise InputError(
            f"semantic_ids: codes must have one length, seen {row['fewest']} to {levels} numbers"
        )
    sizes = book.sizes if book is not None else _largest(ids, levels)
    if len(sizes) != levels:
        raise InputError(
            f"semantic_ids: codes have {levels} numbers, codebook has {len(sizes)} levels; these "
            "codes belong to another codebook"
        )
    if book is None:
        found.left_out["codes that no item has"] = "no codebook: sizes are the largest codes seen"
    kinds = ["rq"] * bool(levels) + ["rq_resolved"] * bool(levels and row["resolved"])
    for kind in kinds:
        rows = ids.where(F.col(kind).isNotNull())
        found.metrics += code_use.level_usage(rows, kind, sizes)
        found.metrics += code_use.collision_metrics(rows, kind)
    if row["vq"]:
        anchors = len(book.anchors) if book is not None else int(row["anchor"]) + 1
        found.metrics += code_use.level_usage(ids, "vq", [anchors])
        found.metrics += code_use.collision_metrics(ids, "vq")
    return list(sizes)


def _largest(ids: DataFrame, levels: int) -> list[int]:
    from pyspark.sql import functions as F

    if not levels:
        return []
    row = ids.agg(*[F.max(F.col("rq")[level]) for level in range(levels)]).first()
    assert row is not None
    return [int(code) + 1 for code in row]


def _of_vectors(
    context: Context,
    ids: DataFrame,
    book: Codebook | None,
    sizes: list[int],
    rows: int,
    found: _Found,
) -> None:
    """What needs vectors beside codes."""
    from pyspark.sql import functions as F

    part = "reconstruction, prefix cosines and neighbours"
    if context.find("item_embeddings") is None:
        found.left_out[part] = "no table item_embeddings"
        return
    versions = encoder_versions(context)
    coded = sorted(r[0] for r in ids.select("encoder_version").distinct().collect())
    of = [v for v in coded if v in versions] or (list(versions) if len(versions) == 1 else [])
    if len(of) != 1:
        found.left_out[part] = f"codes are of encoder {coded}, vectors of {sorted(versions)}"
        return
    vectors = context.table("item_embeddings").where(F.col("encoder_version") == of[0])
    found.facts["encoder_version"] = of[0]
    config = context.config.evaluation
    found.metrics.append(code_use.zero_vectors(vectors))
    if sizes:
        context.say("cosine inside prefixes")
        found.metrics += prefix_cosines(ids, vectors, sizes, rows, config.quality_rows)
    if book is None:
        found.left_out["reconstruction and neighbours"] = "no codebook"
        return
    context.say("reconstruction")
    broadcast = context.spark.sparkContext.broadcast(book)
    share = config.quality_rows / rows
    if book.levels:
        found.metrics += code_use.reconstruction_metrics(ids, vectors, broadcast, share)
        resolved = ids.where(F.col("rq_resolved").isNotNull())
        if any(m.variant == "rq_resolved" for m in found.metrics):
            found.metrics += code_use.reconstruction_metrics(
                resolved, vectors, broadcast, share, "rq_resolved"
            )
    context.say(f"neighbours of {min(config.quality_queries, rows):,} items")
    found.metrics += neighbour_overlap(
        ids, vectors, book, rows, config.quality_queries, config.quality_neighbours
    )
    broadcast.destroy()


def _of_pairs(context: Context, ids: DataFrame, found: _Found) -> None:
    missing = [
        name
        for name in ("interactions", "event_splits", "item_pairs")
        if context.find(name) is None
    ]
    if missing:
        found.left_out["held-out pairs"] = f"no table {' and no table '.join(missing)}"
        return
    context.say("held-out pairs")
    mined = new_pairs.mine(context)
    found.artifacts[kept_pairs.ARTIFACT] = kept_pairs.keep(context, mined)
    for source, pairs in mined.items():
        found.facts[f"pairs_{source}"] = {"mined": pairs.mined, **pairs.dropped}
        metrics = pair_agreement(source, pairs, ids, context.config.evaluation.groups)
        if not metrics:
            found.left_out[f"held-out pairs, {source}"] = "none in the test part"
        found.metrics += metrics


def _of_categories(context: Context, ids: DataFrame, levels: int, found: _Found) -> None:
    if context.find("items") is None:
        found.left_out["purity"] = "no table items"
        return
    context.say("categories")
    metrics = category_purity(ids, context.table("items"), levels)
    if not metrics:
        found.left_out["purity"] = "no item of the catalogue has attributes"
    found.metrics += metrics


def _since_before(context: Context, ids: DataFrame, chosen: str, found: _Found) -> None:
    before = codes_before(context, chosen)
    if before is None:
        found.left_out["change"] = "no earlier codebook has coded this catalogue"
        return
    codebook, codes = before
    found.facts["before"] = codebook
    found.metrics += code_change(codes, ids)
