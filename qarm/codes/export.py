"""Export of codes: which ones, where to, and that as many rows come out as went in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from qarm.codes import formats
from qarm.codes.formats import Codes, Key
from qarm.errors import InputError, RowsLostError
from qarm.lake import files

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context

Kind = Literal["auto", "rq", "rq_resolved"]


def export_codes(
    context: Context, form: str, to: str, *, kind: Kind = "auto", key: Key = "item_id"
) -> dict[str, Any]:
    """Write the published codes (or the user's own) to ``to``.

    Args:
        context: reads semantic_ids, codebooks and, where there are some, items.
        form: parquet, grid, minionerec or torcheasyrec.
        to: URI of a folder (parquet, torcheasyrec) or a file (grid, minionerec); must not exist.
        kind: rq, rq_resolved, or auto: rq_resolved where every item has one.
        key: what names an item in minionerec's file.

    Returns:
        format, codes, codebook_id, rows_in, rows_out and uri, for printing.

    Raises:
        InputError: ``to`` exists, there are no such codes, or the format cannot hold them.
        RowsLostError: other rows were written than read.
    """
    to = files.absolute(to)
    if form == "torcheasyrec":  # a bundle holds one folder a generation
        to = files.join(to, f"v{context.ref('semantic_ids').version}")
    if files.exists(to):
        raise InputError(f"{to} is there already; remove it, or name another place (--to)")
    codes = _codes(context, kind)
    writers: dict[str, Callable[[Codes, str], int]] = {
        "parquet": formats.write_parquet,
        "grid": formats.write_grid,
        "minionerec": lambda codes, uri: formats.write_minionerec(codes, uri, key),
        "torcheasyrec": formats.write_torcheasyrec,
    }
    context.say(f"{codes.count:,} items, {codes.kind} of codebook {codes.codebook_id}, as {form}")
    written = writers[form](codes, to)
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


def _codes(context: Context, kind: Kind) -> Codes:
    from pyspark.sql import functions as F

    table = context.table("semantic_ids")
    counts = {r[0]: int(r[1]) for r in table.groupBy("codebook_id").count().collect()}
    chosen = str(context.facts("assign-codes").get("codebook_id", ""))
    if chosen not in counts:
        if len(counts) != 1:
            raise InputError(
                f"semantic_ids has codes of codebooks {sorted(counts)}, and no run says which one "
                "to take; bring those of one"
            )
        chosen = next(iter(counts))
    rows = table.where(F.col("codebook_id") == chosen)
    row = rows.agg(
        F.count("rq_resolved").alias("resolved"),
        F.min(F.size("rq")).alias("fewest"),
        F.max(F.size("rq")).alias("levels"),
    ).first()
    assert row is not None
    levels = int(row["levels"])
    if levels == 0 or levels != row["fewest"]:
        raise InputError(
            f"semantic_ids: expected residual codes of one length, seen {row['fewest']} to "
            f"{levels} numbers; set codes.rq_levels and run fit-codebooks and assign-codes"
        )
    resolved = int(row["resolved"])
    if kind == "auto":
        kind = "rq_resolved" if resolved == counts[chosen] else "rq"
    if kind == "rq_resolved" and resolved != counts[chosen]:
        raise InputError(
            f"rq_resolved was asked for, and {counts[chosen] - resolved} of {counts[chosen]} items "
            "have none; run assign-codes with the collision resolver, or export rq"
        )
    rows = rows.select("item_id", "item_idx", F.col(kind).alias("code"), "rq", "vq")
    return Codes(
        rows=rows,
        count=counts[chosen],
        sizes=_sizes(context, chosen, rows, levels),
        codebook_id=chosen,
        kind=kind,
        integer_ids=_integer_ids(context),
    )


def _sizes(context: Context, chosen: str, rows: DataFrame, levels: int) -> list[int]:
    """Codes of each level: as the codebook says, else the largest codes seen."""
    from pyspark.sql import functions as F

    if context.find("codebooks") is not None:
        book = context.table("codebooks").where(F.col("kind") == "rq")
        if not context.is_external("codebooks"):
            book = book.where(F.col("codebook_id") == chosen)
        found = {r[0]: int(r[1]) for r in book.groupBy("level").agg(F.count("*")).collect()}
        if sorted(found) == list(range(levels)):
            return [found[level] for level in range(levels)]
    row = rows.agg(*[F.max(F.col("code")[level]) for level in range(levels)]).first()
    assert row is not None
    return [int(code) + 1 for code in row]


def _integer_ids(context: Context) -> bool:
    if context.find("items") is None:
        return False
    types = context.table("items").select("source_type").distinct().limit(2).collect()
    return [r[0] for r in types] in [["int"], ["bigint"], ["smallint"], ["tinyint"]]
