"""Peak memory of this process and its descendants: JVM, Python workers, ranks."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType


def tree_bytes() -> int:
    """Memory of the process tree now, in bytes: PSS where the system reports it, else RSS."""
    import psutil

    me = psutil.Process()
    parent = me.parent()
    # Under spark-submit the JVM is the parent of this process and of the Python workers.
    if "PYSPARK_GATEWAY_PORT" in os.environ and parent is not None:
        me = parent
    total = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            total += _pss(process.pid) or process.memory_info().rss
        except psutil.Error:
            continue
    return total


def _pss(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


class PeakMemory:
    """Samples ``tree_bytes`` on a thread while the block runs; ``peak_bytes`` afterwards.

    A sample walks the page tables of all processes, which takes a second where these are large:
    the thread rests at least twenty times as long as a sample took.
    """

    def __init__(self, interval_seconds: float = 2.0) -> None:
        self.peak_bytes = 0
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        pause = self._interval
        while not self._stop.wait(pause):
            started = time.monotonic()
            self.peak_bytes = max(self.peak_bytes, tree_bytes())
            pause = max(self._interval, 20 * (time.monotonic() - started))

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, tree_bytes())
