"""Peak memory of the process and its children."""

from __future__ import annotations

import subprocess
import sys

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
        memory._stop.wait(0.2)  # let the thread take a sample
        child.communicate("\n")
    assert memory.peak_bytes > before + (150 << 20)
    assert tree_bytes() < before + (150 << 20)
