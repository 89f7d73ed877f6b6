"""numba's ``njit`` with its disk cache where one can be had."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile ``function`` at its first call.

    The machine code is cached on disk, beside the source or where NUMBA_CACHE_DIR says, so that
    each Python worker of an executor need not compile again. On executors there may be no such
    place: code imported from a zip (``--py-files``) in a container without a home. numba raises
    then, for some places only when the function is called, so the place is tried here; without one
    the function is compiled once a worker. A cached kernel notices changes of its own file only:
    kernels call nothing outside their file.
    """
    try:
        cached = njit(cache=True)(function)
        place = cached.stats.cache_path or ""
        os.makedirs(place, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return cast(F, cached)
    except (RuntimeError, OSError):
        return cast(F, njit(function))
