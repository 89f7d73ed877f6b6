"""The processor's name, from a literal cpuinfo."""

from __future__ import annotations

import os

from qarm.report import processor


def test_model_cores_and_widest_vectors(tmp_path, monkeypatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: Some CPU\nflags\t\t: sse avx2\n\nmodel name\t: Other\n")
    monkeypatch.setattr(processor, "_CPUINFO", cpuinfo)
    assert processor.processor_name() == f"Some CPU, {os.cpu_count()} cores, AVX2"
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "none")
    assert processor.processor_name().endswith(f"{os.cpu_count()} cores")
