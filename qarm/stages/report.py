"""Stage report: everything that has been published -> one HTML file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qarm.lake import files, manifest
from qarm.ledger import Ledger, StageResult
from qarm.pipeline.stages import STAGES
from qarm.report import aggregates
from qarm.report.page import OPTIONAL_SECTIONS, Published, build, render

if TYPE_CHECKING:
    from qarm.pipeline.context import Context
    from qarm.report.aggregates import Prefix

FILE = "report.html"


def run(context: Context) -> StageResult:
    """Write ``report.html`` into the lake's folder; the page names the stages that have not run."""
    page = build(_published(context))
    html = render(page)
    uri = files.join(context.lake.root, FILE)
    files.write_text(uri, html)
    missing = [name for name in OPTIONAL_SECTIONS if not page[name]]
    context.say(f"wrote {uri} ({len(html) / 1e6:.1f} MB)")
    if missing:
        context.say(f"nothing to show yet in section {', '.join(missing)}")
    return StageResult(
        ledgers=[
            Ledger(
                name="sections of the report",
                rows_in=len(OPTIONAL_SECTIONS),
                rows_out=len(OPTIONAL_SECTIONS) - len(missing),
                dropped={f"no_{name}": 1 for name in missing},
            )
        ],
        artifacts={"report": {"uri": uri, "version": context.run_id}},
    )


def _published(context: Context) -> Published:
    manifests = manifest.all_of(context.lake.root)
    metrics = []
    if context.find("metrics"):
        metrics = [row.asDict() for row in context.table("metrics").collect()]  # small
    if "quality" in manifests:
        # evaluate copies the metrics of earlier stages; quality may have run again since.
        latest = manifests["quality"].result.get("metrics", [])
        if latest:
            metrics = [row for row in metrics if row["stage"] != "quality"] + latest
    pairs = context.table("item_pairs") if context.find("item_pairs") else None
    return Published(
        name=context.config.name,
        as_of=context.now,
        config=context.config.model_dump(mode="json"),
        stages=[stage.name for stage in STAGES[:-1]],
        manifests=manifests,
        metrics=metrics,
        pairs=[] if pairs is None else aggregates.pair_sources(pairs),
        prefixes=_prefixes(context),
        cutoff=context.config.evaluation.recall_at[0],
    )


def _prefixes(context: Context) -> list[Prefix]:
    if not all(context.find(name) for name in ("semantic_ids", "items", "interactions")):
        return []
    ids = context.table("semantic_ids")
    codebook = context.facts("assign-codes").get("codebook_id")
    if codebook:
        ids = ids.where(ids["codebook_id"] == codebook)
    return aggregates.prefixes(ids, context.table("items"), context.table("interactions"))
