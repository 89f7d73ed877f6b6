"""What is legal but odd in a log and its catalogue: counted and said; a gate can stop on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from qarm.config.gates import Gates
from qarm.errors import GateError
from qarm.ingest.times import from_micros

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_YEAR = 365.25
_LONG_GAP_DAYS = 10 * _YEAR


@dataclass(frozen=True)
class Oddity:
    """One thing that is probably not meant."""

    name: str
    """One of the names that gates.stop_on takes."""
    count: int
    """Rows, items, ids or days: as ``text`` says."""
    text: str
    """What was seen, and what may be wrong."""


def of_log(
    parts: Mapping[str, Mapping[str, int]], over_time: Mapping[str, Any] | None, positive: str
) -> list[Oddity]:
    """Oddities of times and labels.

    Args:
        parts: of ``statistics.part_statistics``.
        over_time: of ``statistics.events_over_time``; None: the log has positions, not times.
        positive: the label whose events are positive.
    """
    found = []
    without = [part for part, seen in parts.items() if not seen["positives"]]
    if without:
        where = "any part" if len(without) == len(parts) else ", ".join(without)
        found.append(
            Oddity(
                "no_positive",
                sum(parts[part]["rows"] for part in without),
                f"no event is positive in {where}; check log.labels.{positive}",
            )
        )
    if over_time is None:
        return found
    first = from_micros(min(seen["first"] for seen in parts.values()))
    last = from_micros(max(seen["last"] for seen in parts.values()))
    rows = sum(seen["rows"] for seen in parts.values())
    if last.year < 1971:
        found.append(
            Oddity(
                "times_of_1970",
                rows,
                f"all events are between {first} and {last}; check log.time_format: epoch_s may be "
                "read as epoch_ms, or epoch_ms as epoch_us",
            )
        )
    if first == last and rows > 1:
        found.append(Oddity("one_time", rows, f"all {rows:,} events have the same time, {first}"))
    days = _longest_gap(over_time["counts"]) * over_time["bucket_days"]
    if days > _LONG_GAP_DAYS:
        found.append(
            Oddity(
                "gap_in_time",
                int(days),
                f"no event for {days / _YEAR:.0f} years between {first} and {last}; a few rows may "
                "have a placeholder as their time",
            )
        )
    return found


def _longest_gap(counts: Sequence[int]) -> int:
    """Most empty buckets in a row."""
    longest = run = 0
    for count in counts:
        run = 0 if count else run + 1
        longest = max(longest, run)
    return longest


def of_text(broken: int, example: str | None) -> list[Oddity]:
    """Oddity of items whose text holds U+FFFD, which stands for bytes that are not UTF-8."""
    if not broken:
        return []
    text = (
        f"{broken:,} items have U+FFFD in their text, such as {example!r}: it was read in another "
        "encoding than it was written in; for CSV files that are not UTF-8 set csv_options = "
        '{ encoding = "ISO-8859-1" } or what it is'
    )
    return [Oddity("replacement_characters", broken, text)]


def of_ids(ids: Mapping[str, DataFrame]) -> list[Oddity]:
    """Oddity of ids that differ only by spaces, case or Unicode form. This runs a job.

    Args:
        ids: ``users`` or ``items`` -> one row per id; the id is the first column.
    """
    from pyspark.sql import DataFrame
    from pyspark.sql import functions as F

    texts = reduce(
        DataFrame.unionByName,
        [
            each.select(
                F.lit(kind).alias("kind"), F.col(each.columns[0]).cast("string").alias("id")
            )
            for kind, each in ids.items()
        ],
    )
    plain = ~F.col("id").rlike("[^\\x00-\\x7f]")
    folded = F.lower(F.trim("id")).alias("folded")
    composed = F.lower(F.udf(_compose, "string")("id")).alias("folded")
    # Python sees the ids beyond ASCII alone: within a CASE it would see all.
    both = texts.where(plain).select("kind", "id", folded)
    both = both.unionByName(texts.where(~plain).select("kind", "id", composed))
    alike = (
        both.groupBy("kind", "folded")
        .agg(F.count("*").alias("n"), F.min("id").alias("a"), F.max("id").alias("b"))
        .where("n > 1")
        .groupBy("kind")
        .agg(F.sum("n").alias("n"), F.min(F.struct("a", "b")).alias("example"))
    )
    by_kind = {row["kind"]: row for row in alike.collect()}
    found = []
    for kind in ids:
        if kind not in by_kind:
            continue
        n, (a, b) = int(by_kind[kind]["n"]), by_kind[kind]["example"]
        text = (
            f"{n:,} ids of {kind} differ from another one only by spaces, case or Unicode form, "
            f"such as {a!r} and {b!r}; they count as different {kind}"
        )
        found.append(Oddity(f"similar_{kind}", n, text))
    return found


def _compose(text: str | None) -> str | None:
    """The id without what a reader does not see."""
    import unicodedata

    return None if text is None else unicodedata.normalize("NFKC", text).strip()


def check(gates: Gates, found: Sequence[Oddity]) -> None:
    """Raise GateError where gates.stop_on names one of them."""
    if stopping := [each for each in found if each.name in gates.stop_on]:
        raise GateError(
            "gates.stop_on: "
            + "; ".join(f"{each.name}: {each.text}" for each in stopping)
            + ". Nothing was published"
        )


def as_facts(found: Sequence[Oddity]) -> list[dict[str, Any]]:
    """For the manifest."""
    return [asdict(each) for each in found]
