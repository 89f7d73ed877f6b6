"""What both stages of codes read: vectors of one encoder, what was known when, the codebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qarm.codes.codebook import Codebook
from qarm.errors import InputError
from qarm.ingest.parts import training_parts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context

#: Values of column ``seen``.
KNOWN, LATER, NEVER = "known", "later", "never"


def encoder_versions(context: Context) -> dict[str, int]:
    """Encoder version -> rows of ``item_embeddings``.

    Raises:
        InputError: the table is empty.
    """
    rows = context.table("item_embeddings").groupBy("encoder_version").count().collect()
    found = {row[0]: int(row[1]) for row in sorted(rows)}
    if not found:
        raise InputError(
            f"stage {context.stage}: item_embeddings has no rows; expected one an item of the "
            "catalogue"
        )
    return found


def with_seen(context: Context, items: DataFrame) -> DataFrame:
    """``items`` (with item_idx) and column ``seen``.

    known: the item has an event of the mine or train part; later: only of valid and test; never:
    it has none. Where there is no log (somebody who has nothing but vectors), all items are known.
    The part decides, not the time: under a split by user the training part has no one end.
    """
    from pyspark.sql import functions as F

    if context.find("event_splits") is None:
        return items.withColumn("seen", F.lit(KNOWN))
    learnt = F.col("part").isin(training_parts(context.facts("ingest")))
    seen = (
        context.table("event_splits")
        .groupBy("item_idx")
        .agg(F.when(F.max(learnt), KNOWN).otherwise(LATER).alias("seen"))
    )
    return items.join(seen, "item_idx", "left").fillna(NEVER, "seen")


def load_codebook(context: Context) -> Codebook:
    """The codebook that fit-codebooks has published, or the user's own.

    Raises:
        InputError: several codebooks in the user's table, or one that cannot be used.
        MissingStageError: there is none.
    """
    from pyspark.sql import functions as F

    rows = context.table("codebooks")
    if context.is_external("codebooks"):
        where = context.config.external.tables["codebooks"]
    else:
        chosen = context.artifact("fit-codebooks", "codebook")["version"]
        rows = rows.where(F.col("codebook_id") == chosen)
        where = f"codebook {chosen}"
    return Codebook.from_rows(rows.toArrow(), where)
