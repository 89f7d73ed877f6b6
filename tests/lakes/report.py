"""What a finished run publishes, made by hand: manifests and figures of every stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qarm.evaluation.slices import SAMPLE_SLICES
from qarm.lake.manifest import Manifest
from qarm.pipeline.stages import STAGES

VARIANTS = ("floor", "base", "vector", "vq", "rq", "vq_rq")


def _metric(stage: str, metric: str, value: float, **fields: Any) -> dict[str, Any]:
    row = {"slice": "all", "variant": "", "seed": None, "part": "", "low": None, "high": None}
    return {"stage": stage, "metric": metric, "value": value, "n": 1000, **row, **fields}


def _ranker(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for suffix in ("", "[top]"):
        for part in ("valid", "test"):
            for where in SAMPLE_SLICES if part == "test" else ("all",):
                for i, variant in enumerate(VARIANTS):
                    of = {"variant": variant, "slice": where, "part": part, "seed": 0}
                    auc = 0.70 + 0.012 * i + rng.normal(0, 0.003)
                    span = {"low": auc - 0.008, "high": auc + 0.008}
                    rows.append(_metric("evaluate", f"auc{suffix}", auc, **of, **span))
                    rows.append(_metric("evaluate", f"uauc{suffix}", auc - 0.02, **of))
                    rows.append(_metric("evaluate", f"gauc{suffix}", auc - 0.01, **of))
                    rows.append(_metric("evaluate", f"log_loss{suffix}", 0.5 - auc / 10, **of))
                    if variant != "floor":
                        gain = {"base": 0.02, "vector": 0.001, "vq": -0.006}.get(variant, 0.006)
                        gain += rng.normal(0, 0.0004)
                        span = {"low": gain - 0.003, "high": gain + 0.003}
                        rows.append(_metric("evaluate", f"auc_gain{suffix}", gain, **of, **span))
    return rows


def _recall() -> list[dict[str, Any]]:
    values = {
        "chance": 0.014,
        "raw": 0.052,
        "raw:text": 0.052,
        "raw:image": 0.03,
        "raw:concat": 0.047,
        "aligned": 0.073,
        "id_vectors": 0.2,
    }
    rows = []
    for source in ("u2i", "swing"):
        for kind, factor in (("all", 0.9), ("warm", 1.0), ("cold", 0.7)):
            of = {"slice": f"{source} {kind}", "part": "test"}
            for space, value in values.items():
                v = value * (factor if space != "chance" else 1)
                span = {"low": v * 0.9, "high": v * 1.1} if space != "chance" else {}
                rows.append(_metric("evaluate", "recall@50", v, variant=space, **of, **span))
            ratio = {"variant": "aligned/raw", "low": 1.2, "high": 1.6}
            if source == "swing":
                ratio |= {"low": 0.95}
            rows.append(_metric("evaluate", "recall_ratio@50", 1.4, **of, **ratio))
    return rows


def _codes() -> list[dict[str, Any]]:
    rows = []
    for level in (1, 2, 3):
        values = {
            "utilisation": 1.0 - 0.02 * level,
            "dead": 5.0 * level,
            "entropy": 0.95,
            "perplexity": 180.0,
            "reconstruction_error": 0.5 / level,
            "relative_error": 0.5 / level,
            "cosine": 1 - 0.3 / level,
            "prefix_cosine": 0.4 + 0.15 * level,
            "gini": 0.2,
            "changed": 0.1 * level,
            "adjusted_rand": 0.77,
            "purity": 0.3 + 0.1 * level,
            "purity_chance": 0.123,
        }
        for name, value in values.items():
            where = "field brand" if "purity" in name else "all"
            rows.append(_metric("quality", f"rq_{name}_l{level}", value, variant="rq", slice=where))
        of = {"variant": "rq", "slice": "u2i warm", "part": "test"}
        rows.append(_metric("quality", f"rq_pair_agreement_l{level}", 0.0789, **of))
        rows.append(_metric("quality", f"rq_pair_agreement_chance_l{level}", 0.0012, **of))
    for kind in ("rq", "vq"):
        for where in ("all", "known", "later"):
            of = {"variant": kind, "slice": where}
            rows.append(_metric("quality", "duplicate_rate", 0.1, **of))
            rows.append(_metric("quality", "shared_rate", 0.17, **of))
            rows.append(_metric("quality", "items_per_code", 1.2, **of))
            rows.append(_metric("quality", "largest_code", 12.0, **of))
        of = {"variant": kind, "low": 0.4, "high": 0.44}
        rows.append(_metric("quality", "neighbour_overlap@20", 0.4242, **of))
        rows.append(_metric("quality", "neighbour_overlap_chance@20", 0.0028, variant=kind))
    rows.append(_metric("quality", "vq_utilisation_first", 0.9, variant="vq"))
    rows.append(_metric("quality", "vq_entropy_first", 0.93, variant="vq"))
    return rows


@pytest.fixture(scope="session")
def metrics() -> list[dict[str, Any]]:
    """Rows of the metrics table."""
    rng = np.random.default_rng(0)
    coverage = [
        _metric("mine-pairs", "item_coverage", share, variant=source, part="train")
        for source, share in (("u2i", 0.9), ("swing", 0.4))
    ]
    return [*coverage, *_codes(), *_recall(), *_ranker(rng)]


FACTS: dict[str, dict[str, Any]] = {
    "ingest": {
        "as_of": "2011-12-09T12:50:00.000001",
        "interactions": 400_000,
        "users": 4_300,
        "items": 3_700,
        "items_without_text": 2,
        "items_with_image": 0,
        "split": {"kind": "global"},
        "parts": {"train": 320_000, "valid": 40_000, "test": 40_000},
        "positives": {"train": 320_000, "valid": 40_000, "test": 40_000},
        "train_end": "2011-10-20T10:00:00",
        "valid_end": "2011-11-15T10:00:00",
        "positive": "positive",
        "log": {
            "degrees": {
                "users": {"p0": 1, "p25": 8, "p50": 30, "p75": 90, "p99": 800, "p100": 8000},
                "items": {"p0": 1, "p25": 12, "p50": 60, "p75": 150, "p99": 900, "p100": 2100},
            },
            "over_time": {
                "start": "2010-12-01",
                "bucket_days": 1,
                "counts": [int(900 + 500 * np.sin(i / 9) + 3 * i) for i in range(374)],
            },
        },
    },
    "mine-pairs": {
        "skew": {
            "swing": {"items_capped": 1210, "share_of_score_mass_lost": 0.1234},
            "itemcf": {"users_capped": 0, "share_of_score_mass_lost": None},
        }
    },
    "train-alignment": {
        "start": {"recall@50": 0.11},
        "best_epoch": 4,
        "history": [
            {"epoch": i, "train_loss": 5 - 0.3 * i, "recall@50": 0.2 + 0.04 * i - 0.005 * i * i}
            for i in range(7)
        ],
    },
    "assign-codes": {"codebook_id": "book", "vq_anchors": 1024},
    "quality": {
        "codebook_id": "book",
        "vq_anchors": 1024,
        "before": "older",
        "slices": [["known", "an event of the training part"]],
        "left_out": {"purity of <shops>": "no table items"},
    },
    "train-ranker": {
        "trials": [
            {
                "variant": variant,
                "seed": 0,
                "id_dropout": dropout,
                "auc": 0.75 + dropout / 100,
                "epoch": 2,
                "epochs": [0.74, 0.75 + dropout / 100],
                "chosen": dropout > 0,
            }
            for variant in VARIANTS[1:]
            for dropout in (0.0, 0.3)
        ]
    },
    "evaluate": {
        "slices": [list(pair) for pair in SAMPLE_SLICES.items()],
        "head_events": 210,
        "new_pairs": {
            "candidates": 3658,
            "sources": {
                "u2i": {"pairs": 1000, "warm": 800, "without_vector": {"aligned": 0, "raw": 0}},
                "swing": {"pairs": 500, "warm": 450, "without_vector": {"aligned": 3}},
            },
        },
    },
}


@pytest.fixture(scope="session")
def manifests() -> dict[str, Manifest]:
    """A manifest of every stage but the report."""
    found = {}
    for i, stage in enumerate(STAGES[:-1]):
        found[stage.name] = Manifest(
            stage=stage.name,
            run_id=f"{i:016x}",
            config_hash="c" * 16,
            code_version="0.1.0+abc",
            inputs={name: {"name": name, "path": "p", "version": 1} for name in stage.inputs},
            outputs={name: {"name": name, "path": "p", "version": 2} for name in stage.outputs},
            facts=FACTS.get(stage.name, {}),
            result={
                "status": "done",
                "counted": "rows of it",
                "rows_in": 1000,
                "rows_out": 900,
                "dropped": {"null_user": 70, "<script>alert(1)</script>": 30},
                "added": {},
                "ledgers": [
                    {"name": "other rows", "rows_in": 5, "rows_out": 6, "dropped": {},
                     "added": {"sampled_negatives": 1}}
                ],
                "seconds": 12.5 * i,
                "peak_bytes": 2_000_000_000 + i,
            },
        )  # fmt: skip
    return found
