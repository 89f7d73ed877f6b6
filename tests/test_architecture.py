"""The house rules that can be checked: who imports whom, names, sizes, and that all is tested."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for package in ("qarm", "jobs", "schemas") for path in (ROOT / package).rglob("*.py")
)

#: Packages and top modules of qarm, lowest first. A line imports from itself and from the lines
#: above it only, at the top of a file, inside a function, or for types alone.
ORDER = (
    "errors progress memory",
    "ledger temporary",
    "lake",
    "config",
    "session worker_daemon",
    "kernels",
    "training",
    "ingest",
    "codes",
    "encoders",
    "pairs",
    "alignment",
    "ranking",
    "evaluation",
    "report",
    "pipeline",
    "stages",
    "cli",
    "evidence",
)
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names.split()}
#: Packages of one level that still must not import each other are on lines of their own above.
MOST_LINES = 450
MOST_PARAMETERS = 8
README_FROM = 1500
#: Modules without a test that names them, each with the reason.
UNTESTED: dict[str, str] = {}


def module_name(path: Path) -> str:
    """``qarm.codes.residual`` of qarm/codes/residual.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def room(module: str) -> str:
    """Package of a module, or its own name where it lies at the top of qarm."""
    return ([*module.split("."), ""])[1]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of qarm of each import of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "qarm":
            named = [f"qarm.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            named = [node.module or ""]
        else:
            continue
        yield from ((node.lineno, room(name)) for name in named if name.startswith("qarm."))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_every_room_has_a_place_in_the_order() -> None:
    rooms = {room(module_name(path)) for path in SOURCES if path.is_relative_to(ROOT / "qarm")}
    assert rooms - {""} == set(LEVEL)


def test_imports_go_down_only() -> None:
    upward = []
    for path in (ROOT / "qarm").rglob("*.py"):
        here = room(module_name(path))
        if not here:  # qarm/__init__.py is the public face
            continue
        for line, there in imports(path):
            if there in LEVEL and here != there and LEVEL[there] >= LEVEL[here]:
                upward.append(f"{path.relative_to(ROOT)}:{line} imports qarm.{there}")
    assert not upward, "\n".join(upward)


def test_schemas_know_nothing_of_qarm() -> None:
    for path in (ROOT / "schemas").glob("*.py"):
        assert not list(imports(path)), path


@pytest.mark.parametrize(
    ("library", "owner"),
    [("horovod", "training/collectives.py"), ("petastorm", "training/row_groups.py")],
)
def test_one_module_imports(library: str, owner: str) -> None:
    users = set()
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] == library for name in names):
                users.add(str(path.relative_to(ROOT / "qarm")))
    launcher = {"training/launch.py"} if library == "horovod" else set()  # horovod.spark.run
    assert users - launcher == {owner}


def test_the_context_stops_at_the_stage() -> None:
    allowed = {"stages", "pipeline", "cli"}
    for path in (ROOT / "qarm").rglob("*.py"):
        if room(module_name(path)) in allowed:
            continue
        for node in functions(path):
            for arg in (*node.args.args, *node.args.kwonlyargs):
                kind = ast.unparse(arg.annotation) if arg.annotation else ""
                where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                assert kind.strip("'\"") != "Context", where


def test_no_two_modules_share_a_name() -> None:
    # A stage is named as its job; the package that it belongs to may have that name too.
    paths = [p for p in SOURCES if p.is_relative_to(ROOT / "qarm") and p.stem != "__init__"]
    count = Counter(path.stem for path in paths if path.parent.name not in ("stages", "config"))
    assert not [name for name, n in count.items() if n > 1]


def test_files_are_short() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert not [f"{path}: {n}" for path, n in lines.items() if n > MOST_LINES]


def test_functions_take_few_parameters() -> None:
    """numba's kernels take arrays one by one; all others take an object where there are many."""
    long = []
    for path in SOURCES:
        if room(module_name(path)) == "kernels":
            continue
        for node in functions(path):
            names = [arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)]
            number = len([name for name in names if name not in ("self", "cls")])
            if number > MOST_PARAMETERS and node.name != "__init__":
                long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {number}")
    assert not long, "\n".join(long)


def test_a_large_package_has_a_readme() -> None:
    for package in (p for p in (ROOT / "qarm").iterdir() if (p / "__init__.py").is_file()):
        lines = sum(len(path.read_text().splitlines()) for path in package.glob("*.py"))
        assert lines <= README_FROM or (package / "README.md").is_file(), f"{package.name}: {lines}"


def test_every_module_has_a_test() -> None:
    """A test file of its name, or a test that imports it."""
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    named = {f"qarm.{path.parent.name}.{path.stem.removeprefix('test_')}" for path in tests}
    named |= {f"qarm.{path.stem.removeprefix('test_')}" for path in tests}
    for path in tests:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module:
                named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                named |= {node.value.split(":")[0]}
    modules = {
        module_name(path)
        for path in SOURCES
        if path.is_relative_to(ROOT / "qarm") and path.stem != "__init__"
    }
    assert modules - named == set(UNTESTED)


def test_no_stage_asks_for_the_time() -> None:
    """A log whose clock is a day off gives the same tables: "now" comes with the run."""
    asks = re.compile(r"\btime\.time\(|\.(now|utcnow|today)\(|current_(timestamp|date)|F\.now\b")
    found = {module_name(p) for p in SOURCES if asks.search(p.read_text())}
    # The order of errors of ranks, and the age of folders that killed processes left.
    assert found == {"qarm.training.failures", "qarm.temporary"}


def test_there_is_enough_test_code() -> None:
    source = sum(len(path.read_text().splitlines()) for path in SOURCES)
    tests = sum(len(path.read_text().splitlines()) for path in (ROOT / "tests").rglob("*.py"))
    assert tests >= 0.6 * source, f"{tests} lines of tests for {source} of source"
