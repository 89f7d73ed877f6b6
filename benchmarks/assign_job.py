"""The whole job on local[2], Delta to Delta, against one torch process, Parquet to Parquet.

    .venv/bin/python benchmarks/assign_job.py [--runs 3] [--cases 0 1]
    .venv/bin/python benchmarks/assign_job.py --growth [--rows 250000]

Ours is stage assign-codes itself, run by ``run_stage`` on a lake that has item_embeddings and
codebooks and no semantic_ids: reading the codebook, checks, coding, the Delta write with its rules,
row counts, manifest. The peer reads Parquet with pyarrow, row group by row group, codes by addmm +
argmin (2 threads, tile 2048) and writes item_id, item_idx and codes. Both run in warm processes:
the start of the JVM and of Python, imports and compilation are left out on both sides.

``equal``: at the first difference of a row the two centroids are equally near within 1e-6.

``--growth``: 1, 2, 4 and 8 times the rows, 3 x 1024: seconds, bytes shuffled,
largest resident memory of a Python worker, and the JVM's heap after a collection.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import shutil
import statistics
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from assign_rq import equal_but_for_ties, peer_encode, unit_vectors
from logs import session
from timing import interleaved, report, say, timed

from qarm.codes.codebook import Codebook, lists_to_matrix, matrix_to_lists
from qarm.codes.kmeans import kmeans
from qarm.config import Config
from qarm.kernels.nearest import nearest
from qarm.lake import manifest
from qarm.lake.tables import Lake
from qarm.pipeline.runner import run_stage
from qarm.pipeline.stages import stage
from schemas import codebooks, item_embeddings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CASES = ((500_000, (8192, 8192, 8192)), (2_000_000, (1024, 1024, 1024)))
DIMENSIONS = 64
FILE_ROWS = 125_000
TABLE_FILE_ROWS = 16_384
TIMES = (1, 2, 4, 8)


def write_vectors(folder: Path, rows: int) -> np.ndarray:
    """Parquet files of item_embeddings' columns; a sample of the vectors."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    starts = range(0, rows, FILE_ROWS)
    sizes = [min(FILE_ROWS, rows - start) for start in starts]
    parts = unit_vectors(np.random.default_rng(0), DIMENSIONS, 500, sizes)
    sample = []
    for start, x in zip(starts, parts, strict=True):
        idx = np.arange(start, start + len(x))
        names = pa.array(np.char.add("item-", idx.astype(str)))
        table = pa.table(
            {
                "item_id": names,
                "item_idx": pa.array(idx),
                "encoder_version": pa.array(["e"] * len(x)),
                "content_hash": names,
                "modalities": matrix_to_lists(np.full((len(x), 1), "text")),
                "vector": matrix_to_lists(x),
            }
        )
        pq.write_table(table, folder / f"{start:09d}.parquet", row_group_size=FILE_ROWS // 2)
        sample.append(x[: 40_000 * len(x) // rows + 1])
    return np.concatenate(sample)


def fit(sample: np.ndarray, sizes: tuple[int, ...]) -> Codebook:
    """One Lloyd iteration a level; the time of coding does not depend on how far it is fitted."""
    rest, levels = sample, []
    for size in sizes:
        start = rest[np.random.default_rng(size).choice(len(rest), size, replace=False)]
        levels.append(kmeans(rest, size, iterations=1, start=start).centroids)
        rest = rest - levels[-1][nearest(rest, levels[-1])[0]]
    return Codebook(levels=tuple(levels), encoder_version="e")


class Ours:
    """Published vectors and codebook; ``run`` is the stage on a new lake that has nothing else."""

    def __init__(self, spark: SparkSession, root: Path, parquet: Path, codebook: Codebook) -> None:
        shutil.rmtree(root, ignore_errors=True)
        self.root, self.runs = root, 0
        made = Lake(spark, str(root / "made"))
        rows = spark.read.parquet(str(parquet))
        rows = rows.repartition(-(-rows.count() // TABLE_FILE_ROWS), "item_idx")
        vectors = made.overwrite(item_embeddings.TABLE, rows, {})
        book = made.overwrite(codebooks.TABLE, spark.createDataFrame(codebook.to_rows()), {})
        chosen = {"codebook": {"uri": "", "version": codebook.codebook_id}}
        self.published = (("embed-catalog", vectors, {}), ("fit-codebooks", book, chosen))
        self.clear()

    def clear(self) -> None:
        """As before the stage's first run: a new lake whose manifests name the same tables."""
        shutil.rmtree(self.root / f"run-{self.runs}", ignore_errors=True)
        self.runs += 1
        uri = str(self.root / f"run-{self.runs}")
        self.config = Config.model_validate({"lake": uri})
        for name, ref, artifacts in self.published:
            outputs = {ref.name: ref.as_dict()}
            manifest.publish(uri, manifest.Manifest(name, "made", "", "", {}, outputs, artifacts))

    def run(self) -> None:
        """The stage."""
        run_stage(stage("assign-codes"), self.config, session())

    def codes(self) -> pa.Table:
        """item_idx and rq of what was written."""
        ref = manifest.pinned(self.config.lake, "semantic_ids")
        assert ref is not None
        return (
            Lake(session(), self.config.lake)
            .read(ref)
            .select("item_idx", "rq")
            .toArrow()
            .sort_by("item_idx")
        )


def peer(folder: Path, out: Path, levels: list[torch.Tensor]) -> None:
    """Parquet to Parquet, a row group at a time."""
    out.mkdir(exist_ok=True)
    columns = ["item_id", "item_idx", "vector"]
    for path in sorted(folder.glob("*.parquet")):
        file, writer = pq.ParquetFile(path), None
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number, columns=columns)
            x = torch.from_numpy(lists_to_matrix(rows["vector"], "vectors").copy())
            codes = peer_encode(x, levels).to(torch.int32).numpy()
            made = rows.select(["item_id", "item_idx"]).append_column("rq", matrix_to_lists(codes))
            writer = writer or pq.ParquetWriter(out / path.name, made.schema)
            writer.write_table(made)
        if writer is not None:
            writer.close()


def compare(spark: SparkSession, folder: Path, runs: int, cases: Sequence[int]) -> None:
    """The cases."""
    for rows, sizes in [CASES[number] for number in cases]:
        name = f"{rows} items, rq {len(sizes)} x {sizes[0]}, d {DIMENSIONS}"
        say(f"{name}: making the case")
        parquet, out = folder / f"vectors-{rows}", folder / "peer"
        codebook = fit(write_vectors(parquet, rows), sizes)
        ours = Ours(spark, folder / "lake", parquet, codebook)
        levels = [torch.from_numpy(level) for level in codebook.levels]
        torch.set_num_threads(2)
        shutil.rmtree(out, ignore_errors=True)

        def run(ours: Ours = ours) -> None:
            ours.clear()
            ours.run()

        run()  # warm
        times, peers = interleaved(
            name,
            run,
            lambda: peer(parquet, out, levels),  # noqa: B023  called at once
            runs,
        )
        equal = same(ours.codes(), parquet, out, codebook)
        what = "torch addmm + argmin, 2 threads, Parquet to Parquet"
        report("assign_job", name, what, times, peers, equal)


def same(ours: pa.Table, parquet: Path, out: Path, codebook: Codebook) -> bool:
    """Whether both wrote all items with equal codes."""
    other = pq.read_table(out).sort_by("item_idx")
    if not ours["item_idx"].combine_chunks().equals(other["item_idx"].combine_chunks()):
        return False
    a, b = (lists_to_matrix(t["rq"], "rq") for t in (ours, other))
    differ = np.flatnonzero((a != b).any(1))
    rows = pq.read_table(parquet, columns=["item_idx", "vector"]).sort_by("item_idx").take(differ)
    x = lists_to_matrix(rows["vector"], "vectors")
    return equal_but_for_ties(x, list(codebook.levels), a[differ], b[differ])


class WorkerMemory:
    """Largest resident memory, in bytes, of any Python worker of Spark while the block runs."""

    def __enter__(self) -> WorkerMemory:
        self.peak_bytes, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "python" in process.name():
                        self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)
                except psutil.Error:
                    continue

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def shuffled_bytes(spark: SparkSession) -> int:
    """Bytes written to shuffles since the session began."""
    context = spark.sparkContext
    jvm, scala = context._jvm, context._jsc.sc()
    assert jvm is not None
    none = context._gateway.new_array(jvm.double, 0)
    empty = jvm.java.util.ArrayList
    stages = scala.statusStore().stageList(empty(), False, False, none, empty())
    return sum(stages.apply(i).shuffleWriteBytes() for i in range(stages.size()))


def heap_mb(spark: SparkSession) -> int:
    """Heap of the JVM (driver and executor in one) after a collection."""
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    gc.collect()
    jvm.java.lang.System.gc()
    runtime = jvm.java.lang.Runtime.getRuntime()
    return int(runtime.totalMemory() - runtime.freeMemory()) >> 20


def growth(spark: SparkSession, folder: Path, smallest: int, runs: int) -> None:
    """One line a size, and one for what lies between the two largest."""
    codebook, medians = None, []
    for rows in [smallest * k for k in TIMES]:
        sample = write_vectors(folder / "growth", rows)
        codebook = codebook or fit(sample, CASES[1][1])
        ours = Ours(spark, folder / "lake", folder / "growth", codebook)
        seconds, moved = [], 0
        with WorkerMemory() as memory:
            for run in range(runs + 1):
                ours.clear()
                before = shuffled_bytes(spark)
                took = timed(lambda: ours.run())  # noqa: B023  called at once
                moved = shuffled_bytes(spark) - before
                seconds += [took] if run else []  # the first one warms
                say(f"{rows:,} items: {took:.1f} s, {moved >> 10} kB shuffled")
        medians.append(statistics.median(seconds))
        line = {
            "benchmark": "assign_job",
            "case": f"growth, {rows} items, rq 3 x 1024, d {DIMENSIONS}",
            "ours_s": round(medians[-1], 2),
            "shuffled_kb": moved >> 10,
            "worker_mb": memory.peak_bytes >> 20,
            "heap_mb": heap_mb(spark),
            "runs": runs,
        }
        print(json.dumps(line), flush=True)
    grown = (TIMES[-1] - TIMES[-2]) * smallest
    line = {
        "benchmark": "assign_job",
        "case": "growth, between the two largest",
        "exponent": round(math.log(medians[-1] / medians[-2]) / math.log(TIMES[-1] / TIMES[-2]), 3),
        "core_us_an_item": round(2e6 * (medians[-1] - medians[-2]) / grown, 2),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    """Compare, or grow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)))
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--rows", type=int, default=250_000, help="smallest size of --growth")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "qarm-bench")
    arguments = parser.parse_args()
    folder = arguments.folder / "assign-job"
    folder.mkdir(parents=True, exist_ok=True)
    spark = session()
    if arguments.growth:
        growth(spark, folder, arguments.rows, arguments.runs)
    else:
        compare(spark, folder, arguments.runs, arguments.cases)


if __name__ == "__main__":
    main()
