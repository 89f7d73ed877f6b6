"""Figures of a sample: about those of the whole catalogue, from fewer rows."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes.codebook import Codebook
from qarm.errors import InputError
from qarm.evaluation.code_arrays import prefix_cosine
from qarm.evaluation.code_use import level_usage
from tests.lakes.codes import make_world, unit_vectors  # noqa: F401

pytestmark = pytest.mark.spark


def test_a_sample_of_a_large_catalogue(make_world) -> None:  # noqa: F811
    """600 of 3,000 items for the parts that need vectors: about the same figures, fewer rows."""
    world = make_world(
        codes={"rq_levels": [5, 4], "vq_anchors": 10, "vq_k": 2, "rq_iterations": 3},
        evaluation={"quality_rows": 600, "quality_queries": 50},
    )
    x = unit_vectors(3000)
    world.vectors({f"i{i}": v for i, v in enumerate(x)})
    world.run("fit-codebooks")
    world.run("assign-codes")
    entry = world.run("quality")
    found = {(m["metric"], m["variant"], m["slice"]): m for m in entry["metrics"]}
    codebook = Codebook.from_rows(world.table("codebooks").toArrow())
    codes, left = codebook.rq(x)
    error = found["rq_reconstruction_error_l2", "rq", "all"]
    assert 450 < error["n"] < 750
    assert error["value"] == pytest.approx(left.mean(), rel=0.05)
    everything = prefix_cosine(x, np.zeros((3000, 1), int))
    for length, value in enumerate(everything + prefix_cosine(x, codes)):
        cosine = found[f"rq_prefix_cosine_l{length}", "rq", "all"]
        assert 200 < cosine["n"] < 1200
        assert cosine["value"] == pytest.approx(value, abs=0.05)
    assert found["duplicate_rate", "rq", "all"]["n"] == 3000
    assert found["neighbour_overlap@20", "rq", "all"]["n"] == 50
    # Nobody has a log here: no slices, and that is said.
    assert {m["slice"] for m in entry["metrics"]} == {"all"}
    assert set(entry["facts"]["left_out"]) == {"held-out pairs", "purity", "change"}
    ids = world.table("semantic_ids")
    with pytest.raises(InputError, match="expected rq codes 0 to 2 at level 1, seen 0 to 4"):
        level_usage(ids, "rq", [3, 4])
