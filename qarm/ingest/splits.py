"""The part of each event: pure functions on events with user_id, ts and seq."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qarm.config import fingerprint
from qarm.config.log import LogSource
from qarm.config.split import Split
from qarm.errors import ConfigError, InputError
from qarm.ingest.indices import numbered
from qarm.ingest.parts import PARTS
from qarm.ingest.times import from_micros
from qarm.lake.caching import Keeper
from qarm.progress import say

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def parameters(split: Split, log: LogSource) -> dict[str, Any]:
    """The split's kind and the settings that this kind uses.

    Raises:
        ConfigError: settings that contradict each other.
    """
    if split.kind in ("column", "files") and split.mine > 0:
        raise ConfigError(
            f"split.mine = {split.mine} needs kind global, per_user or leave_last_n; under "
            f'"{split.kind}" name the part mine in the data itself'
        )
    if split.kind == "column" and log.split is None:
        raise ConfigError('split.kind = "column" needs log.split, the column with the part')
    if split.kind == "global" and log.time_format == "order":
        raise ConfigError(
            'split.kind = "global" cuts by time, but log.time_format = "order" gives positions, '
            "which cannot be compared between users; use split.kind per_user or leave_last_n"
        )
    values: dict[str, Any] = {"kind": split.kind}
    if split.kind in ("global", "per_user"):
        values |= {"mine": split.mine, "train": split.train, "valid": split.valid}
    elif split.kind == "leave_last_n":
        values |= {
            "mine": split.mine,
            "valid_events": split.valid_events,
            "test_events": split.test_events,
        }
    elif split.kind == "column":
        values |= {"column": log.split, "column_values": dict(split.column_values)}
        values["valid_share"] = split.valid_share
    else:
        values |= {"files": {part: list(uris) for part, uris in split.files.items()}}
        values["valid_share"] = split.valid_share
    return values


def split_id(split: Split, log: LogSource) -> str:
    """Kind and hash of the parameters, such as ``global-1f2e...``."""
    return f"{split.kind}-{fingerprint(parameters(split, log))}"


def part_of_source(value: Column, split: Split) -> Column:
    """The part that a value of the log stands for; null if it is not mapped."""
    from pyspark.sql import functions as F

    part = F.when(value.isin(*PARTS), value)
    for seen, meant in split.column_values.items():
        part = F.when(value == seen, F.lit(meant)).otherwise(part)
    return part


def part_rank(value: Column, split: Split) -> Column:
    """Rank of that part in time, 0 for mine to 3 for test; -1: none."""
    from pyspark.sql import functions as F

    names = F.array(*[F.lit(p) for p in PARTS])
    place = F.array_position(names, part_of_source(value, split)).cast("int") - 1
    return F.coalesce(place, F.lit(-1))


def assign(events: DataFrame, split: Split, keep: Keeper, *, order_only: bool = False) -> DataFrame:
    """``events`` with the column ``part``, one of PARTS; persisted, since several tables use it.

    Args:
        events: user_id, ts, seq, and part_rank if the log names the parts.
        split: kind and parameters.
        keep: frees frames later.
        order_only: ts are positions, which cannot be compared between users.

    Raises:
        InputError: too few instants for a cut.
        ConfigError: the log names a part that split.column_values does not map.
    """
    if split.kind == "per_user":
        return keep(per_user(events, split))
    if split.kind == "leave_last_n":
        return keep(leave_last_n(events, split))
    events = keep(events)
    if split.kind == "global":
        return _by_cuts(events, global_cuts(events, split, keep))
    events = keep(by_source(events, split))
    named = {row["part"] for row in events.select("part").distinct().collect()}
    if "valid" in named or "train" not in named or not split.valid_share:
        return events
    return keep(carve_valid(events, split.valid_share, keep, by_user=order_only))


def carve_valid(events: DataFrame, share: float, keep: Keeper, *, by_user: bool) -> DataFrame:
    """``events`` with the latest ``share`` of the train part as the valid part.

    With ``by_user``, or if all train events share one time, the last events of each user instead.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    is_train = F.col("part") == "train"
    train = events.where(is_train).select(F.unix_micros("ts").alias("micros"))
    if not by_user:
        ranked, rows = numbered(train, [F.col("micros").asc()], "place", keep)
        place = min(rows - 1, math.floor(round((1 - share) * rows, 6)))
        wanted = ranked.where(F.col("place").isin(0, place)).collect()
        at = {row["place"]: row["micros"] for row in wanted}
        if at[place] > at[0]:
            say(
                f"ingest: the log names no valid part; the latest {share:g} of train, from "
                f"{from_micros(at[place]).isoformat()} on, becomes it (split.valid_share)"
            )
            late = F.unix_micros("ts") >= at[place]
            return events.withColumn(
                "part", F.when(is_train & late, "valid").otherwise(F.col("part"))
            )
    own = Window.partitionBy("user_id", "part")
    place_in_user = (F.row_number().over(own.orderBy("seq")) - 0.5) / F.count("*").over(own)
    say(
        f"ingest: the log names no valid part; the last {share:g} of each user's train events "
        "becomes it (split.valid_share)"
    )
    late = place_in_user >= round(1 - share, 9)
    return events.withColumn("part", F.when(is_train & late, "valid").otherwise(F.col("part")))


def global_cuts(events: DataFrame, split: Split, keep: Keeper) -> dict[str, int]:
    """Part -> the time (epoch microseconds) before which the events of it and earlier parts lie.

    The cut for share q is the ts of row floor(q n) in time. All events at a cut belong to the later
    part, so that the parts are strictly ordered in time.

    Raises:
        InputError: no event lies before the end of the training period.
    """
    from pyspark.sql import functions as F

    moments = events.select(F.unix_micros("ts").alias("micros"))
    ranked, rows = numbered(moments, [F.col("micros").asc()], "place", keep)
    shares = {
        "mine": split.mine,
        "train": split.mine + split.train,
        "valid": split.mine + split.train + split.valid,
    }
    # 0.7 + 0.1 is slightly below 0.8: without rounding, a cut could move by a row.
    places = {part: min(rows - 1, math.floor(round(q * rows, 6))) for part, q in shares.items()}
    wanted = ranked.where(F.col("place").isin(0, *places.values())).collect()
    at = {row["place"]: row["micros"] for row in wanted}
    cuts = {part: at[place] for part, place in places.items()}
    if cuts["train"] <= at[0]:
        raise InputError(
            f"split.kind = global: no event lies before the end of the training period "
            f"({from_micros(cuts['train']).isoformat()}), since too many of the {rows} events "
            "share one time; use per_user or leave_last_n, or times of finer resolution"
        )
    return cuts


def _by_cuts(events: DataFrame, cuts: dict[str, int]) -> DataFrame:
    from pyspark.sql import functions as F

    micros = F.unix_micros("ts")
    part = F.lit("test")
    for name in ("valid", "train", "mine"):
        part = F.when(micros < cuts[name], F.lit(name)).otherwise(part)
    return events.withColumn("part", part)


def _user_events() -> Column:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    return F.count("*").over(Window.partitionBy("user_id"))


def per_user(events: DataFrame, split: Split) -> DataFrame:
    """By (seq + .5) / n among the user's n events: ordered in time within each user only."""
    from pyspark.sql import functions as F

    place = (F.col("seq") + 0.5) / _user_events()
    part = F.lit("test")
    for name, end in (
        ("valid", split.mine + split.train + split.valid),
        ("train", split.mine + split.train),
        ("mine", split.mine),
    ):
        part = F.when(place < round(end, 9), F.lit(name)).otherwise(part)
    return events.withColumn("part", part)


def leave_last_n(events: DataFrame, split: Split) -> DataFrame:
    """Each user's last test_events, the valid_events before them, then train (earliest: mine)."""
    from pyspark.sql import functions as F

    rows = _user_events()
    to_go = rows - F.col("seq")  # 1 for the last event
    part = (
        F.when(to_go <= split.test_events, "test")
        .when(to_go <= split.test_events + split.valid_events, "valid")
        .when((F.col("seq") + 0.5) / rows < split.mine, "mine")
        .otherwise("train")
    )
    return events.withColumn("part", part)


def by_source(events: DataFrame, split: Split) -> DataFrame:
    """The part that the log itself names.

    Raises:
        ConfigError: a value is neither a part nor in split.column_values.
    """
    from pyspark.sql import functions as F

    unmapped = events.where(F.col("part_rank") < 0).groupBy("source_split").count()
    if seen := unmapped.orderBy(F.desc("count")).limit(10).collect():
        shown = ", ".join(f"{row['source_split']!r} ({row['count']} events)" for row in seen)
        raise ConfigError(
            f"split.column_values does not say which part these values mean: {shown}; map each "
            f'to one of {", ".join(PARTS)}, such as column_values = {{ holdout = "test" }}, or '
            "exclude the rows by log.rows"
        )
    return events.withColumn("part", part_of_source(F.col("source_split"), split))
