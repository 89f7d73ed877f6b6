"""Codes outside their codebook; the figures themselves are checked in tests/stages/test_quality."""

from __future__ import annotations

import pytest

from qarm.errors import InputError
from qarm.evaluation.code_use import level_usage, zero_vectors

pytestmark = pytest.mark.spark


def test_codes_of_another_codebook(spark) -> None:
    ids = spark.createDataFrame([([0, 1],), ([4, 0],)], "rq array<int>")
    with pytest.raises(InputError, match="expected rq codes 0 to 2 at level 1, seen 0 to 4"):
        level_usage(ids, "rq", [3, 4])


def test_zero_vectors_are_counted(spark) -> None:
    vectors = spark.createDataFrame([([0.0, 0.0],), ([0.0, 1.0],)], "vector array<float>")
    figure = zero_vectors(vectors)
    assert (figure.value, figure.n) == (1.0, 2)
