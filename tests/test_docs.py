"""What documentation, configurations and messages name exists: settings, tables and columns."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from qarm.config import Config
from qarm.config.load import load
from qarm.lake import files
from qarm.pipeline.stages import BY_NAME
from schemas import TABLES

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("qarm/*/README.md")])
#: The changelog names settings that an earlier release had.
PAGES.remove(ROOT / "CHANGELOG.md")
SOURCES = sorted([*ROOT.glob("qarm/**/*.py"), *ROOT.glob("schemas/*.py")])
SECTIONS = [
    name
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
]
#: ``section.name``, not inside a longer dotted name such as that of a module, nor a file.
_DOTTED = re.compile(
    rf"(?<![\w./-])((?:{'|'.join(sorted({*SECTIONS, *TABLES}))})(?:\.[a-z_][a-z_0-9]*)+)(?![\w(/])"
)
_ENDINGS = ("py", "md", "toml", "json", "jsonl", "csv", "parquet", "html", "safetensors", "npy")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"\btables? `(\w+)`|`(\w+)` table\b")


def is_setting(dotted: str) -> bool:
    """Whether the name leads to a setting, or into one that is a table of the user's keys."""
    model: type[BaseModel] = Config
    for step in dotted.split("."):
        field = model.model_fields.get(step)
        if field is None:
            return False
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return True
        model = field.annotation
    return True


def is_column(dotted: str) -> bool:
    """Whether the name is a column of a table, such as ``items.item_idx``."""
    table, _, column = dotted.partition(".")
    return table in TABLES and column in TABLES[table].column_names


def is_module(dotted: str) -> bool:
    """Whether the name is a module of qarm, such as ``codes.residual``."""
    return (ROOT / "qarm" / f"{dotted.replace('.', '/')}.py").is_file()


def unknown(text: str) -> set[str]:
    """Dotted names in ``text`` that begin as a setting or a column does, and are neither.

    Sections of pairs may be named without it, such as swing.top_k.
    """
    names = {name for name in _DOTTED.findall(text) if name.rpartition(".")[2] not in _ENDINGS}
    known = (is_setting, is_column, is_module, lambda name: is_setting(f"pairs.{name}"))
    return {name for name in names if not any(check(name) for check in known)}


def test_the_check_sees_names_that_do_not_exist() -> None:
    text = "Set `ranker.epoch` or items.item_idx, see items.nonsuch, qarm.codes.kmeans, codes.py"
    assert unknown(text) == {"ranker.epoch", "items.nonsuch"}
    assert is_setting("external.tables.item_pairs")
    assert not is_setting("pairs.swing.nonsuch")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_and_columns_of_a_page_exist(page: Path) -> None:
    assert unknown(page.read_text()) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_and_commands_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    tables = {first or second for first, second in _TABLE.findall(text)}
    tables |= set(re.findall(r"\bqarm tables ([a-z_]+)", text))
    assert tables <= set(TABLES)
    sections = set(re.findall(r"\bqarm settings ([a-z_]+)", text))
    assert sections <= set(Config.model_fields)
    jobs = set(re.findall(r"(?<!tests/)\bjobs/([a-z_]+)\.py", text))
    assert jobs <= {"run", *(name.replace("-", "_") for name in BY_NAME)}


def _examples() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for language, body in _FENCE.findall(page.read_text()):
            if language == "toml":
                yield str(page.relative_to(ROOT)), body


@pytest.mark.parametrize(("page", "body"), list(_examples()), ids=lambda value: value[:20])
def test_examples_of_configurations_load(page: str, body: str) -> None:
    tomllib.loads(body)
    uri = "memory://docs/example.toml"
    files.write_text(uri, body)
    load(uri)


@pytest.mark.parametrize("path", sorted(ROOT.glob("conf/*.toml")), ids=lambda path: path.stem)
def test_comments_of_shipped_configurations_name_settings_that_exist(path: Path) -> None:
    comments = [line.partition("#")[2] for line in path.read_text().splitlines()]
    assert unknown("\n".join(comments)) == set()


def test_the_reference_of_the_tables_lists_all_of_them() -> None:
    headings = re.findall(r"^### `(\w+)`", (ROOT / "docs" / "tables.md").read_text(), re.MULTILINE)
    assert set(headings) <= set(TABLES)


def test_messages_and_docstrings_name_settings_that_exist() -> None:
    wrong = {}
    for path in SOURCES:
        texts = [
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        if names := unknown("\n".join(texts)):
            wrong[str(path.relative_to(ROOT))] = names
    assert wrong == {}


_FOLDERS = "benchmarks|conf|docs|jobs|qarm|schemas|scripts|tests"
_FILE = re.compile(rf"(?<![\w./-])((?:{_FOLDERS})/[\w./-]+)(?![\w*<{{])")
_RUN_AS_MODULE = re.compile(r"-m ((?:qarm|tests|benchmarks)[\w.]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    named = {name.rstrip("./") for name in _FILE.findall(text) if "NAME" not in name}
    named |= {f"{name.replace('.', '/')}.py" for name in _RUN_AS_MODULE.findall(text)}
    there = {name for name in named if (ROOT / name).exists() or (ROOT / f"{name}.py").exists()}
    assert named == there
