"""Checkpoints: what is kept, what is refused, what comes back."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from qarm.errors import TrainingError
from qarm.training import checkpoint
from qarm.training.state import flatten, unflatten


class Tied(nn.Module):
    """Two names for one weight, and a buffer."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.inside = nn.Linear(width, width, bias=False)
        self.outside = nn.Linear(width, width, bias=False)
        self.outside.weight = self.inside.weight
        self.register_buffer("count", torch.tensor(5))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.outside(self.inside(rows))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()


def make() -> tuple[Tied, torch.optim.Optimizer]:
    model = Tied()
    return model, torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.7, 0.8))


def save_steps(folder: str, steps, best=(), keep=2) -> list[torch.Tensor]:
    """Checkpoints after each of ``steps``; the weights of each."""
    model, optimizer = make()
    weights = []
    for number in steps:
        step(model, optimizer)
        manifest = {"epoch": number, "is_best": number in best}
        checkpoint.save(folder, number, model, optimizer, manifest, keep=keep)
        weights.append(model.inside.weight.detach().clone())
    return weights


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_loaded_checkpoint_continues_like_the_original(tmp_path, scheme):
    folder = f"{scheme}{tmp_path}/run"
    model, optimizer = make()
    step(model, optimizer)
    checkpoint.save(folder, 1, model, optimizer, {"epoch": 1})
    found = checkpoint.latest(folder)
    assert found is not None
    assert (found.step, found.manifest["epoch"]) == (1, 1)
    other, other_optimizer = make()
    checkpoint.load(found, other, other_optimizer)
    assert other_optimizer.param_groups[0]["betas"] == (0.7, 0.8)
    for _ in range(3):
        step(model, optimizer)
        step(other, other_optimizer)
    assert torch.equal(model.inside.weight, other.inside.weight)
    assert other.outside.weight is other.inside.weight


def test_remote_folders_work_too():
    folder = "memory://checkpoints/run"
    weights = save_steps(folder, [1, 2, 3])
    found = checkpoint.latest(folder)
    assert found is not None
    model, optimizer = make()
    checkpoint.load(found, model, optimizer)
    assert torch.equal(model.inside.weight, weights[-1])


def test_the_latest_and_the_best_are_kept(tmp_path):
    save_steps(str(tmp_path), [1, 2, 3, 4, 5, 6], best={1, 2})
    assert names(tmp_path) == ["step-0000000002", "step-0000000005", "step-0000000006"]
    best = checkpoint.best(str(tmp_path))
    assert best is not None
    assert best.step == 2


def damage_tensors(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "has the hash": damage_tensors,
    "optimizer.safetensors is missing": lambda f: (f / "optimizer.safetensors").unlink(),
    "no manifest": lambda f: (f / "manifest.json").unlink(),
    "is not JSON": lambda f: (f / "manifest.json").write_text("{"),
    "not of format": lambda f: (f / "manifest.json").write_text(json.dumps({"format": 99})),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(tmp_path, caplog, reason):
    weights = save_steps(str(tmp_path), [1, 2])
    DAMAGES[reason](tmp_path / "step-0000000002")
    with caplog.at_level(logging.WARNING):
        found = checkpoint.latest(str(tmp_path))
    assert found is not None
    assert found.step == 1
    assert "step-0000000002 is not used" in caplog.text
    assert reason in caplog.text
    model, optimizer = make()
    checkpoint.load(found, model, optimizer)
    assert torch.equal(model.inside.weight, weights[0])
    # The run that resumes from there replaces the damaged one.
    checkpoint.save(str(tmp_path), 2, model, optimizer, {})
    assert checkpoint.latest(str(tmp_path)).step == 2  # type: ignore[union-attr]


def test_no_checkpoint_to_resume_from(tmp_path):
    assert checkpoint.latest(str(tmp_path / "none")) is None
    (tmp_path / "events").mkdir()
    assert checkpoint.latest(str(tmp_path)) is None


def test_the_weights_of_another_model_are_refused(tmp_path):
    save_steps(str(tmp_path), [1])
    found = checkpoint.latest(str(tmp_path))
    assert found is not None
    with pytest.raises(TrainingError, match="is of another model or optimiser"):
        checkpoint.load(found, Tied(width=4))


def test_state_survives_json(tmp_path):
    state = {"a": {0: torch.ones(2), "b": (1, 2.5, None, True)}, "c": [torch.zeros(1), "text"]}
    tensors, rest = flatten(state)
    back = unflatten(tensors, json.loads(json.dumps(rest)))
    assert back["a"]["b"] == (1, 2.5, None, True)
    assert torch.equal(back["a"][0], torch.ones(2))
    assert back["c"][1] == "text"
    with pytest.raises(TypeError, match="'a' has a set"):
        flatten({"a": {1}})
