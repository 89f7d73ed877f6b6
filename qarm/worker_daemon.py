"""The process that Spark forks its Python workers from (``spark.python.daemon.module``).

With Spark's own daemon each worker imports by itself, and its garbage collector visits everything
that it has imported after each task. Here the packages that most tasks use are imported once, and
the collector of the workers leaves them out.
"""

import gc

import numba
import numpy  # noqa: F401
import pandas  # noqa: F401
import pyarrow  # noqa: F401
from pyspark import daemon

if __name__ == "__main__":
    numba.njit("int64()")(
        lambda: 0
    )  # the compiler's start, which each worker's first kernel would wait for
    gc.collect()
    gc.freeze()
    daemon.manager()
