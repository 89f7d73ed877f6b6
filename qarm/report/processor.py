"""The processor that figures were printed on: another one changes their third or fourth digit."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """Model, number of cores and widest vector instructions, such as "..., 2 cores, AVX2"."""
    fields: dict[str, str] = {}
    if _CPUINFO.exists():
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
        pairs = (line.partition(":") for line in reversed(lines))  # the first processor wins
        fields = {key.strip(): value.strip() for key, _, value in pairs}
    model = fields.get("model name") or platform.processor() or platform.machine()
    flags = fields.get("flags", "").split()
    vectors = [name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags]
    return ", ".join([model, f"{os.cpu_count()} cores", *vectors[:1]])
