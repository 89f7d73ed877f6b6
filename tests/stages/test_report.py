"""The stage on a lake: with nothing in it, and with tables and manifests."""

from __future__ import annotations

import json
from pathlib import Path

from qarm.lake import manifest
from qarm.pipeline.runner import run_stage
from qarm.pipeline.stages import BY_NAME
from qarm.stages.report import run
from schemas import metrics as metrics_table


def _page(context) -> str:
    return (Path(context.config.lake) / "report.html").read_text(encoding="utf-8")


def test_an_empty_lake_gives_a_page_that_says_so(make_context) -> None:
    context = make_context("report", name="Nothing yet")
    result = run(context)
    result.ledgers[0].close("report")
    assert result.ledgers[0].rows_out == 0
    html = _page(context)
    assert html.count('class="missing"') == 7
    assert "Nothing yet" in html


def test_page_comes_from_the_published_table_and_manifests(
    spark, make_context, manifests, metrics
) -> None:
    context = make_context("report")
    columns = [c for c in metrics_table.TABLE.column_names if c != "run_id"]
    rows = spark.createDataFrame(
        [("run", *(row[c] for c in columns)) for row in metrics],
        ", ".join(f"{c.name} {c.type}" for c in metrics_table.TABLE.columns),
    )
    written = context.overwrite(metrics_table.TABLE, rows)
    for name, each in manifests.items():
        outputs = {"metrics": written.as_dict()} if name == "evaluate" else {}
        manifest.publish(
            context.lake.root,
            manifest.Manifest(**{**each.__dict__, "inputs": {}, "outputs": outputs}),
        )
    entry = run_stage(BY_NAME["report"], context.config, spark)
    assert (entry["rows_in"], entry["dropped"]) == (6, {"no_pairs": 1, "no_prefixes": 1})
    html = _page(context)
    assert "1.40 times raw" in html
    assert "<script" not in html
    published = json.loads(
        (Path(context.config.lake) / "manifests" / "report.json").read_text(encoding="utf-8")
    )
    assert published["artifacts"]["report"]["uri"].endswith("report.html")
