"""Version of the code behind a stage: the release and a hash of all modules that it imports."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Protocol, cast

from qarm import __version__

#: Modules whose effect on a result is recorded elsewhere: settings enter by their values (the
#: configuration hash), and the table of stages only names modules, tables and settings.
_MARKED_ELSEWHERE = ("qarm.config", "qarm.pipeline.stages")
#: The public face: it computes nothing, and names modules of all stages.
_FACE = "qarm"
_OURS = ("qarm", "schemas")
_MODULE_NAME = re.compile(r"(?:qarm|schemas)(?:\.\w+)+")
_RESOURCES = (".html", ".css", ".js")


class _SourceLoader(Protocol):
    def get_source(self, fullname: str) -> str | None: ...


def code_version(module: str) -> str:
    """``<release>+<hash>`` of ``module`` and all our modules that it imports, lazily or not.

    Comments, docstrings and formatting do not change the hash. Works from a folder and from a wheel
    of ``--py-files`` alike.
    """
    digest = hashlib.sha256()
    for name in sorted(imported_modules(module)):
        digest.update(f"{name}\0{_meaning(name)}\0".encode())
        digest.update(_resources(name))
    return f"{__version__}+{digest.hexdigest()[:12]}"


@cache
def imported_modules(module: str) -> frozenset[str]:
    """``module`` and all modules of qarm and schemas that it reaches by imports.

    Imports inside functions count; those for type checkers do not. A string that is the name of a
    module counts as an import, since ranks import their training function by its name.
    """
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        ours = name.partition(".")[0] in _OURS
        if name in seen or name == _FACE or not ours or name.startswith(_MARKED_ELSEWHERE):
            continue
        seen.add(name)
        waiting += _imports(name)
    return frozenset(seen)


@cache
def _tree(module: str) -> ast.Module:
    """The module's syntax tree without docstrings and without imports for type checkers."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"{module} is imported by a stage and cannot be found")
    source = cast(_SourceLoader, spec.loader).get_source(module) or ""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [each for each in body if not _is_text(each) and not _is_for_types(each)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.AST) -> bool:
    """A docstring, or the string under a field: it changes no result."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_for_types(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        and not node.orelse
    )


@cache
def _meaning(module: str) -> str:
    """The module's code in one canonical form."""
    return ast.unparse(_tree(module))


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Our modules that ``module`` imports directly or names in a string."""
    return tuple(sorted({name for name in _named(module) if _is_module(name)}))


def _named(module: str) -> Iterator[str]:
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _MODULE_NAME.findall(node.value)[:1]


@cache
def _is_module(name: str) -> bool:
    if name.partition(".")[0] not in _OURS:
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a name inside a module, such as a class
        return False


@cache
def _resources(module: str) -> bytes:
    """Templates and styles in the folder of the module, if it is a package."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return b""
    beside = sorted(resources.files(module).iterdir(), key=lambda entry: entry.name)
    return b"".join(entry.read_bytes() for entry in beside if entry.name.endswith(_RESOURCES))
