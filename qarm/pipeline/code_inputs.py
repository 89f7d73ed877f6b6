"""Opens the tables that several stages and commands of codes read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qarm.codes.codebook import Codebook
from qarm.codes.population import count_by_encoder, count_events, one_encoder, usable_vectors
from qarm.errors import InputError
from qarm.ingest.parts import training_parts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context


def encoder_versions(context: Context) -> dict[str, int]:
    """Encoder version -> rows of ``item_embeddings``.

    Raises:
        InputError: the table is empty.
    """
    try:
        return count_by_encoder(context.table("item_embeddings"))
    except InputError as error:
        raise InputError(f"stage {context.stage}: {error}") from error


def event_splits(context: Context) -> DataFrame | None:
    """The events with their part of the split; None where there is no log."""
    return context.table("event_splits") if context.find("event_splits") is not None else None


def training_events(context: Context) -> DataFrame | None:
    """(item_idx, events) of the training part; None where there is no log."""
    splits = event_splits(context)
    if splits is None:
        return None
    return count_events(splits, training_parts(context.facts("ingest")))


def vectors_to_fit_on(context: Context) -> tuple[DataFrame, dict[str, int], str]:
    """What codebooks are fitted on, see ``usable_vectors``.

    Returns:
        (item_id, item_idx, vector); rows of each use; the encoder.

    Raises:
        InputError: no vectors, or vectors of several encoders.
    """
    from pyspark.sql import functions as F

    encoder = one_encoder(encoder_versions(context))
    embeddings = context.table("item_embeddings").where(F.col("encoder_version") == encoder)
    parts = training_parts(context.facts("ingest"))
    usable, counts = usable_vectors(embeddings, event_splits(context), parts)
    return usable, counts, encoder


def load_codebook(context: Context) -> Codebook:
    """The codebook that fit-codebooks has published, or the user's own.

    Raises:
        InputError: several codebooks in the user's table, one that cannot be used, or a published
            one that is not what its id, the hash of its contents, says.
        MissingStageError: there is none.
    """
    from pyspark.sql import functions as F

    rows = context.table("codebooks")
    if context.is_external("codebooks"):
        return Codebook.from_rows(rows.toArrow(), context.config.external.tables["codebooks"])
    chosen = context.artifact("fit-codebooks", "codebook")["version"]
    rows = rows.where(F.col("codebook_id") == chosen)
    codebook = Codebook.from_rows(rows.toArrow(), f"codebook {chosen}")
    if codebook.content_hash != chosen:
        raise InputError(
            f"codebook {chosen} of {context.ref('codebooks').path} is damaged: its contents have "
            f"the hash {codebook.content_hash}. Restore the table's files from a backup, or run "
            "fit-codebooks again, which gives all items new codes"
        )
    return codebook
