"""numba's ``njit`` with its disk cache where one can be had."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import config as numba_config
from numba import njit
from numba.core.caching import ZipCacheLocator

settings: Any = numba_config  # its attributes are made when it is imported
F = TypeVar("F", bound=Callable[..., object])


class ByContent(ZipCacheLocator):
    """Machine code of a module inside a zip, under the hash of the module's source.

    numba's own place depends on the zip's path, and Spark puts what ``--py-files`` names into
    another folder for each application: each would compile every kernel anew, and leave it behind.
    """

    def __init__(self, py_func: Any, py_file: str) -> None:
        super().__init__(py_func, py_file)
        base = settings.CACHE_DIR or os.path.dirname(self._cache_path)
        self._cache_path = os.path.join(base, f"qarm-{self.get_source_stamp().hex()[:40]}")


def compiled(function: F) -> F:
    """Compile ``function`` at its first call.

    The machine code is cached on disk, beside the source or where NUMBA_CACHE_DIR says, so that
    each Python worker of an executor need not compile again. On executors there may be no such
    place: code imported from a zip (``--py-files``) in a container without a home. numba raises
    then, for some places only when the function is called, so the place is tried here; without one
    the function is compiled once a worker. A cached kernel notices changes of its own file only:
    kernels call nothing outside their file.
    """
    named = settings.CACHE_LOCATOR_CLASSES
    try:
        if ".zip" in function.__code__.co_filename and not named:
            settings.CACHE_LOCATOR_CLASSES = f"{__name__}.{ByContent.__name__}"
        cached = njit(cache=True)(function)
        place = cached.stats.cache_path or ""
        os.makedirs(place, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return cast(F, cached)
    except (RuntimeError, OSError):
        return cast(F, njit(function))
    finally:
        settings.CACHE_LOCATOR_CLASSES = named
