"""Progress lines and bars on stderr; bars only on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_START = time.monotonic()


def say(message: str) -> None:
    """Print one line with the seconds since the process started."""
    print(f"[{time.monotonic() - _START:6.1f} s] {message}", file=sys.stderr, flush=True)


def bar(items: Iterable[T], *, total: int | None = None, label: str = "") -> Iterator[T]:
    """``items`` with a progress bar, which is silent unless stderr is a terminal."""
    from tqdm import tqdm

    yield from tqdm(
        items,
        total=total,
        desc=label,
        disable=not sys.stderr.isatty(),
        file=sys.stderr,
        leave=False,
    )
