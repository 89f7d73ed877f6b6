"""All eleven stages on somebody else's log, by configuration alone.

Labelled impressions as CSV with a split of their own that names no valid part, times in
milliseconds, two labels; a catalogue as JSON lines with image paths and attributes.
"""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from qarm.cli import main
from tests.lakes.encoders import tiny_text_model

__all__ = ["tiny_text_model"]

CONFIG = """
name = "news"
lake = "{lake}"
[log]
path = ["impressions.csv"]
user = "uid"
item = "nid"
time = "t"
time_format = "epoch_ms"
event_name = "impression"
labels = {{ positive = "click = 1", long = "seconds > 30" }}
split = "fold"
[items]
path = ["news.jsonl"]
id = "nid"
title = "headline"
text = ["headline", "abstract"]
image = "cover"
attributes = {{ topic = "topic" }}
[split]
kind = "column"
column_values = {{ tr = "train", te = "test" }}
[pairs.id_vectors]
rank = 4
iterations = 2
[pairs.swing]
min_items_per_user = 2
[encoder]
modalities = ["text", "image", "attributes"]
text_backbone = "{model}"
dimensions = 8
hidden = 8
attribute_buckets = 64
[alignment]
epochs = 1
batch_size = 128
[codes]
rq_levels = [6, 4]
vq_anchors = 16
vq_k = 3
[samples]
history_length = 5
[ranker]
variants = ["base", "vq_rq"]
epochs = 1
batch_size = 256
[training]
ranks = 2
"""
ITEMS, USERS = 30, 25


def write(folder, model: str) -> str:
    """The log, the catalogue, the images and the configuration; its path."""
    rng = np.random.default_rng(0)
    lines = []
    (folder / "covers").mkdir()
    for item in range(ITEMS):
        name = f"covers/{item}.png"
        if item != 7:  # one cover is missing
            colour = tuple(int(c) for c in rng.integers(0, 255, 3))
            Image.new("RGB", (24, 24), colour).save(folder / name)
        topic = f"topic {item % 3}"
        text = f'News {item}, "quoted"'
        lines.append(
            {"nid": item, "headline": text, "abstract": topic, "cover": name, "topic": topic}
        )
    (folder / "news.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    with (folder / "impressions.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["uid", "nid", "t", "click", "seconds", "fold"])
        for user in range(USERS):
            for k in range(40):
                item = int(rng.integers(ITEMS))
                click = int(rng.random() < (0.7 if item % 3 == user % 3 else 0.2))
                seconds = int(click * rng.integers(60))
                when = 1_700_000_000_000 + (k * USERS + user) * 60_000
                out.writerow([f"u{user}", item, when, click, seconds, "te" if k >= 32 else "tr"])
        out.writerow(["u0", 999, 1_700_000_000_000, 1, 5, "tr"])  # no such news
    path = folder / "news.toml"
    path.write_text(CONFIG.format(lake=folder / "lake", model=model))
    return str(path)


@pytest.mark.slow
def test_a_labelled_log_with_its_own_split_goes_through_all_stages(
    spark, tmp_path, tiny_text_model, capsys
) -> None:
    path = write(tmp_path, tiny_text_model)
    assert main(["run", "--config", path, "--to", "ingest"]) == 0
    assert "the log names no valid part; the latest 0.1 of train" in capsys.readouterr().err
    assert main(["run", "--config", path]) == 0
    assert "ingest: up to date" in capsys.readouterr().err
    tree = json.loads((tmp_path / "lake" / "summary.json").read_text())
    stages = {stage["name"]: stage for stage in tree["stages"]}
    assert len(stages) == 11
    assert stages["ingest"]["dropped"]["unknown_item"] == 1
    assert stages["ingest"]["rows_in"] == USERS * 40 + 1
    assert "observed" in stages["build-samples"]["facts"]["negative_kinds"]
    counts = stages["train-alignment"]["facts"]["features"]["image"]
    assert (counts["encoded"], counts["missing"] + counts["unreadable"]) == (ITEMS - 1, 1)
    assert stages["assign-codes"]["rows_out"] == ITEMS
    aucs = {
        (m["metric"], m["variant"])
        for m in tree["metrics"]
        if m["stage"] == "evaluate" and m["part"] == "test" and m["slice"] == "all"
    }
    for variant in ("base", "vq_rq", "floor"):
        assert {("auc", variant), ("auc[long]", variant)} <= aucs
    assert "News 3" in (tmp_path / "lake" / "report.html").read_text()
    assert main(["run", "--config", path, "--from", "evaluate"]) == 0
    assert "report: up to date" in capsys.readouterr().err
