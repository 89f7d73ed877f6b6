"""The training table: which pairs alignment sees, how much each weighs, which are held out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from qarm.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

#: The held-out share is cut at this resolution.
_HASH_SPACE = 1_000_000


def selected_pairs(pairs: DataFrame, live: DataFrame, sources: Mapping[str, float]) -> DataFrame:
    """``item_pairs`` with the column ``fate``: kept, or why not.

    other_source: not among ``sources``, or with share 0; removed_item: trigger or target is not in
    ``live``; repeated: the same trigger, target and source under another split, window or miner.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    wanted = [name for name, share in sources.items() if share > 0]
    there = live.select("item_idx", F.lit(True).alias("there"))
    trigger = there.select(F.col("item_idx").alias("trigger"), F.col("there").alias("__trigger"))
    target = there.select(F.col("item_idx").alias("target"), F.col("there").alias("__target"))
    one = Window.partitionBy("trigger", "target", "source").orderBy(
        F.desc("window_end"), "split_id", "miner_version"
    )
    fate = (
        F.when(~F.col("source").isin(wanted), "other_source")
        .when(F.col("__trigger").isNull() | F.col("__target").isNull(), "removed_item")
        .when(F.row_number().over(one) > 1, "repeated")
        .otherwise("kept")
    )
    joined = pairs.join(trigger, "trigger", "left").join(target, "target", "left")
    return joined.select("trigger", "target", "source", fate.alias("fate"))


def sources_to_use(wanted: Mapping[str, float], there: Collection[str]) -> dict[str, float]:
    """Source -> share for item_pairs of the user's own: ``wanted``, unless it has none of them.

    Its rows are of source ``user`` unless they name another, and the default of alignment.sources
    does not: what the table has is used then, each source with share 1.
    """
    if not there or any(wanted.get(name, 0) > 0 for name in there):
        return dict(wanted)
    return dict.fromkeys(sorted(there), 1.0)


def with_part(pairs: DataFrame, valid_share: float, seed: int) -> DataFrame:
    """``pairs`` with the column ``part``: valid by a hash of the unordered pair, else train.

    So a pair, its mirror image, and the same pair of another source are in one part.
    """
    from pyspark.sql import functions as F

    mark = F.xxhash64(
        F.least("trigger", "target"), F.greatest("trigger", "target"), F.lit(seed), F.lit("part")
    )
    held_out = F.pmod(mark, F.lit(_HASH_SPACE)) < round(valid_share * _HASH_SPACE)
    return pairs.withColumn("part", F.when(held_out, "valid").otherwise("train"))


def weights(
    rows_by_source: Mapping[str, int],
    sources: Mapping[str, float],
    all_rows: Mapping[str, int],
) -> dict[str, float]:
    """Weight of a row of each source, so that each has its share of the loss; 1 on average.

    Args:
        rows_by_source: training rows; sources without rows get no share.
        sources: source -> share, of any sum.
        all_rows: rows of item_pairs, for the message.

    Raises:
        InputError: no source has a row.
    """
    there = {name: n for name, n in rows_by_source.items() if n and sources.get(name, 0) > 0}
    if not there:
        wanted = sorted(name for name, share in sources.items() if share > 0)
        seen = ", ".join(f"{name} ({n} rows)" for name, n in sorted(all_rows.items()))
        do = "name the sources that it has under alignment.sources, or mine those asked for"
        if set(wanted) & set(all_rows):
            do = (
                "of these, every row names an item that has left the catalogue or is held out "
                "(alignment.valid_share)"
            )
        raise InputError(
            f"no pair to train on: alignment.sources asks for {wanted}, item_pairs has "
            f"{seen or 'no rows'}; {do}"
        )
    rows, share = sum(there.values()), sum(sources[name] for name in there)
    return {name: sources[name] / share * rows / n for name, n in there.items()}


def training_table(pairs: DataFrame, row_weights: Mapping[str, float]) -> DataFrame:
    """Rows of alignment_pairs.

    Args:
        pairs: trigger, target, source, part.
        row_weights: source -> weight of its rows.
    """
    from pyspark.sql import functions as F

    train = pairs.where("part = 'train'")
    total = train.agg(F.count("*").cast("double").alias("total"))
    weight = F.create_map(*[F.lit(x) for pair in row_weights.items() for x in pair])

    for side in ("trigger", "target"):
        counts = train.groupBy(side).agg(F.count("*").alias(f"__{side}s"))
        pairs = pairs.join(counts, side, "left")
    # An item that occurs in held-out pairs only counts as if it had one row.
    logq = {
        side: F.log(F.coalesce(F.col(f"__{side}s"), F.lit(1)) / F.col("total"))
        for side in ("trigger", "target")
    }
    return pairs.crossJoin(F.broadcast(total)).select(
        "trigger",
        "target",
        "source",
        F.coalesce(weight[F.col("source")], F.lit(1.0)).cast("float").alias("weight"),
        logq["trigger"].cast("float").alias("trigger_logq"),
        logq["target"].cast("float").alias("target_logq"),
        "part",
    )
