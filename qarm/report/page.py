"""The report as one HTML page, from what the stages have published."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata, resources
from typing import Any

from qarm import __version__
from qarm.lake.manifest import Manifest
from qarm.report import figures, quality_tables, sections
from qarm.report.aggregates import PairSource, Prefix
from qarm.report.figures import Figures
from qarm.report.findings import SOURCES, VARIANTS, findings
from qarm.report.processor import processor_name

#: Sections whose stage may not have run; the page then says so.
OPTIONAL_SECTIONS = ("log", "pairs", "alignment", "codes", "prefixes", "ranker")
#: Packages whose versions may change a result.
_PACKAGES = ("pyspark", "delta-spark", "pyarrow", "numpy", "torch", "horovod", "petastorm")


@dataclass(frozen=True, kw_only=True)
class Published:
    """Everything that the page shows."""

    name: str
    """Name of the configuration."""
    as_of: datetime
    """The moment that counts as now."""
    config: Mapping[str, Any]
    """The whole configuration, as JSON values."""
    stages: Sequence[str]
    """Names of all stages before the report, in order."""
    manifests: Mapping[str, Manifest]
    """Stage -> what it has published."""
    metrics: Sequence[Mapping[str, Any]]
    """Rows of the table metrics."""
    pairs: Sequence[PairSource]
    """See ``aggregates.pair_sources``."""
    prefixes: Sequence[Prefix]
    """See ``aggregates.prefixes``."""
    cutoff: int
    """k of new-pair Recall@k."""

    def facts(self, stage: str) -> Mapping[str, Any]:
        """Facts of a stage; empty if it has not run."""
        return self.manifests[stage].facts if stage in self.manifests else {}


def build(published: Published) -> dict[str, Any]:
    """The variables of the template."""
    metrics = Figures(published.metrics)
    manifests = published.manifests
    quality = quality_tables.STAGE
    return {
        "name": published.name,
        "version": __version__,
        "as_of": published.as_of,
        "findings": findings(metrics, published.cutoff, published.facts("ingest").get("items")),
        "log": sections.log(manifests),
        "rows": sections.rows(manifests, published.stages),
        "pairs": sections.pairs(
            metrics, published.pairs, published.facts("mine-pairs").get("skew", {})
        ),
        "alignment": sections.alignment(manifests, metrics, published.cutoff),
        "codes": quality_tables.code_section(metrics, published.facts(quality))
        if quality in manifests
        else None,
        "prefixes": published.prefixes,
        "ranker": sections.ranker(manifests, metrics),
        "stages": stage_runs(manifests, published.stages),
        "versions": versions(),
        "processor": processor_name(),
        "config": json.dumps(published.config, indent=2),
        "variants": VARIANTS,
        "sources": SOURCES,
        "spaces": sections.SPACES,
    }


@dataclass(frozen=True)
class StageRun:
    """One stage in the details of the run."""

    name: str
    status: str
    run_id: str
    config_hash: str
    code_version: str
    seconds: float | None
    peak_bytes: int | None
    reads: list[str]
    writes: list[str]


def stage_runs(manifests: Mapping[str, Manifest], stages: Sequence[str]) -> list[StageRun]:
    """What each of ``stages`` has read and written."""
    runs = []
    for name in stages:
        m = manifests.get(name)
        if m is None:
            runs.append(StageRun(name, "has not run", "", "", "", None, None, [], []))
            continue
        runs.append(
            StageRun(
                name,
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
    return runs


def versions() -> dict[str, str]:
    """Python and the packages that results depend on."""
    known = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            known[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            known[package] = "not installed"
    return known


def render(page: Mapping[str, Any]) -> str:
    """The HTML. All values are escaped except our own SVG."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    names = ("digits", "signed", "thousands", "percent", "bare", "gigabytes", "duration")
    environment.filters |= {name: getattr(figures, name) for name in names}
    environment.filters["svg"] = Markup
    source = resources.files("qarm.report").joinpath("report.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(page)
