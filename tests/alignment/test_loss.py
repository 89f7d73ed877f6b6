from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from qarm.alignment.known_pairs import KnownPairs
from qarm.alignment.loss import PairBatch, Temperature, excluded_candidates, info_nce

ITEMS = 30
TAU = torch.tensor(0.2)


def pairs(rows: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, PairBatch]:
    """Vectors and rows of distinct items: triggers 0.., targets 15.. ."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(2, rows, 4, generator=generator), dim=2)
    chances = torch.log(torch.rand(2, rows, generator=generator))
    batch = PairBatch(
        torch.arange(rows), 15 + torch.arange(rows), chances[0], chances[1], torch.ones(rows)
    )
    return vectors[0], vectors[1], batch


def by_hand(triggers: Tensor, targets: Tensor, batch: PairBatch, masked: set, logq: bool) -> float:
    """The definition, a row at a time; ``masked`` has pairs (anchor item, candidate item)."""
    total = 0.0
    for anchors, others, anchor_ids, other_ids, chances in (
        (triggers, targets, batch.triggers, batch.targets, batch.target_logq),
        (targets, triggers, batch.targets, batch.triggers, batch.trigger_logq),
    ):
        for i in range(len(anchors)):
            terms = {}
            for j in range(len(others)):
                score = float(anchors[i] @ others[j]) / float(TAU)
                terms[j] = score - (float(chances[j]) if logq else 0.0)
            kept = [
                j
                for j in terms
                if j == i
                or (
                    float(batch.weights[j]) > 0
                    and int(other_ids[j]) not in (int(other_ids[i]), int(anchor_ids[i]))
                    and (int(anchor_ids[i]), int(other_ids[j])) not in masked
                )
            ]
            loss = math.log(sum(math.exp(terms[j]) for j in kept)) - terms[i]
            total += 0.5 * float(batch.weights[i]) * loss
    return total


@pytest.mark.parametrize("logq", [False, True])
def test_loss_follows_the_definition(logq: bool) -> None:
    triggers, targets, batch = pairs()
    batch = replace(batch, weights=torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0, 3.0]))
    loss, weight = info_nce(triggers, targets, batch, TAU, logq=logq, known=None)
    assert float(loss) == pytest.approx(by_hand(triggers, targets, batch, set(), logq), rel=1e-5)
    assert float(weight) == 8.5


def test_known_pairs_copies_and_the_anchor_are_excluded_candidates() -> None:
    triggers, targets, batch = pairs()
    batch.targets[3] = batch.targets[1]  # a copy of row 1's positive
    batch.targets[4] = batch.triggers[2]  # row 2's anchor as another row's target
    known_pairs = np.array([[0, 17], [16, 5]])
    known = KnownPairs([(known_pairs[:, 0], known_pairs[:, 1])], ITEMS)
    masked = {(0, 17), (17, 0), (16, 5), (5, 16)}
    loss, _ = info_nce(triggers, targets, batch, TAU, logq=True, known=known)
    assert float(loss) == pytest.approx(by_hand(triggers, targets, batch, masked, True), rel=1e-5)
    unmasked, _ = info_nce(triggers, targets, batch, TAU, logq=True, known=None)
    assert float(unmasked) > float(loss)


def test_padding_is_neither_anchor_nor_negative() -> None:
    triggers, targets, batch = pairs()
    expected, weight = info_nce(triggers, targets, batch, TAU, logq=True, known=None)
    padded = PairBatch(
        *(torch.cat([column, column[-1:], column[-1:]]) for column in vars(batch).values())
    )
    padded.weights[-2:] = 0
    far = torch.nn.functional.normalize(torch.ones(2, 4), dim=1)
    padded.targets[-2:] = torch.tensor([28, 29])  # were they real, they would be negatives
    loss, padded_weight = info_nce(
        torch.cat([triggers, far]), torch.cat([targets, far]), padded, TAU, logq=True, known=None
    )
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert float(padded_weight) == float(weight)


def test_a_batch_of_padding_alone_is_finite() -> None:
    triggers, targets, batch = pairs()
    triggers.requires_grad_()
    batch = replace(batch, weights=torch.zeros(6))
    loss, weight = info_nce(triggers, targets, batch, TAU, logq=True, known=None)
    loss.backward()
    assert loss.item() == float(weight) == 0
    assert triggers.grad is not None
    assert torch.isfinite(triggers.grad).all()


def test_mask_of_one_anchor() -> None:
    known = KnownPairs([(np.array([1]), np.array([7]))], ITEMS)
    masked = excluded_candidates(
        torch.tensor([1]), torch.tensor([5]), torch.tensor([1, 5, 7, 8, 5]), known
    )
    assert masked.tolist() == [[True, True, True, False, True]]


def test_temperature_stays_in_its_bounds_and_moves_back() -> None:
    temperature = Temperature(0.1, 0.05, 0.5)
    optimizer = torch.optim.SGD(temperature.parameters(), lr=100.0)
    (temperature() * 10).backward()
    optimizer.step()
    assert float(temperature()) == pytest.approx(0.05)
    optimizer.zero_grad()
    (-temperature()).backward()
    optimizer.step()
    assert float(temperature()) > 0.05
