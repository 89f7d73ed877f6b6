"""The training table: which pairs alignment uses, their weights, and which are held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qarm.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.config.alignment import Alignment

#: Resolution of the held-out share.
_HASH_SPACE = 1_000_000


@dataclass(frozen=True)
class ChosenPairs:
    """Rows of alignment_pairs, and what became of those of item_pairs."""

    rows: DataFrame
    kept: int
    """Rows of item_pairs that are kept, held-out ones included."""
    dropped: dict[str, int]
    """Reason -> rows that are left out, see ``selected_pairs``."""
    messages: list[str]
    """What the user should know about the sources."""


def choose_pairs(
    item_pairs: DataFrame, live: DataFrame, alignment: Alignment, *, own_pairs: bool
) -> ChosenPairs:
    """Rows of alignment_pairs from those of item_pairs.

    Args:
        item_pairs: table item_pairs.
        live: items of the catalogue that have not been removed.
        alignment: sources and their shares, held-out share, seed.
        own_pairs: item_pairs is the user's own table.

    Raises:
        InputError: no source has a row.
    """
    messages = []
    sources = dict(alignment.sources)
    if own_pairs:
        present = [row["source"] for row in item_pairs.select("source").distinct().collect()]
        sources = sources_to_use(sources, present)
    if sources != alignment.sources:
        shares = ", ".join(f"{name} (share {share:g})" for name, share in sources.items())
        messages.append(
            f"your item_pairs have none of alignment.sources ({', '.join(alignment.sources)}); "
            f"training uses the sources that they have: {shares}"
        )
    selected = selected_pairs(item_pairs, live, sources)
    fates: Counter[str] = Counter()
    rows_by_source: Counter[str] = Counter()
    for row in selected.groupBy("source", "fate").count().collect():
        fates[row["fate"]] += row["count"]
        rows_by_source[row["source"]] += row["count"]
    kept = with_part(selected.where("fate = 'kept'"), alignment.valid_share, alignment.seed)
    kept = kept.select("trigger", "target", "source", "part")
    counts = kept.where("part = 'train'").groupBy("source").count().collect()
    row_weights = weights({row["source"]: row["count"] for row in counts}, sources, rows_by_source)
    if absent := sorted(set(sources) - set(row_weights)):
        messages.append(f"no training pair of {', '.join(absent)}; training uses the other sources")
    return ChosenPairs(
        rows=training_table(kept, row_weights),
        kept=fates["kept"],
        dropped={fate: n for fate, n in sorted(fates.items()) if fate != "kept"},
        messages=messages,
    )


def selected_pairs(pairs: DataFrame, live: DataFrame, sources: Mapping[str, float]) -> DataFrame:
    """``item_pairs`` with the column ``fate``: kept, or the reason why not.

    other_source: not among ``sources``, or with share 0. removed_item: trigger or target is not in
    ``live``. repeated: the same trigger, target and source under another split, window or miner.
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


def sources_to_use(wanted: Mapping[str, float], present: Collection[str]) -> dict[str, float]:
    """Source -> share: ``wanted``, unless the user's own item_pairs have none of these sources.

    Their rows are of source ``user`` unless they name another one, which the default of
    alignment.sources does not include. In that case every source of the table is used, with
    share 1.
    """
    if not present or any(wanted.get(name, 0) > 0 for name in present):
        return dict(wanted)
    return dict.fromkeys(sorted(present), 1.0)


def with_part(pairs: DataFrame, valid_share: float, seed: int) -> DataFrame:
    """``pairs`` with the column ``part``: valid by a hash of the unordered pair, else train.

    A pair, its mirror image, and the same pair of another source are therefore in one part.
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
        sources: source -> share, with any sum.
        all_rows: rows of item_pairs, for the message.

    Raises:
        InputError: no source has a row.
    """
    rows = {name: n for name, n in rows_by_source.items() if n and sources.get(name, 0) > 0}
    if not rows:
        wanted = sorted(name for name, share in sources.items() if share > 0)
        seen = ", ".join(f"{name} ({n} rows)" for name, n in sorted(all_rows.items()))
        advice = "name the sources that it has under alignment.sources, or mine those asked for"
        if set(wanted) & set(all_rows):
            advice = (
                "every row of these sources names an item that was removed from the catalogue, or "
                "is held out (alignment.valid_share)"
            )
        raise InputError(
            f"no pair to train on: alignment.sources asks for {wanted}, item_pairs has "
            f"{seen or 'no rows'}; {advice}"
        )
    total, share = sum(rows.values()), sum(sources[name] for name in rows)
    return {name: sources[name] / share * total / n for name, n in rows.items()}


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
    # An item that occurs only in held-out pairs counts as if it had one row.
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
