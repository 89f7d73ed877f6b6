"""The Spark figures against the same figures on arrays."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes.codebook import Codebook
from qarm.codes.quality import collisions, prefix_cosine, reconstruction, usage
from tests.codes.conftest import unit_vectors

pytestmark = pytest.mark.spark


def figures(entry):
    return {(m["metric"], m["variant"], m["slice"]): m for m in entry["metrics"]}


def test_equal_to_the_array_functions(make_world) -> None:
    """400 items, half of them in the test part alone, and codes with many collisions."""
    world = make_world(codes={"rq_levels": [7, 3], "vq_anchors": 30, "vq_k": 2})
    x = unit_vectors(400)
    vectors = {f"i{i}": v for i, v in enumerate(x)}
    world.vectors(vectors)
    known = {i: 1 for i in vectors if int(i[1:]) % 2 == 0}
    world.log(vectors, dict.fromkeys(vectors, 0) | known | {"i0": 9, "i2": 7})
    world.run("fit-codebooks")
    found = figures(world.run("assign-codes"))
    codebook = Codebook.from_rows(world.table("codebooks").toArrow())
    codes, _ = codebook.rq(x)
    vq = codebook.vq(x, 2)
    late = np.arange(400) % 2 == 1
    for name, rows in (("all", slice(None)), ("later", late), ("known", ~late)):
        sums = reconstruction(x[rows], codes[rows], codebook.levels)
        for level in range(2):
            key = f"rq_reconstruction_error_l{level + 1}", "rq", name
            assert found[key]["value"] == pytest.approx(sums.error[level] / sums.items)
            key = f"rq_cosine_l{level + 1}", "rq", name
            assert found[key]["value"] == pytest.approx(sums.cosine[level] / sums.items)
            assert found[key]["n"] == len(codes[rows])
    for level, size in enumerate((7, 3)):
        expected = usage(np.bincount(codes[:, level], minlength=size))
        for metric in ("entropy", "gini", "utilisation", "dead", "perplexity"):
            value = found[f"rq_{metric}_l{level + 1}", "rq", "all"]["value"]
            assert value == pytest.approx(getattr(expected, metric))
    first = usage(np.bincount(vq[:, 0], minlength=30))
    assert found["vq_entropy_first", "vq", "all"]["value"] == pytest.approx(first.entropy)
    for kind, matrix in (("rq", codes), ("vq", vq)):
        expected = collisions(matrix)
        assert found["duplicate_rate", kind, "all"]["value"] == pytest.approx(
            expected.duplicate_rate
        )
        assert found["shared_rate", kind, "all"]["value"] == pytest.approx(expected.shared_rate)
        assert found["items_per_code", kind, "all"]["value"] == pytest.approx(
            expected.items_per_code
        )
        assert found["largest_code", kind, "all"]["value"] == expected.largest
    for length, value in enumerate(prefix_cosine(x, codes), start=1):
        assert found[f"rq_prefix_cosine_l{length}", "rq", "all"]["value"] == pytest.approx(value)
    # A slice shares its codes with the whole catalogue.
    _, code, counts = np.unique(vq, axis=0, return_inverse=True, return_counts=True)
    shared = counts[code.ravel()] > 1
    assert found["shared_rate", "vq", "later"]["value"] == pytest.approx(shared[late].mean())
    distinct = len(np.unique(vq[late], axis=0))
    assert found["duplicate_rate", "vq", "later"]["value"] == pytest.approx(1 - distinct / 200)


def test_a_sample_of_a_large_catalogue(make_world) -> None:
    """100 of 3,000 items for the parts that need vectors: about the same figures, fewer rows."""
    world = make_world(
        codes={"rq_levels": [5, 4], "vq_anchors": 10, "vq_k": 2, "rq_iterations": 3},
        evaluation={"quality_rows": 600},
    )
    x = unit_vectors(3000)
    world.vectors({f"i{i}": v for i, v in enumerate(x)})
    world.run("fit-codebooks")
    found = figures(world.run("assign-codes"))
    codebook = Codebook.from_rows(world.table("codebooks").toArrow())
    codes, left = codebook.rq(x)
    error = found["rq_reconstruction_error_l2", "rq", "all"]
    assert 450 < error["n"] < 750
    assert error["value"] == pytest.approx(left.mean(), rel=0.05)
    for length, value in enumerate(prefix_cosine(x, codes), start=1):
        cosine = found[f"rq_prefix_cosine_l{length}", "rq", "all"]
        assert 200 < cosine["n"] < 1200
        assert cosine["value"] == pytest.approx(value, abs=0.05)
    assert found["duplicate_rate", "rq", "all"]["n"] == 3000
