"""Training functions that the tests launch on ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from qarm.alignment import encoder_trainer
from qarm.alignment.encoder_task import EncoderResult, EncoderTask
from qarm.alignment.known_pairs import KnownPairs
from qarm.alignment.loss import PairBatch, Temperature, info_nce
from qarm.training import collectives, gradients
from tests.training.ranks import recorded_losses

ITEMS, DIMENSIONS = 40, 6


def one_step(rows: int) -> dict[str, Any]:
    """Loss and gradients of one batch of ``rows`` pairs, shared out over the ranks."""
    generator = torch.Generator().manual_seed(4)
    table = torch.nn.Embedding(ITEMS, DIMENSIONS)
    with torch.no_grad():
        table.weight.copy_(torch.randn(ITEMS, DIMENSIONS, generator=generator))
    model = torch.nn.ModuleDict({"table": table, "temperature": Temperature(0.3, 0.01, 1.0)})
    triggers = torch.randint(0, ITEMS, (rows,), generator=generator)
    targets = torch.randint(0, ITEMS, (rows,), generator=generator)
    chances = torch.log(torch.rand(2, rows, generator=generator))
    weights = torch.rand(rows, generator=generator)
    weights[-3:] = 0  # padding
    known = KnownPairs([(triggers.numpy()[:9], targets.numpy()[:9])], ITEMS)
    share = rows // collectives.size()
    own = slice(collectives.rank() * share, (collectives.rank() + 1) * share)
    batch = PairBatch(triggers[own], targets[own], chances[0][own], chances[1][own], weights[own])
    vectors = torch.nn.functional.normalize(
        table(torch.cat([batch.triggers, batch.targets])), dim=1
    )
    loss, weight = info_nce(
        vectors[:share], vectors[share:], batch, model["temperature"](), logq=True, known=known
    )
    loss.backward()
    mean, total = gradients.reduce_gradients(model, loss, weight)
    return {
        "loss": mean,
        "weight": total,
        "table": table.weight.grad.tolist(),
        "temperature": float(model["temperature"].log_value.grad),
    }


@dataclass(frozen=True)
class Trainings:
    """A step and trainings one after the other, in one start of the ranks."""

    rows: int
    """Of the step."""
    exact: list[EncoderTask]
    """In float64."""
    fast: list[EncoderTask]
    """In float32."""


@dataclass(frozen=True)
class Trained:
    """One of them."""

    losses: list[float]
    """Of each step."""
    result: EncoderResult


def train(task: EncoderTask, kind: torch.dtype) -> Trained:
    """The trainer itself."""
    torch.set_num_threads(1)  # the principal axes where it starts depend on them, to 1e-5
    torch.set_default_dtype(kind)
    with recorded_losses() as losses:
        result = encoder_trainer.train(task)
    return Trained(losses, result)


@dataclass(frozen=True)
class Each:
    """What came of a ``Trainings``."""

    step: dict[str, Any]
    trained: list[Trained]


def train_each(tasks: Trainings) -> Each:
    """The exact ones first."""
    step = one_step(tasks.rows)
    exact = [train(task, torch.float64) for task in tasks.exact]
    return Each(step, exact + [train(task, torch.float32) for task in tasks.fast])
