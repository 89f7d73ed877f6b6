"""Export of codes: which codes, and that as many rows are written as were read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from qarm.codes import formats
from qarm.codes.formats import Codes, Key, Write
from qarm.errors import InputError, RowsLostError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Kind = Literal["auto", "rq", "rq_resolved"]


def write_codes(codes: Codes, form: str, to: str) -> dict[str, Any]:
    """Write codes as files of another program.

    Args:
        codes: see ``choose_codes``.
        form: one of ``FORMATS``.
        to: URI of a folder (parquet, torcheasyrec) or a file (grid, minionerec).

    Returns:
        format, codes, codebook_id, levels, rows_in, rows_out and uri, for printing.

    Raises:
        InputError: the format cannot hold these codes.
        RowsLostError: the number of rows written is not the number of rows read.
    """
    write: Write = getattr(formats, f"write_{form}")
    written = write(codes, to)
    if written != codes.count:
        raise RowsLostError(
            f"export-codes: {codes.count} items have a code, {written} were written to {to}; if "
            "the table was being written meanwhile, run again"
        )
    return {
        "format": form,
        "codes": codes.kind,
        "codebook_id": codes.codebook_id,
        "levels": codes.sizes,
        "rows_in": codes.count,
        "rows_out": written,
        "uri": to,
    }


def choose_codes(
    ids: DataFrame,
    *,
    codebook_id: str,
    levels: DataFrame | None,
    any_book: bool = False,
    items: DataFrame | None,
    kind: Kind = "auto",
    key: Key = "item_id",
) -> Codes:
    """The codes to export.

    Args:
        ids: semantic_ids.
        codebook_id: codebook of the last published run; where ``ids`` has no codes of it, they must
            be of one codebook.
        levels: rows of table codebooks; None: there is none, so that the size of a level is its
            largest code plus one.
        any_book: ``levels`` is the user's own codebook, whatever its id.
        items: the catalogue, for the type of the source's ids; None: they are strings.
        kind: rq, rq_resolved, or auto: rq_resolved where every item has one.
        key: see ``Codes``.

    Raises:
        InputError: codes of several codebooks, of several lengths, or not all items have ``kind``.
    """
    from pyspark.sql import functions as F

    counts = {r[0]: int(r[1]) for r in ids.groupBy("codebook_id").count().collect()}
    if codebook_id not in counts:
        if len(counts) != 1:
            raise InputError(
                f"semantic_ids has codes of codebooks {sorted(counts)}, and no run says which one "
                "to take; bring those of one"
            )
        codebook_id = next(iter(counts))
    count = counts[codebook_id]
    rows = ids.where(F.col("codebook_id") == codebook_id)
    row = rows.agg(
        F.count("rq_resolved").alias("resolved"),
        F.min(F.size("rq")).alias("fewest"),
        F.max(F.size("rq")).alias("levels"),
    ).first()
    assert row is not None
    length = int(row["levels"])
    if length == 0 or length != row["fewest"]:
        raise InputError(
            f"semantic_ids: expected residual codes of one length, seen {row['fewest']} to "
            f"{length} numbers; set codes.rq_levels and run fit-codebooks and assign-codes"
        )
    resolved = int(row["resolved"])
    if kind == "auto":
        kind = "rq_resolved" if resolved == count else "rq"
    if kind == "rq_resolved" and resolved != count:
        raise InputError(
            f"rq_resolved was asked for, and {count - resolved} of {count} items have none; run "
            "assign-codes with the collision resolver, or export rq"
        )
    rows = rows.select("item_id", "item_idx", F.col(kind).alias("code"), "rq", "vq")
    if levels is not None and not any_book:
        levels = levels.where(F.col("codebook_id") == codebook_id)
    return Codes(
        rows=rows,
        count=count,
        sizes=_sizes(levels, rows, length),
        codebook_id=codebook_id,
        kind=kind,
        integer_ids=items is not None and _integer_ids(items),
        key=key,
    )


def _sizes(levels: DataFrame | None, rows: DataFrame, length: int) -> list[int]:
    """Codes of each level: as the codebook says, else by the largest code."""
    from pyspark.sql import functions as F

    if levels is not None:
        book = levels.where(F.col("kind") == "rq").groupBy("level").agg(F.count("*"))
        sizes = {r[0]: int(r[1]) for r in book.collect()}
        if sorted(sizes) == list(range(length)):
            return [sizes[level] for level in range(length)]
    row = rows.agg(*[F.max(F.col("code")[level]) for level in range(length)]).first()
    assert row is not None
    return [int(code) + 1 for code in row]


def _integer_ids(items: DataFrame) -> bool:
    types = items.select("source_type").distinct().limit(2).collect()
    return [r[0] for r in types] in [["int"], ["bigint"], ["smallint"], ["tinyint"]]
