"""Someone else's log, described by configuration alone.

Labelled impressions as CSV with a split of their own that names no valid part, times in
milliseconds, two labels; a catalogue as JSON lines with image paths and attributes.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

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


def write(folder: Path, model: str) -> Path:
    """Write the log, the catalogue, the images and the configuration; returns its path."""
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
    return path
