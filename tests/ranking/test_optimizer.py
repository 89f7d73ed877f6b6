"""Lazy AdamW against torch's own, dense and sparse."""

from __future__ import annotations

import torch
from torch import nn

from qarm.ranking.optimizer import LazyAdamW


def trained(optimizer_class, *, sparse: bool, rows_a_step: list[list[int]], weight_decay=0.0):
    torch.manual_seed(0)
    table = nn.Embedding(6, 3, sparse=sparse)
    layer = nn.Linear(3, 2)
    optimizer = optimizer_class(
        [
            {"params": layer.parameters(), "weight_decay": weight_decay},
            {"params": table.parameters(), "lr": 0.02, "weight_decay": 0.0},
        ],
        lr=0.1,
    )
    for rows in rows_a_step:
        optimizer.zero_grad(set_to_none=True)
        layer(table(torch.tensor(rows))).square().sum().backward()
        optimizer.step()
    return table.weight.detach(), layer.weight.detach(), optimizer


def test_rows_touched_in_every_step_move_as_under_adamw():
    rows = [[0, 1, 2, 3, 4, 5, 5], [5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5]]
    ours = trained(LazyAdamW, sparse=True, rows_a_step=rows, weight_decay=0.1)
    theirs = trained(torch.optim.AdamW, sparse=False, rows_a_step=rows, weight_decay=0.1)
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(a, b)


def test_rows_not_looked_up_stay():
    start, _, _ = trained(LazyAdamW, sparse=True, rows_a_step=[])
    end, _, optimizer = trained(LazyAdamW, sparse=True, rows_a_step=[[1, 3], [3], [3]])
    moved = (start != end).any(1)
    assert moved.tolist() == [False, True, False, True, False, False]
    state = [s for s in optimizer.state.values() if s["exp_avg"].shape == (6, 3)]
    assert state[0]["step"] == 3


def test_state_survives_a_round_trip():
    _, _, optimizer = trained(LazyAdamW, sparse=True, rows_a_step=[[1, 3]])
    _, _, other = trained(LazyAdamW, sparse=True, rows_a_step=[])
    other.load_state_dict(optimizer.state_dict())
    saved = optimizer.state_dict()["state"]
    assert other.state_dict()["state"].keys() == saved.keys()
