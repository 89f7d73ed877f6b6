"""Lines and bars for people, on stderr; bars only where there is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_START = time.monotonic()


def say(message: str) -> None:
    """One line with the seconds since the process started."""
    print(f"[{time.monotonic() - _START:6.1f} s] {message}", file=sys.stderr, flush=True)


def bar(items: Iterable[T], *, total: int | None = None, label: str = "") -> Iterator[T]:
    """``items`` with a progress bar, silent where stderr is no terminal."""
    from tqdm import tqdm

    yield from tqdm(
        items,
        total=total,
        desc=label,
        disable=not sys.stderr.isatty(),
        file=sys.stderr,
        leave=False,
    )
