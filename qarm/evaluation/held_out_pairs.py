"""Test pairs: item pairs that behaviour of the test period shows and that training did not know.

New-pair recall (``recall``) and agreement of codes (``code_pairs``) are measured on them. They are
mined once: stage quality saves them, and stage evaluate loads them unless something that they
depend on has changed since.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qarm.evaluation.estimates import GROUPS
from qarm.ingest.parts import with_part
from qarm.lake import files

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.config import Config
    from qarm.config.pairs import Pairs

U2I, SWING = "u2i", "swing"
#: Tables that test pairs are mined from; without id_vectors there are no User2Item pairs.
NEEDED_TABLES = ("interactions", "event_splits", "item_pairs")
TABLES = (*NEEDED_TABLES, "id_vectors")
#: Best Swing partners of each trigger that are taken from the test events.
SWING_TOP = 10
#: Artifact of stage quality: the file of the test pairs.
ARTIFACT, FILE = "test_pairs", "test_pairs.safetensors"
_ARRAYS = ("trigger", "target", "warm", "group")


@dataclass(frozen=True)
class TestPairs:
    """Distinct test pairs of one source. Their number is bounded, so they fit on the driver."""

    __test__ = False  # no test class

    trigger: NDArray[np.int64]
    """(pairs,) item_idx."""
    target: NDArray[np.int64]
    """(pairs,) item_idx."""
    warm: NDArray[np.bool_]
    """(pairs,) both items occur in a training pair."""
    group: NDArray[np.int64]
    """(pairs,) hash group of the trigger, for the jackknife."""
    mined: int = 0
    """Distinct pairs before any was removed."""
    dropped: dict[str, int] = field(default_factory=dict)
    """known_from_training, over_max_pairs."""

    def __len__(self) -> int:
        return len(self.trigger)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that the test pairs depend on."""

    pairs: Pairs
    """How training pairs are mined: u2i.window, swing and seed also apply to test pairs."""
    training_sources: Collection[str]
    """Pair sources of the alignment."""
    max_pairs: int
    """Upper bound on the pairs of each source, chosen by hash."""

    @classmethod
    def of(cls, config: Config) -> Settings:
        """The settings in ``config``."""
        return cls(
            pairs=config.pairs,
            training_sources=tuple(config.alignment.sources),
            max_pairs=config.evaluation.max_pairs,
        )

    def as_json(self) -> dict[str, object]:
        """Everything that changes the result, for a fingerprint."""
        return {
            "window": self.pairs.u2i.window,
            "swing": self.pairs.swing.model_dump(mode="json"),
            "seed": self.pairs.seed,
            "training_sources": sorted(self.training_sources),
            "max_pairs": self.max_pairs,
        }


def mine_test_pairs(tables: Mapping[str, DataFrame], settings: Settings) -> dict[str, TestPairs]:
    """Test pairs by source: User2Item and Swing.

    User2Item: targets are positive test events. The trigger is chosen by the ID vectors of the
    training period among the user's latest strictly earlier positives of any part, without a
    minimum similarity. Swing: mined from the positives of the test part alone with the settings of
    ``pairs.swing``; the ``SWING_TOP`` best of each trigger. A pair counts once, however many events
    support it. Pairs that training knows in either direction are removed.

    Args:
        tables: those of ``TABLES``; id_vectors may be missing.
        settings: see there.
    """
    from pyspark.sql import functions as F

    from qarm.pairs.swing import swing
    from qarm.pairs.user2item import user2item

    events = with_part(tables["interactions"].where("positive"), tables["event_splits"])
    events = events.select("user_idx", "item_idx", "ts", "weight", "part")
    known = _known(tables["item_pairs"], settings.training_sources)
    by_source: dict[str, TestPairs] = {}
    if "id_vectors" in tables:
        rows = user2item(
            events.withColumn("is_target", F.col("part") == "test").drop("part"),
            tables["id_vectors"].select("item_idx", "vector"),
            settings.pairs.u2i.window,
            -1.0,
        )
        by_source[U2I] = _unknown(rows, known, settings.max_pairs)
    test = events.where(F.col("part") == "test").drop("part")
    best = settings.pairs.swing.model_copy(update={"top_k": SWING_TOP})
    rows = swing(test, best, settings.pairs.seed)
    by_source[SWING] = _unknown(rows, known, settings.max_pairs)
    return by_source


def _known(item_pairs: DataFrame, training_sources: Collection[str]) -> DataFrame:
    """Distinct (trigger, target) of training, in both directions.

    From the sources that the encoder may have been trained on: User2Item and Swing, those of the
    alignment, and the user's own.
    """
    from pyspark.sql import functions as F

    sources = sorted({U2I, SWING, "user", *training_sources})
    pairs = item_pairs.where(F.col("source").isin(sources))
    one = pairs.select("trigger", "target")
    other = pairs.select(F.col("target").alias("trigger"), F.col("trigger").alias("target"))
    return one.unionByName(other).distinct()


def _unknown(pairs: DataFrame, known: DataFrame, max_pairs: int) -> TestPairs:
    from pyspark.sql import functions as F

    mined = pairs.select("trigger", "target").where("trigger <> target").distinct()
    marked = mined.join(known.withColumn("known", F.lit(True)), ["trigger", "target"], "left")
    marked = marked.withColumn("known", F.coalesce("known", F.lit(False))).persist()
    row = marked.agg(F.count("*").alias("mined"), F.count_if("known").alias("known")).first()
    assert row is not None
    items = known.select(F.col("trigger").alias("item")).distinct()
    new = marked.where(~F.col("known")).select("trigger", "target")
    for side in ("trigger", "target"):
        seen = items.select(F.col("item").alias(side), F.lit(True).alias(f"{side}_seen"))
        new = new.join(seen, side, "left")
    new = new.select(
        "trigger",
        "target",
        F.coalesce(F.col("trigger_seen") & F.col("target_seen"), F.lit(False)).alias("warm"),
        F.pmod(F.xxhash64("trigger"), F.lit(GROUPS)).alias("group"),
    )
    if row["mined"] - row["known"] > max_pairs:
        new = new.orderBy(F.xxhash64("trigger", "target"), "trigger", "target").limit(max_pairs)
    table = new.toArrow().sort_by([("trigger", "ascending"), ("target", "ascending")])
    marked.unpersist()
    return TestPairs(
        trigger=table["trigger"].to_numpy(),
        target=table["target"].to_numpy(),
        warm=table["warm"].to_numpy(),
        group=table["group"].to_numpy(),
        mined=row["mined"],
        dropped={
            "known_from_training": row["known"],
            "over_max_pairs": row["mined"] - row["known"] - table.num_rows,
        },
    )


def save(pairs: Mapping[str, TestPairs], uri: str) -> None:
    """Write test pairs as one safetensors file."""
    from safetensors.numpy import save as to_bytes

    arrays = {f"{s}.{n}": getattr(of, n) for s, of in pairs.items() for n in _ARRAYS}
    counts = {s: {"mined": of.mined, "dropped": of.dropped} for s, of in pairs.items()}
    files.write_bytes(uri, to_bytes(arrays, metadata={"pairs": json.dumps(counts)}))


def load(uri: str) -> dict[str, TestPairs]:
    """What ``save`` has written."""
    from safetensors.numpy import load as from_bytes

    with files.open_file(uri) as file:
        content = file.read()
    arrays = from_bytes(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    by_source = {}
    for source, counts in json.loads(header["__metadata__"]["pairs"]).items():
        trigger, target, warm, group = (arrays[f"{source}.{name}"] for name in _ARRAYS)
        by_source[source] = TestPairs(trigger, target, warm, group, **counts)
    return by_source
