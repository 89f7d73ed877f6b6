"""The process that Spark forks its Python workers from (``spark.python.daemon.module``).

With Spark's own daemon each worker imports what it needs by itself, and each task pays for two
things, whatever it does: a collection of all objects, and a new look into the zips and jars that
Spark puts on the path, which before Python 3.12 reads all their directories again. Together that is
0.15 s of processor time a task. Here the packages that most tasks use are imported once, their
objects are out of the collector's sight, and archives are taken not to change.
"""

from __future__ import annotations

import gc
import zipimport


def _look_at_nothing(importer: zipimport.zipimporter) -> None:
    """In place of ``zipimporter.invalidate_caches``."""


def main() -> None:
    """Serve Spark until it closes the standard input."""
    import numba  # noqa: F401
    import numpy  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow  # noqa: F401
    from pyspark import daemon

    # Spark asks for a new look before each task, in case files have come; those have new paths.
    setattr(zipimport.zipimporter, "invalidate_caches", _look_at_nothing)  # noqa: B010
    gc.collect()
    gc.freeze()
    daemon.manager()


if __name__ == "__main__":
    main()
