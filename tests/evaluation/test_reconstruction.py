"""Reconstruction errors by hand, and on a sample."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.evaluation.reconstruction import reconstruction, reconstruction_metrics


def test_reconstruction() -> None:
    levels = [np.array([[1, 0], [0, 2]], np.float32), np.array([[0, 1], [0, 0]], np.float32)]
    x = np.array([[1, 1], [0, 3], [0, 0]], np.float32)
    codes = np.array([[0, 0], [1, 1], [0, 1]])
    figures = reconstruction(x, codes, levels)
    assert figures.error.tolist() == [1 + 1 + 1, 0 + 1 + 1]
    np.testing.assert_allclose(figures.relative, [1 / 2 + 1 / 9, 1 / 9])
    np.testing.assert_allclose(figures.cosine, [np.sqrt(0.5) + 1, 2])
    assert figures.items == 3


@pytest.mark.spark
def test_a_sample_has_about_the_figures_of_all_items(many_items) -> None:
    frames = many_items
    book = frames.ids.sparkSession.sparkContext.broadcast(frames.book)
    figures = {
        m.metric: m
        for m in reconstruction_metrics(frames.ids, frames.vectors, book, 600 / len(frames.x))
    }
    expected = reconstruction(frames.x, frames.codes, frames.book.levels)
    error = figures["rq_reconstruction_error_l2"]
    assert 450 < error.n < 750
    assert error.value == pytest.approx(expected.error[1] / expected.items, rel=0.05)
    assert {m.slice for m in figures.values()} == {"all"}
