"""The commands ``qarm export-codes`` and ``qarm anchor-pools``: they open the lake's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qarm.codes.compare_pools import Coverage, compare_pools
from qarm.codes.export import Kind, choose_codes, write_codes
from qarm.codes.formats import Key
from qarm.errors import InputError
from qarm.lake import files
from qarm.pipeline.code_inputs import training_events, vectors_to_fit_on

if TYPE_CHECKING:
    from qarm.pipeline.context import Context


def export_codes(
    context: Context, form: str, to: str, *, kind: Kind = "auto", key: Key = "item_id"
) -> dict[str, Any]:
    """Write the published codes (or the user's own) to ``to``.

    Args:
        context: reads semantic_ids and, where they exist, codebooks and items.
        form: one of ``qarm.codes.FORMATS``.
        to: URI of a folder (parquet, torcheasyrec) or a file (grid, minionerec); must not exist.
        kind: rq, rq_resolved, or auto: rq_resolved where every item has one.
        key: column that names an item in minionerec's file.

    Returns:
        See ``write_codes``.

    Raises:
        InputError: ``to`` exists, there are no such codes, or the format cannot hold them.
        RowsLostError: the number of rows written is not the number of rows read.
    """
    to = files.absolute(to)
    if form == "torcheasyrec":  # a bundle holds one folder per generation
        to = files.join(to, f"v{context.ref('semantic_ids').version}")
    if files.exists(to):
        raise InputError(f"{to} already exists; remove it, or choose another place (--to)")
    chosen = str(context.facts("assign-codes").get("codebook_id", ""))
    ids = context.table("semantic_ids")
    codes = choose_codes(
        ids,
        codebook_id=chosen,
        levels=context.table("codebooks") if context.find("codebooks") is not None else None,
        any_book=context.is_external("codebooks"),
        items=context.table("items") if context.find("items") is not None else None,
        kind=kind,
        key=key,
    )
    context.say(f"{codes.count:,} items, {codes.kind} of codebook {codes.codebook_id}, as {form}")
    return write_codes(codes, form, to)


def measure_anchor_pools(context: Context) -> dict[str, Coverage]:
    """Coverage by each rule of VQ anchors, for the lake's vectors and the settings of ``[codes]``.

    Raises:
        InputError: no usable vectors, or fewer than a VQ code is long.
        MissingStageError: embed-catalog has not run.
    """
    usable, counts, _ = vectors_to_fit_on(context)
    usable = usable.persist()
    try:
        rows = counts.get("fit", 0)
        return compare_pools(usable, rows, training_events(context), context.config.codes)
    finally:
        usable.unpersist()
