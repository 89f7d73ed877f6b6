"""Peak memory of the process and its children."""

from __future__ import annotations

import subprocess
import sys
import time

from qarm.memory import PeakMemory, tree_bytes

CHILD = "data = bytearray(b'x' * (200 << 20)); print('ready', flush=True); input()"


def test_the_peak_counts_children_and_outlives_them() -> None:
    before = tree_bytes()
    with (
        PeakMemory(interval_seconds=0.02) as memory,
        subprocess.Popen(
            [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert tree_bytes() > before + (150 << 20)
        until = time.monotonic() + 20
        while memory.peak_bytes <= before + (150 << 20) and time.monotonic() < until:
            time.sleep(0.05)
        child.communicate("\n")
    assert memory.peak_bytes > before + (150 << 20)
    assert tree_bytes() < before + (150 << 20)
