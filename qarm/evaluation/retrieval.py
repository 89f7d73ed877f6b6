"""Rank of each test pair's target among all candidates, by cosine to the trigger.

The test pairs are bounded and broadcast to the tasks. The catalogue streams through the tasks in
tiles and is never collected: each task counts its candidates above the target of each pair, and the
counts are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qarm.evaluation.nearest_items import tiles
from qarm.evaluation.vectors import Spaces

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

#: Cosines closer than this are ties: float32 sums of differently shaped tiles round differently.
TIE = 1e-6
#: Cosines that a task holds at once (32 MiB).
TILE = 1 << 23


@dataclass(frozen=True)
class Ranks:
    """Ranks of the targets of (pairs,) in one space."""

    ranked: NDArray[np.bool_]
    """Whether trigger and target both have a vector; a pair without is a miss."""
    above: NDArray[np.int64]
    """Candidates with a larger cosine, not counting trigger and target."""
    tied: NDArray[np.int64]
    """Other candidates with the same cosine."""

    def hits(self, k: int) -> NDArray[np.float64]:
        """(pairs,) probability that the target is among the first k, ties in random order."""
        chance = np.clip((k - self.above) / (self.tied + 1), 0.0, 1.0)
        return np.where(self.ranked, chance, 0.0)

    def part(self, start: int, stop: int) -> Ranks:
        """Ranks of the pairs from ``start`` to before ``stop``."""
        some = slice(start, stop)
        return Ranks(self.ranked[some], self.above[some], self.tied[some])


@dataclass(frozen=True)
class _Query:
    """The pairs in one space as the tasks need them, sorted by trigger."""

    triggers: NDArray[np.float32]
    """(triggers, d) unit vectors."""
    trigger_items: NDArray[np.int64]
    """(triggers,) ascending item_idx."""
    row: NDArray[np.int64]
    """(pairs,) each pair's row of ``triggers``, ascending."""
    threshold: NDArray[np.float32]
    """(pairs,) cosine of trigger and target."""
    pair: NDArray[np.int64]
    """(pairs,) number of the pair."""


def rank_targets(
    trigger: NDArray[np.int64],
    target: NDArray[np.int64],
    catalogue: DataFrame,
    spaces: Spaces,
) -> dict[str, Ranks]:
    """Ranks of the targets in every space.

    Items without a vector in a space rank behind all others there, and pairs with such an item are
    misses.

    Args:
        trigger: (pairs,) item_idx.
        target: (pairs,) item_idx, other than the trigger.
        catalogue: one row per candidate, see ``vectors.wide_rows``; includes triggers and targets.
        spaces: see ``vectors.fit_spaces``.
    """
    from pyspark.sql import functions as F

    spark = catalogue.sparkSession
    wanted = np.unique(np.concatenate([trigger, target]))
    ids = spark.createDataFrame(pa.table({"item_idx": wanted}))
    columns = ["item_idx", *spaces.centres]
    known = catalogue.select(*columns).join(F.broadcast(ids), "item_idx").toArrow()
    known = known.sort_by("item_idx")
    queries, ranked = _queries(trigger, target, known, spaces)

    above = {name: np.zeros(len(trigger), np.int64) for name in spaces.names}
    tied = {name: np.zeros(len(trigger), np.int64) for name in spaces.names}
    shared = spark.sparkContext.broadcast((spaces, queries))

    def task(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from count_above(batches, *shared.value)

    counts = (
        catalogue.select(*columns)
        .mapInArrow(task, "space int, pair bigint, above bigint, not_below bigint")
        .groupBy("space", "pair")
        .agg(F.sum("above").alias("above"), F.sum("not_below").alias("not_below"))
        .toArrow()
    )
    shared.destroy()
    number, pair = counts["space"].to_numpy(), counts["pair"].to_numpy()
    for i, name in enumerate(spaces.names):
        of = number == i
        above[name][pair[of]] = counts["above"].to_numpy()[of]
        # The target ties with itself.
        tied[name][pair[of]] = (counts["not_below"].to_numpy() - counts["above"].to_numpy())[of] - 1
    return {name: Ranks(ranked[name], above[name], tied[name]) for name in spaces.names}


def _queries(
    trigger: NDArray[np.int64], target: NDArray[np.int64], known: pa.Table, spaces: Spaces
) -> tuple[dict[str, _Query], dict[str, NDArray[np.bool_]]]:
    items = known["item_idx"].to_numpy()
    at_trigger, at_target = np.searchsorted(items, trigger), np.searchsorted(items, target)
    order = np.argsort(trigger, kind="stable")
    queries: dict[str, _Query] = {}
    ranked: dict[str, NDArray[np.bool_]] = {}
    for name, space in spaces.of(known).items():
        ranked[name] = space.there[at_trigger] & space.there[at_target]
        pair = order[ranked[name][order]]
        rows, row = np.unique(at_trigger[pair], return_inverse=True)
        threshold = np.empty(len(pair), np.float32)
        for start in range(0, len(pair), 1 << 14):  # avoids (pairs, d) copies of all pairs
            some = pair[start : start + (1 << 14)]
            threshold[start : start + len(some)] = np.einsum(
                "pd,pd->p",
                space.matrix[at_trigger[some]],
                space.matrix[at_target[some]],
                dtype=np.float64,
            )
        queries[name] = _Query(space.matrix[rows], items[rows], row, threshold, pair)
    return queries, ranked


def count_above(
    batches: Iterable[pa.RecordBatch], spaces: Spaces, queries: Mapping[str, _Query]
) -> Iterator[pa.RecordBatch]:
    """One task: candidates above each pair's target, and those not below it (target included)."""
    import torch

    torch.set_num_threads(1)  # one thread per Spark task
    above = {name: np.zeros(len(q.pair), np.int64) for name, q in queries.items()}
    not_below = {name: np.zeros(len(q.pair), np.int64) for name, q in queries.items()}
    for batch in batches:
        items = batch["item_idx"].to_numpy()
        for name, space in spaces.of(batch).items():
            there = np.flatnonzero(space.there)
            query = queries[name]
            if not len(there) or not len(query.pair):
                continue
            candidates = torch.from_numpy(space.matrix[there]).T
            for some in tiles(len(query.pair), len(there), TILE):
                row = query.row[some]
                first = row[0]
                block = torch.from_numpy(query.triggers[first : row[-1] + 1])
                cosines = block @ candidates
                _leave_out(cosines, query.trigger_items[first : row[-1] + 1], items[there])
                each = cosines[torch.from_numpy(row - first)]
                threshold = torch.from_numpy(query.threshold[some])[:, None]
                above[name][some] += (each > threshold + TIE).sum(1).numpy()
                not_below[name][some] += (each >= threshold - TIE).sum(1).numpy()
    for number, name in enumerate(spaces.names):
        there = np.flatnonzero(not_below[name])
        yield pa.RecordBatch.from_pydict(
            {
                "space": pa.array(np.full(len(there), number), pa.int32()),
                "pair": queries[name].pair[there],
                "above": above[name][there],
                "not_below": not_below[name][there],
            }
        )


def _leave_out(cosines, triggers: NDArray[np.int64], items: NDArray[np.int64]) -> None:  # type: ignore[no-untyped-def]
    """Exclude the trigger from its own candidates: its cosine becomes -2, below all."""
    column = np.argsort(items)
    place = np.searchsorted(items, triggers, sorter=column).clip(max=len(items) - 1)
    same = items[column[place]] == triggers
    cosines[np.flatnonzero(same), column[place[same]]] = -2.0
