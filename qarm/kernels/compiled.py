"""The decorator of all compiled functions: numba's ``njit`` with a cache keyed by the sources."""

from __future__ import annotations

import hashlib
import linecache
import os
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any, TypeVar, cast, overload

from numba import config as numba_config
from numba import njit
from numba.core.caching import ZipCacheLocator
from numba.misc.appdirs import AppDirs

_config: Any = numba_config  # numba sets its attributes when it is imported
F = TypeVar("F", bound=Callable[..., Any])

#: Inputs are checked for NaN and infinity, so that minima may be vector instructions.
FINITE = frozenset({"nnan", "ninf", "nsz", "contract"})
#: Sums may be taken in any order as well: for float64 sums over the dimensions only.
REORDERED = FINITE | {"reassoc"}


@overload
def compiled(function: F) -> F: ...


@overload
def compiled(*, fastmath: frozenset[str]) -> Callable[[F], F]: ...


def compiled(
    function: F | None = None, *, fastmath: frozenset[str] = frozenset()
) -> F | Callable[[F], F]:
    """Compile a function at its first call, without the GIL, and cache the machine code on disk.

    ``@compiled`` follows IEEE 754; ``@compiled(fastmath=FINITE)`` and ``REORDERED`` permit the LLVM
    optimisations that they name. Where no folder can be written (code from ``--py-files`` in a
    container without a home), each process compiles for itself.
    """

    def wrap(function: F) -> F:
        options: dict[str, Any] = {"nogil": True, "fastmath": set(fastmath)}
        named = _config.CACHE_LOCATOR_CLASSES
        try:
            if not named:
                _config.CACHE_LOCATOR_CLASSES = f"{__name__}.{ByContent.__name__}"
            return cast(F, njit(cache=True, **options)(function))
        except RuntimeError:  # "cannot cache function: no locator available"
            return cast(F, njit(**options)(function))
        finally:
            _config.CACHE_LOCATOR_CLASSES = named

    return wrap if function is None else wrap(function)


class ByContent(ZipCacheLocator):
    """Where the machine code of a kernel lies, and the hash of the source that it belongs to.

    The hash covers the kernel's own file and all of ``qarm.kernels``, since kernels use functions
    and constants of each other. numba itself compares the kernel's own file only.

    The folder is ``__pycache__`` beside the source. For code in a zip or wheel it is
    ``NUMBA_CACHE_DIR``, else the user's cache folder, in a folder named by the hash. numba's own
    folder depends on the path of the zip, and Spark copies ``--py-files`` to a new path for each
    application, so that each application would compile all kernels again.
    """

    def __init__(self, py_func: Any, py_file: str, folder: str, stamp: str) -> None:
        self._line = py_func.__code__.co_firstlineno
        self._folder, self._stamp = folder, stamp

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> ByContent | None:
        """The first folder that can be written to; None if there is none."""
        own = "".join(linecache.getlines(py_file, py_func.__globals__))
        stamp = hashlib.sha256(f"{_kernel_sources()}{own}".encode()).hexdigest()
        user = _config.CACHE_DIR or AppDirs(appname="numba", appauthor=False).user_cache_dir
        folders = [os.path.join(user, f"qarm-{stamp[:40]}")]
        if os.path.exists(py_file) and not _config.CACHE_DIR:
            folders.insert(0, os.path.join(os.path.dirname(py_file), "__pycache__"))
        for folder in folders:
            locator = cls(py_func, py_file, folder, stamp)
            try:
                locator.ensure_cache_path()
            except OSError:
                continue
            return locator
        return None

    def get_cache_path(self) -> str:
        """The folder."""
        return self._folder

    def get_source_stamp(self) -> str:
        """Hash of the sources; numba discards machine code with another one."""
        return self._stamp

    def get_disambiguator(self) -> str:
        """Tells functions of one name apart."""
        return str(self._line)


@cache
def _kernel_sources() -> str:
    """Hash of all sources in ``qarm.kernels``, from a folder or from a zip."""
    digest = hashlib.sha256()
    for entry in sorted(resources.files("qarm.kernels").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".py"):
            digest.update(entry.name.encode() + b"\0" + entry.read_bytes() + b"\0")
    return digest.hexdigest()
