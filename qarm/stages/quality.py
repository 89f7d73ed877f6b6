"""Stage quality: how good the codes are, those of stage assign-codes or the user's own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from qarm.codes.codebook import Codebook
from qarm.config import fingerprint
from qarm.errors import InputError, plain_errors
from qarm.evaluation import code_use, held_out_pairs
from qarm.evaluation.code_change import code_change, previous_codes
from qarm.evaluation.code_neighbours import neighbour_overlap
from qarm.evaluation.code_pairs import pair_agreement
from qarm.evaluation.prefix_cosine import prefix_cosines
from qarm.evaluation.purity import category_purity
from qarm.evaluation.reconstruction import reconstruction_metrics
from qarm.evaluation.slices import ITEM_SLICES, with_item_slices
from qarm.ingest.parts import training_parts
from qarm.lake import files
from qarm.ledger import Ledger, Metric, StageResult
from qarm.pipeline.code_inputs import encoder_versions, load_codebook
from qarm.pipeline.code_version import code_version

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context

FILE = "quality.json"
#: Upper bound on the items for reconstruction and for cosines inside prefixes, chosen by hash.
MOST_ITEMS = 200_000
#: Items, chosen by hash, whose neighbours are compared, and the number of neighbours of each.
QUERIES, NEIGHBOURS = 1000, 20


@dataclass
class _Results:
    """Figures, and why some are missing."""

    metrics: list[Metric] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Part of the report -> why."""
    facts: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)


def run(context: Context) -> StageResult:
    """Measure what the available tables allow; report what is left out, and why.

    ``semantic_ids`` is required. Reconstruction and neighbours need the codebook and vectors,
    held-out pairs need a log with a test part and training pairs, purity needs a catalogue with
    attributes.

    Raises:
        InputError: codes of several codebooks, of another codebook than the given one, or no rows.
    """
    from pyspark.sql import functions as F

    table = context.table("semantic_ids")
    counts = {r[0]: int(r[1]) for r in table.groupBy("codebook_id").count().collect()}
    chosen = _chosen(context, counts)
    book = _codebook(context, chosen)
    results = _Results()
    ids = table.where(F.col("codebook_id") == chosen)
    ids = ids.select("item_idx", "rq", "rq_resolved", "vq", "encoder_version")
    splits = context.table("event_splits") if context.find("event_splits") else None
    ids = with_item_slices(ids, splits, training_parts(context.facts("ingest"))).persist()
    with plain_errors():
        context.say("use and collisions")
        sizes = _of_codes(ids, book, results)
        _of_vectors(context, ids, book, sizes, counts[chosen], results)
        if sizes:
            _of_pairs(context, ids, results)
            _of_categories(context, ids, len(sizes), results)
            _since_before(context, ids, chosen, results)
    ids.unpersist()
    for part, why in results.left_out.items():
        context.say(f"{part}: left out, {why}")
    facts = {
        "codebook_id": chosen,
        "rq_sizes": sizes,
        "vq_anchors": len(book.anchors) if book else 0,
        "slices": list(ITEM_SLICES.items()),
        "left_out": results.left_out,
        **results.facts,
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
        metrics=results.metrics,
        facts=facts,
        artifacts={"figures": _publish(context, facts, results.metrics), **results.artifacts},
    )


def _publish(context: Context, facts: dict[str, Any], metrics: list[Metric]) -> dict[str, Any]:
    """Write all figures as one JSON file, readable without Delta; returns the artifact."""
    uri = files.join(context.work_dir(), FILE)
    tree = {"facts": facts, "metrics": [asdict(metric) for metric in metrics]}
    files.write_text(uri, json.dumps(tree, indent=1))
    return {"uri": uri, "version": context.run_id}


def _chosen(context: Context, counts: dict[str, int]) -> str:
    """The codebook whose codes are measured: the only one, or that of the last assign-codes."""
    if not counts:
        raise InputError(
            f"stage {context.stage}: semantic_ids has no rows; expected one row per item of the "
            "catalogue"
        )
    if len(counts) == 1:
        return next(iter(counts))
    published = context.facts("assign-codes").get("codebook_id")
    if not context.is_external("semantic_ids") and published in counts:
        return str(published)
    raise InputError(
        f"stage {context.stage}: semantic_ids has codes of several codebooks ({sorted(counts)}), "
        "and no run of assign-codes names one of them; provide the codes of one codebook"
    )


def _codebook(context: Context, chosen: str) -> Codebook | None:
    """The codebook ``chosen``, or None if there are only codes."""
    from pyspark.sql import functions as F

    if context.find("codebooks") is None:
        return None
    if context.is_external("codebooks"):
        book = load_codebook(context)
        named = not (chosen.startswith("user-") or book.codebook_id.startswith("user-"))
        if named and book.codebook_id != chosen:
            raise InputError(
                f"semantic_ids has codes of codebook {chosen}, your codebook is "
                f"{book.codebook_id}; provide the codebook that made the codes"
            )
        return book
    rows = context.table("codebooks").where(F.col("codebook_id") == chosen).toArrow()
    return Codebook.from_rows(rows, f"codebook {chosen}") if rows.num_rows else None


def _of_codes(ids: DataFrame, book: Codebook | None, results: _Results) -> list[int]:
    """Use and collisions of every kind of code; returns the sizes of the residual levels."""
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
        results.left_out["unused codes"] = "no codebook: the largest code seen is taken as size"
    kinds = ["rq"] * bool(levels) + ["rq_resolved"] * bool(levels and row["resolved"])
    for kind in kinds:
        rows = ids.where(F.col(kind).isNotNull())
        results.metrics += code_use.level_usage(rows, kind, sizes)
        results.metrics += code_use.collision_metrics(rows, kind)
    if row["vq"]:
        anchors = len(book.anchors) if book is not None else int(row["anchor"]) + 1
        results.metrics += code_use.level_usage(ids, "vq", [anchors])
        results.metrics += code_use.collision_metrics(ids, "vq")
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
    results: _Results,
) -> None:
    """Figures that need vectors as well as codes."""
    from pyspark.sql import functions as F

    part = "reconstruction, prefix cosines and neighbours"
    if context.find("item_embeddings") is None:
        results.left_out[part] = "no table item_embeddings"
        return
    versions = encoder_versions(context)
    coded = sorted(r[0] for r in ids.select("encoder_version").distinct().collect())
    of = [v for v in coded if v in versions] or (list(versions) if len(versions) == 1 else [])
    if len(of) != 1:
        results.left_out[part] = f"codes of encoder {coded}, vectors of {sorted(versions)}"
        return
    vectors = context.table("item_embeddings").where(F.col("encoder_version") == of[0])
    results.facts["encoder_version"] = of[0]
    results.metrics.append(code_use.zero_vectors(vectors))
    if sizes:
        context.say("cosine inside prefixes")
        results.metrics += prefix_cosines(ids, vectors, sizes, rows, MOST_ITEMS)
    if book is None:
        results.left_out["reconstruction and neighbours"] = "no codebook"
        return
    context.say("reconstruction")
    broadcast = context.spark.sparkContext.broadcast(book)
    share = MOST_ITEMS / rows
    if book.levels:
        results.metrics += reconstruction_metrics(ids, vectors, broadcast, share)
        resolved = ids.where(F.col("rq_resolved").isNotNull())
        if any(m.variant == "rq_resolved" for m in results.metrics):
            results.metrics += reconstruction_metrics(
                resolved, vectors, broadcast, share, "rq_resolved"
            )
    context.say(f"neighbours of {min(QUERIES, rows):,} items")
    results.metrics += neighbour_overlap(ids, vectors, book, rows, QUERIES, NEIGHBOURS)
    broadcast.destroy()


def _of_pairs(context: Context, ids: DataFrame, results: _Results) -> None:
    """Agreement of held-out pairs; saves the pairs for stage evaluate."""
    missing = [name for name in held_out_pairs.NEEDED_TABLES if context.find(name) is None]
    if missing:
        results.left_out["held-out pairs"] = f"no table {' and no table '.join(missing)}"
        return
    context.say("held-out pairs")
    tables = {n: context.table(n) for n in held_out_pairs.TABLES if context.find(n)}
    settings = held_out_pairs.Settings.of(context.config)
    by_source = held_out_pairs.mine_test_pairs(tables, settings)
    uri = files.join(context.work_dir(), held_out_pairs.FILE)
    held_out_pairs.save(by_source, uri)
    refs = {name: context.ref(name).as_dict() for name in tables}
    version = fingerprint(refs, settings.as_json(), code_version(held_out_pairs.__name__))
    results.artifacts[held_out_pairs.ARTIFACT] = {"uri": uri, "version": version}
    for source, pairs in by_source.items():
        results.facts[f"pairs_{source}"] = {"mined": pairs.mined, **pairs.dropped}
        metrics = pair_agreement(source, pairs, ids)
        if not metrics:
            results.left_out[f"held-out pairs, {source}"] = "none in the test part"
        results.metrics += metrics


def _of_categories(context: Context, ids: DataFrame, levels: int, results: _Results) -> None:
    """Purity of prefixes by field of the attributes."""
    if context.find("items") is None:
        results.left_out["purity"] = "no table items"
        return
    context.say("categories")
    metrics = category_purity(ids, context.table("items"), levels)
    if not metrics:
        results.left_out["purity"] = "no item of the catalogue has attributes"
    results.metrics += metrics


def _since_before(context: Context, ids: DataFrame, chosen: str, results: _Results) -> None:
    """Change since the previous codebook."""
    before = None
    if not context.is_external("semantic_ids"):
        before = previous_codes(context.spark, context.ref("semantic_ids"), chosen)
    if before is None:
        results.left_out["change"] = "no earlier codebook has coded this catalogue"
        return
    results.facts["before"], codes = before
    results.metrics += code_change(codes, ids)
