"""Stage report: everything that has been published -> one HTML file."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

from qarm import __version__
from qarm.lake import files, manifest
from qarm.lake.manifest import Manifest
from qarm.ledger import Ledger, StageResult
from qarm.pipeline.stages import STAGES
from qarm.report import aggregates, code_section, sections
from qarm.report import figures as numbers
from qarm.report.figures import Figures
from qarm.report.findings import SOURCES, VARIANTS, findings

if TYPE_CHECKING:
    from qarm.pipeline.context import Context

FILE = "report.html"
#: Packages whose versions a result can depend on.
_PACKAGES = ("pyspark", "delta-spark", "pyarrow", "numpy", "torch", "horovod", "petastorm")


def run(context: Context) -> StageResult:
    """Write ``report.html`` into the lake's folder; what is not there yet is said, not an error."""
    manifests = manifest.all_of(context.lake.root)
    page = build(context, manifests)
    html = render(page)
    uri = files.join(context.lake.root, FILE)
    files.write_text(uri, html)
    shown = ("log", "pairs", "alignment", "codes", "prefixes", "ranker")
    missing = [name for name in shown if not page[name]]
    context.say(f"wrote {uri} ({len(html) / 1e6:.1f} MB)")
    if missing:
        context.say(f"nothing to show yet in section {', '.join(missing)}")
    return StageResult(
        ledgers=[
            Ledger(
                name="sections of the report",
                rows_in=len(shown),
                rows_out=len(shown) - len(missing),
                dropped={f"no_{name}": 1 for name in missing},
            )
        ],
        artifacts={"report": {"uri": uri, "version": context.run_id}},
    )


def build(context: Context, manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """Everything that the template shows."""
    rows: list[dict[str, Any]] = []
    if context.find("metrics"):
        rows = [row.asDict() for row in context.table("metrics").collect()]  # a row a figure
    if (
        measured := manifests[code_section.STAGE].result.get("metrics")
        if code_section.STAGE in manifests
        else []
    ):
        # evaluate copies those of earlier stages; quality may have run again since.
        rows = [row for row in rows if row["stage"] != code_section.STAGE] + measured
    figures = Figures(rows)
    mined = []
    if context.find("item_pairs"):
        mined = aggregates.pair_sources(context.table("item_pairs"))
    prefixes = []
    if all(context.find(name) for name in ("semantic_ids", "items", "interactions")):
        ids = context.table("semantic_ids")
        codebook = context.facts("assign-codes").get("codebook_id")
        if codebook:
            ids = ids.where(ids["codebook_id"] == codebook)
        prefixes = aggregates.prefixes(ids, context.table("items"), context.table("interactions"))
    cutoff = context.config.evaluation.recall_at[0]
    items = context.facts("ingest").get("items")
    return {
        "name": context.config.name,
        "version": __version__,
        "as_of": context.now,
        "findings": findings(figures, cutoff, items),
        "log": sections.log(manifests),
        "rows": sections.rows(manifests, [stage.name for stage in STAGES]),
        "pairs": sections.pairs(figures, mined, context.facts("mine-pairs").get("skew", {})),
        "alignment": sections.alignment(manifests, figures, cutoff),
        "codes": code_section.codes(manifests, figures),
        "prefixes": prefixes,
        "ranker": sections.ranker(manifests, figures),
        "stages": stages(manifests),
        "versions": versions(),
        "config": json.dumps(context.config.model_dump(mode="json"), indent=2),
        "variants": VARIANTS,
        "sources": SOURCES,
        "spaces": sections.SPACES,
    }


@dataclass(frozen=True)
class Ran:
    """One stage in the run's details."""

    name: str
    status: str
    run_id: str
    config_hash: str
    code_version: str
    seconds: float | None
    peak_bytes: int | None
    reads: list[str]
    writes: list[str]


def stages(manifests: Mapping[str, Manifest]) -> list[Ran]:
    """All stages but this one, in order, with what each read and wrote."""
    found = []
    for stage in STAGES[:-1]:
        m = manifests.get(stage.name)
        if m is None:
            found.append(Ran(stage.name, "has not run", "", "", "", None, None, [], []))
            continue
        found.append(
            Ran(
                stage.name,
                m.result.get("status", "done"),
                m.run_id,
                m.config_hash,
                m.code_version,
                m.result.get("seconds"),
                m.result.get("peak_bytes"),
                [f"{name} v{ref['version']}" for name, ref in sorted(m.inputs.items())],
                [f"{name} v{ref['version']}" for name, ref in sorted(m.outputs.items())],
            )
        )
    return found


def versions() -> dict[str, str]:
    """Python and the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def render(page: Mapping[str, Any]) -> str:
    """The HTML; every value is escaped but our own SVG."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "digits": numbers.digits,
        "signed": numbers.signed,
        "thousands": numbers.thousands,
        "percent": numbers.percent,
        "bare": numbers.bare,
        "gigabytes": numbers.gigabytes,
        "duration": numbers.duration,
        "svg": Markup,
    }
    source = resources.files("qarm.report").joinpath("report.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(page)
