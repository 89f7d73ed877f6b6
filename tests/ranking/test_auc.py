"""The binned AUC against the exact one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from qarm.ranking.auc import AucCounter


def test_equals_the_exact_auc_in_batches_with_weights():
    rng = np.random.default_rng(0)
    labels = (rng.random(5000) < 0.3).astype(np.float32)
    logits = (rng.normal(size=5000) + labels).astype(np.float32)
    logits[:2000] = np.round(logits[:2000], 1)  # ties
    weight = rng.integers(0, 3, 5000).astype(np.float32)
    counter = AucCounter()
    for rows in np.array_split(np.arange(5000), 7):
        counter.add(*(torch.from_numpy(x[rows]) for x in (logits, labels, weight)))
    exact = roc_auc_score(labels, logits, sample_weight=weight)
    assert counter.value() == pytest.approx(exact, abs=1e-4)


def test_extreme_scores_stay_apart():
    counter = AucCounter()
    logits = torch.tensor([-12.0, -12.5, 14.0, 13.5])
    counter.add(logits, torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.ones(4))
    assert counter.value() == 0.75


def test_one_label_alone_has_no_auc():
    counter = AucCounter()
    counter.add(torch.zeros(3), torch.ones(3), torch.ones(3))
    assert math.isnan(counter.value())
