"""What makes a stage run again: the code that it imports, and nothing else in the tree."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from qarm.pipeline import code_version
from qarm.pipeline.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
BY_NAME = {stage.name: stage.module for stage in STAGES}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the sources that this process finds in place of its own."""
    for package in ("qarm", "schemas"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    ours = {name: m for name, m in sys.modules.items() if name.split(".")[0] in ("qarm", "schemas")}
    for name in ours:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [n for n in sys.modules if n.split(".")[0] in ("qarm", "schemas")]:
        del sys.modules[name]
    sys.modules.update(ours)


def versions() -> dict[str, str]:
    """Stage -> version of its code, computed from the sources as they lie on the path now."""
    importlib.invalidate_caches()
    for name in [n for n in sys.modules if n.split(".")[0] in ("qarm", "schemas")]:
        del sys.modules[name]
    fresh = importlib.import_module("qarm.pipeline.code_version")
    return {name: fresh.code_version(module) for name, module in BY_NAME.items()}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@cache
def untouched() -> dict[str, str]:
    """The versions of a copy that no test has edited yet; all copies are equal."""
    return versions()


def changed(tree: Path, path: str, old: str, new: str) -> set[str]:
    """Stages whose version changes with one edit."""
    before = untouched()
    edit(tree / path, old, new)
    after = versions()
    return {name for name in BY_NAME if before[name] != after[name]}


def test_comments_docstrings_and_formatting_change_nothing(tree: Path) -> None:
    before = untouched()
    for path in [*tree.glob("qarm/**/*.py"), *tree.glob("schemas/*.py")]:
        text = path.read_text()
        path.write_text(f"# A comment.\n{text}\n\n\n# Another one.\n")
    edit(tree / "qarm/codes/residual.py", '"""', '"""Other words. ')
    assert versions() == before


def test_a_formula_of_the_codes_marks_their_stages_and_no_miner(tree: Path) -> None:
    marked = changed(tree, "qarm/codes/residual.py", "\ndef ", "\nOTHER = 1\n\n\ndef ")
    assert "fit-codebooks" in marked
    assert not marked & {"ingest", "mine-pairs", "train-alignment", "embed-catalog"}


def test_lineage_is_of_no_stage(tree: Path) -> None:
    assert not changed(tree, "qarm/pipeline/lineage.py", "\ndef ", "\nOTHER = 1\n\n\ndef ")


def test_a_training_function_that_is_named_by_a_string_counts(tree: Path) -> None:
    marked = changed(tree, "qarm/ranking/trainer.py", "\ndef ", "\nOTHER = 1\n\n\ndef ")
    assert "train-ranker" in marked
    assert "train-alignment" not in marked


def test_the_template_of_the_report_counts(tree: Path) -> None:
    assert changed(tree, "qarm/report/report.html", "<", " <") == {"report"}


@pytest.mark.parametrize("stage", BY_NAME)
def test_a_stage_reaches_no_other_stage(stage: str) -> None:
    reached = code_version.imported_modules(BY_NAME[stage])
    assert {name for name in reached if name.startswith("qarm.stages.")} == {BY_NAME[stage]}
