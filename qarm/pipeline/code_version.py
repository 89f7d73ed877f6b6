"""Version of the code behind a stage: the release, and a hash of the sources it depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from qarm import __version__


def _sources(folder: Traversable) -> list[tuple[str, bytes]]:
    found = []
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.is_dir() and entry.name != "__pycache__":
            found += [(f"{entry.name}/{n}", b) for n, b in _sources(entry)]
        elif entry.name.endswith((".py", ".html", ".css")):
            found.append((entry.name, entry.read_bytes()))
    return found


@cache
def _package_hash(package: str) -> str:
    """Works from a folder and from a wheel on --py-files alike."""
    digest = hashlib.sha256()
    for name, content in _sources(resources.files(package)):
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()


def code_version(packages: Sequence[str]) -> str:
    """``<release>+<hash>`` over the sources of ``qarm.<package>`` for each, and of ``schemas``."""
    parts = [_package_hash(f"qarm.{name}") for name in packages] + [_package_hash("schemas")]
    return f"{__version__}+{hashlib.sha256('.'.join(parts).encode()).hexdigest()[:12]}"
