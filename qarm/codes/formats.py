"""Codes as files that other programs read: Parquet, GRID, MiniOneRec, TorchEasyRec.

Spark writes the rows; where a format is one file, its parts are streamed into it one after the
other, so that no process holds the catalogue. docs/codes.md names the reader of each format.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import string
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from qarm.codes.codebook import lists_to_matrix
from qarm.errors import InputError
from qarm.lake import files

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

Key = Literal["item_id", "item_idx"]
Write = Callable[["Codes", str], int]
"""Writes codes to a URI and returns the number of rows written."""
_CHUNK = 1 << 20
#: Columns of a tensor without an item: no code has this number.
NO_ITEM = -1


@dataclass(frozen=True)
class Codes:
    """What is exported."""

    rows: DataFrame
    """item_id, item_idx, code (array<int>), rq, vq."""
    count: int
    sizes: list[int]
    """Codes of each level."""
    codebook_id: str
    kind: str
    """rq or rq_resolved."""
    integer_ids: bool
    """Whether the source's ids are integers."""
    key: Key = "item_id"
    """Column that names an item where a format has one name per item."""

    def with_slots(self) -> DataFrame:
        """``rows`` and ``slot``: 0, 1, ... among the items of a code, in the order of item_idx."""
        from pyspark.sql import Window
        from pyspark.sql import functions as F

        place = F.row_number().over(Window.partitionBy("code").orderBy("item_idx"))
        return self.rows.withColumn("slot", place - 1)


def write_parquet(codes: Codes, to: str) -> int:
    """A folder of Parquet files: item_id, item_idx, c1, ..., cL, and vq."""
    from pyspark.sql import functions as F

    numbers = [F.col("code")[n].alias(f"c{n + 1}") for n in range(len(codes.sizes))]
    codes.rows.select("item_id", "item_idx", *numbers, "vq").write.parquet(to)
    return _rows_in(to)


def write_minionerec(codes: Codes, to: str) -> int:
    """One JSON object: item -> ["<a_12>", "<b_7>", "<c_9>"], in the order of item_idx."""
    from pyspark.sql import functions as F

    letters = string.ascii_lowercase[: len(codes.sizes)]
    if len(letters) < len(codes.sizes):
        raise InputError(
            f"minionerec names levels a to z, these codes have {len(codes.sizes)} levels"
        )
    tokens = [
        F.format_string(f'"<{letter}_%d>"', F.col("code")[level])
        for level, letter in enumerate(letters)
    ]
    # {"k":"..."} without its braces and its name: the id as a JSON string.
    named = f"to_json(struct(string({codes.key}) AS k))"
    name = F.expr(f"substring({named}, 6, length({named}) - 6)")
    line = F.concat(F.lit(","), name, F.lit(": ["), F.concat_ws(", ", *tokens), F.lit("]"))
    written = 0
    with _parts(to) as parts:
        _in_order(codes.rows).select(line.alias("value")).write.text(parts)
        with files.open_file(f"{to}.tmp", "wb") as out:
            start = 1  # the first line needs no comma before it
            out.write(b"{")
            for content in _contents(parts):
                out.write(content[start:])
                written, start = written + content.count(b"\n"), 0
            out.write(b"}\n")
        files.move(f"{to}.tmp", to)
    return written


def write_grid(codes: Codes, to: str) -> int:
    """A tensor file (L + 1, largest item_idx + 1) of int64, and beside it item_id to item_idx.

    The last row distinguishes the items of a code (0, 1, ...), as GRID's own step does.
    """
    import torch
    from pyspark.sql import functions as F

    row = codes.rows.agg(F.max("item_idx").alias("last")).first()
    assert row is not None
    levels, width = len(codes.sizes), int(row["last"]) + 1
    codes.rows.select("item_id", "item_idx").write.parquet(f"{to}.items")
    written = 0
    with _parts(to) as parts, tempfile.TemporaryDirectory() as scratch:
        _in_order(codes.with_slots()).select("item_idx", "code", "slot").write.parquet(parts)
        # On disk, not in memory: rows of the tensor are as long as the catalogue.
        name = os.path.join(scratch, "codes")
        tensor = np.memmap(name, np.int64, "w+", shape=(levels + 1, width))
        tensor[:] = NO_ITEM
        for batch in _batches(parts):
            at = batch["item_idx"].to_numpy()
            tensor[:levels, at] = lists_to_matrix(batch["code"], "semantic_ids").T
            tensor[levels, at] = batch["slot"].to_numpy()
            written += batch.num_rows
        saved = os.path.join(scratch, "saved.pt")
        torch.save(torch.from_numpy(tensor), saved)
        with open(saved, "rb") as source, files.open_file(f"{to}.tmp", "wb") as out:
            shutil.copyfileobj(source, out, _CHUNK)
        files.move(f"{to}.tmp", to)
    return written


def write_torcheasyrec(codes: Codes, to: str) -> int:
    """One generation of a SID bundle: item_to_sid, sid_to_items, and the manifest, written last."""
    from pyspark.sql import functions as F

    if math.prod(codes.sizes) > np.iinfo(np.int64).max:
        raise InputError(
            f"torcheasyrec numbers codes by int64, levels {codes.sizes} multiply to more; use "
            "fewer or smaller levels"
        )
    offsets = np.append(0, np.cumsum(codes.sizes[:-1])).tolist()
    code = F.col("code").cast("array<bigint>")
    shifted = F.array(*[code[level] + F.lit(int(by)) for level, by in enumerate(offsets)])
    item = F.col("item_id").cast("bigint" if codes.integer_ids else "string")
    rows = codes.with_slots()
    item_to_sid, sid_to_items = (files.join(to, n) for n in ("item_to_sid", "sid_to_items"))
    rows.select(
        item.alias("item_id"),
        F.col("rq").cast("array<bigint>").alias("origin_codebook"),
        code.alias("codebook"),
        shifted.alias("offset_codebook"),
        (F.col("slot") + 1).cast("bigint").alias("index"),
    ).write.parquet(item_to_sid)
    groups = rows.groupBy("code").agg(
        F.sort_array(F.collect_list(F.struct("slot", item.alias("id"))))["id"].alias("itemids")
    )
    groups = groups.orderBy("code")
    groups.select(
        code.alias("codebook"), shifted.alias("offset_codebook"), "itemids"
    ).write.parquet(sid_to_items)
    largest = rows.agg((F.max("slot") + 1).alias("largest")).first()
    assert largest is not None
    written = _rows_in(item_to_sid)
    uuid = hashlib.sha256(f"{codes.codebook_id} {codes.kind} {to}".encode()).hexdigest()[:32]
    manifest = {
        "bundle_uuid": uuid,
        "codebook": codes.sizes,
        "capacity": int(largest["largest"]),
        "max_observed_items_per_sid": int(largest["largest"]),
        "artifacts": {
            "item_to_sid": {"save_type": "parquet", "rows": written, "location": item_to_sid},
            "sid_to_items": {
                "save_type": "parquet",
                "rows": _rows_in(sid_to_items),
                "location": sid_to_items,
            },
        },
        "item_id_type": "int64" if codes.integer_ids else "string",
    }
    files.write_text(files.join(to, "manifest.json"), json.dumps(manifest, indent=2))
    return written


def _in_order(rows: DataFrame) -> DataFrame:
    """Ascending by item_idx, also over the files that are written."""
    return rows.repartitionByRange("item_idx").sortWithinPartitions("item_idx")


@contextmanager
def _parts(to: str) -> Iterator[str]:
    """A folder beside ``to`` for Spark's parts, gone afterwards."""
    folder = f"{to}.parts"
    files.remove_tree(folder)
    try:
        yield folder
    finally:
        files.remove_tree(folder)


def _part_files(folder: str) -> list[str]:
    return [files.join(folder, n) for n in files.list_dir(folder) if n.startswith("part-")]


def _contents(folder: str) -> Iterator[bytes]:
    """The parts' bytes in the order of their names, a chunk at a time."""
    for part in _part_files(folder):
        with files.open_file(part) as file:
            while content := file.read(_CHUNK):
                yield content


def _batches(folder: str) -> Iterator[pa.RecordBatch]:
    """Rows of the parts, in the order of their names."""
    import pyarrow.parquet as pq

    for part in _part_files(folder):
        with files.open_file(part) as file:
            yield from pq.ParquetFile(file).iter_batches()


def _rows_in(folder: str) -> int:
    """Number of rows by the footers of the files."""
    import pyarrow.parquet as pq

    rows = 0
    for part in _part_files(folder):
        with files.open_file(part) as file:
            rows += pq.ParquetFile(file).metadata.num_rows
    return rows
