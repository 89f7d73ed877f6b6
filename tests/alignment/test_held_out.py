"""Recall on held-out pairs against a ranking by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from qarm.alignment import held_out
from qarm.alignment.held_out import METRIC, HeldOutPairs
from qarm.encoders.fusion import ItemBatch

ITEMS, DIMENSIONS = 300, 4


class Store:
    """Items are their own rows."""

    def __len__(self) -> int:
        return ITEMS

    def rows_of(self, items: np.ndarray) -> np.ndarray:
        return items

    def batch(self, rows: np.ndarray) -> ItemBatch:
        return ItemBatch(len(rows), {"row": torch.from_numpy(rows)})


class Encoder(torch.nn.Module):
    """A vector per row; in training mode (dropout) the vectors are useless."""

    finetune = ()
    config = SimpleNamespace(dimensions=DIMENSIONS)

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.empty = torch.nn.Parameter(torch.zeros(DIMENSIONS))
        self.table = table

    def forward(self, batch: ItemBatch) -> torch.Tensor:
        return self.table[batch.features["row"]] * (0 if self.training else 1)


@pytest.fixture
def pair_files(tmp_path) -> list[str]:
    rng = np.random.default_rng(0)
    uris = []
    for number, rows in enumerate((40, 0, 700)):
        path = str(tmp_path / str(number))
        columns = {name: rng.integers(0, ITEMS, rows) for name in ("trigger", "target")}
        columns["target"] = np.where(
            columns["target"] == columns["trigger"],
            (columns["target"] + 1) % ITEMS,
            columns["target"],
        )
        parquet.write_table(pa.table(columns), path)
        uris.append(path)
    return uris


def all_pairs(uris: list[str]) -> list[tuple[int, int]]:
    rows = pa.concat_tables([parquet.read_table(uri) for uri in uris])
    return list(zip(rows["trigger"].to_pylist(), rows["target"].to_pylist(), strict=True))


def recall_by_hand(table: torch.Tensor, pairs, candidates) -> float:
    hits = 0
    for trigger, target in pairs:
        score = table[candidates] @ table[trigger]
        own = float(table[target] @ table[trigger])
        rivals = [
            c
            for c, s in zip(candidates, score.tolist(), strict=True)
            if c not in (trigger, target) and s >= own
        ]
        hits += len(rivals) < 50
    return hits / len(pairs)


def drawn() -> torch.Tensor:
    """Small integers: scores are exact, and there are ties."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-3, 4, (ITEMS, DIMENSIONS), generator=generator).float()


def test_recall_follows_the_definition(pair_files) -> None:
    pairs = HeldOutPairs(pair_files, Store(), 10_000, ITEMS)
    assert len(pairs) == 740
    assert pairs.candidates.tolist() == list(range(ITEMS))
    table = drawn()
    recall = pairs.recall(Encoder(table))
    expected = recall_by_hand(table, all_pairs(pair_files), list(range(ITEMS)))
    assert 0.05 < expected < 0.5
    assert recall == {METRIC: pytest.approx(expected, abs=1e-12)}


def test_pairs_and_candidates_are_limited(pair_files) -> None:
    pairs = HeldOutPairs(pair_files, Store(), 60, 10)
    chosen = all_pairs(pair_files)[:60]
    assert list(zip(pairs.triggers.tolist(), pairs.targets.tolist(), strict=True)) == chosen
    spread = {int(299 * n / 9) for n in range(10)}
    assert set(pairs.candidates.tolist()) == spread | {item for pair in chosen for item in pair}
    table = drawn()
    expected = recall_by_hand(table, chosen, pairs.candidates.tolist())
    assert pairs.recall(Encoder(table))[METRIC] == pytest.approx(expected, abs=1e-12)


def test_limit_at_the_end_of_a_file(pair_files) -> None:
    assert len(HeldOutPairs(pair_files, Store(), 40, 10)) == 40


def test_equal_vectors_are_all_misses(pair_files) -> None:
    """A collapsed encoder must not look perfect."""
    pairs = HeldOutPairs(pair_files, Store(), 100, ITEMS)
    assert pairs.recall(Encoder(torch.ones(ITEMS, DIMENSIONS))) == {METRIC: 0.0}


def test_no_pairs() -> None:
    assert HeldOutPairs([], Store(), 10, 10).recall(Encoder(drawn())) == {METRIC: 0.0}


@pytest.mark.parametrize("training", [True, False])
def test_the_encoder_keeps_its_mode(pair_files, training: bool) -> None:
    encoder = Encoder(drawn()).train(training)
    recall = HeldOutPairs(pair_files, Store(), 100, ITEMS).recall(encoder)
    assert recall[METRIC] > 0, "encoded without dropout"
    assert encoder.training is training


def test_ranks_share_candidates_and_pairs(pair_files, monkeypatch) -> None:
    """Three ranks, one after the other; what each contributes adds up to the whole."""
    pairs, encoder = HeldOutPairs(pair_files, Store(), 500, ITEMS), Encoder(drawn())
    expected = pairs.recall(encoder)[METRIC]
    shares: list[torch.Tensor] = []
    hits = []
    monkeypatch.setattr(held_out.collectives, "size", lambda: 3)
    monkeypatch.setattr(held_out.collectives, "gather", lambda own: shares.append(own) or own)
    for rank in range(3):
        monkeypatch.setattr(held_out.collectives, "rank", lambda rank=rank: rank)
        pairs._candidate_vectors(encoder)
    whole = torch.cat(shares)
    assert len(whole) == len(pairs.candidates)
    monkeypatch.setattr(held_out.collectives, "gather", lambda own: whole)
    monkeypatch.setattr(held_out.collectives, "allreduce_sum", lambda h: hits.append(int(h)) or h)
    for rank in range(3):
        monkeypatch.setattr(held_out.collectives, "rank", lambda rank=rank: rank)
        pairs.recall(encoder)
    assert sum(hits) / 500 == expected
