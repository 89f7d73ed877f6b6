"""The process that Spark forks its Python workers from (``spark.python.daemon.module``).

With Spark's own daemon each worker imports what it needs by itself, and each task pays for three
things, whatever it does: a collection of all objects; a new look into the zips and jars that Spark
puts on the path, which before Python 3.12 reads all their directories again; and a pause of 40 ms.
The first two are 0.15 s of processor time a task. The pause is TCP's: the JVM sends what a task
needs in small pieces, of which the second waits until the first is acknowledged (Nagle), and Linux
acknowledges what it need not answer after 40 ms only. Here the packages that most tasks use are
imported once and numba is made ready to load kernels, their objects are out of the collector's
sight, archives are taken not to change, and pieces are acknowledged at once.
"""

from __future__ import annotations

import gc
import socket
import zipimport
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Linux alone has it.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


def _look_at_nothing(importer: zipimport.zipimporter) -> None:
    """In place of ``zipimporter.invalidate_caches``."""


def _acknowledge_at_once(
    serve: Callable[[socket.socket, bool], int], sock: socket.socket, authenticated: bool
) -> int:
    """``serve`` one task of ``sock``. Set for each: an answer on the socket undoes the option."""
    if _QUICKACK is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
    return serve(sock, authenticated)


def main() -> None:
    """Serve Spark until it closes the standard input."""
    import numba  # noqa: F401
    import numpy  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow  # noqa: F401
    from numba.core.registry import cpu_target
    from pyspark import daemon

    cpu_target.target_context.refresh()  # 0.6 s that each worker's first kernel would take
    # Spark asks for a new look before each task, in case files have come; those have new paths.
    setattr(zipimport.zipimporter, "invalidate_caches", _look_at_nothing)  # noqa: B010
    setattr(daemon, "worker", partial(_acknowledge_at_once, daemon.worker))  # noqa: B010
    gc.collect()
    gc.freeze()
    daemon.manager()


if __name__ == "__main__":
    main()
