"""The stages' declarations: what makes a stage run again is all that it depends on."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from qarm.config import Config
from qarm.pipeline.stages import STAGES, Stage, stage

ROOT = Path(__file__).resolve().parents[2]
#: The configuration's hash and the runner's own work stand for themselves.
SHARED = {"config", "pipeline", "errors", "progress", "session", "memory"}


def source(module: str) -> Path | None:
    base = ROOT / Path(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def named_in(path: Path) -> set[str]:
    """Modules that a file imports, or names as package.module:function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {m[0].split(":")[0] for m in re.finditer(r"qarm(\.\w+)+:\w+", node.value)}
    return {name for name in found if name.startswith("qarm.")}


def packages_of(module: str) -> set[str]:
    todo, seen = [module], set()
    while todo:
        if (name := todo.pop()) not in seen and (path := source(name)) is not None:
            seen.add(name)
            if name.split(".")[1] not in SHARED:
                todo += named_in(path)
    return {name.split(".")[1] for name in seen} - SHARED


@pytest.mark.parametrize("each", STAGES, ids=lambda s: s.name)
def test_packages_are_all_that_the_stage_imports(each: Stage) -> None:
    assert packages_of(each.module) == set(each.packages)


@pytest.mark.parametrize("name", ["train-alignment", "train-ranker"])
@pytest.mark.parametrize(
    ("section", "setting", "value", "again"),
    [
        ("training", "ranks", 4, False),
        ("training", "restarts", 9, False),
        ("training", "checkpoint_steps", 7, False),
        ("loader", "workers", 9, False),
        ("loader", "shards", 16, True),
        ("loader", "shuffle_rows", 7, True),
        ("training", "mixed_precision", True, True),
    ],
)
def test_where_a_training_runs_does_not_make_it_run_again(name, section, setting, value, again):
    config = Config()
    changed = getattr(config, section).model_copy(update={setting: value})
    other = config.model_copy(update={section: changed})
    assert (stage(name).settings(config) != stage(name).settings(other)) is again
