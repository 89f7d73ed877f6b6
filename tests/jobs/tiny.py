"""A configuration and data that all stages run through in a few minutes."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.jobs.cluster import ROOT

TINY = """
name = "tiny"
[log]
path = ["log.parquet"]
user = "CustomerID"
item = "StockCode"
time = "InvoiceDate"
event_name = "purchase"
value = "Quantity"
rows = "StockCode RLIKE '^[0-9]{5}'"
returns = "Quantity <= 0 OR InvoiceNo LIKE 'C%'"
labels = { positive = "Quantity > 0" }
[items]
from_log = true
id = "StockCode"
title = "Description"
text = ["Description"]
[encoder]
modalities = ["text"]
hidden = 16
[pairs.id_vectors]
rank = 8
iterations = 3
[pairs.swing]
min_items_per_user = 3
[alignment]
epochs = 1
batch_size = 256
[codes]
rq_levels = [16, 16]
vq_anchors = 64
vq_k = 5
[samples]
negatives = "sampled"
train_positives = 2000
eval_positives = 500
history_length = 10
[loader]
shards = 2
[ranker]
variants = ["base", "vq_rq"]
epochs = 1
batch_size = 512
[training]
ranks = 2
"""


def tiny(folder: Path) -> Path:
    """Write two weeks of the embedded log, with a third of the items, and the configuration.

    Returns:
        The path of the configuration.
    """
    raw = pq.read_table(ROOT / "data" / "online-retail" / "online_retail.parquet").slice(0, 15_000)
    others = pc.match_substring_regex(raw["StockCode"], "^(2[013-9]|[013-9])[0-9]{3}")
    pq.write_table(raw.filter(pc.invert(others)), folder / "log.parquet")
    (folder / "tiny.toml").write_text(TINY)
    return folder / "tiny.toml"
