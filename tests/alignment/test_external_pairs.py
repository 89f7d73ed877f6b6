"""The example of docs/your-data.md: pairs of the user's own by the source's ids, and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qarm.errors import InputError
from qarm.pipeline import own_tables
from qarm.pipeline.context import Context
from qarm.stages.train_alignment import _write_pairs
from tests.lakes.alignment import ITEMS, catalogue

pytestmark = pytest.mark.spark


def test_pairs_of_the_users_own_are_trained_on(
    world: Callable[..., None],
    make_context: Callable[..., Context],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world()
    ids = [row["item_id"] for row in catalogue()]
    targets = [ids[(i + 6) % ITEMS] for i in range(ITEMS)] + [ids[ITEMS]]
    own = {"trigger_item_id": [*ids[:ITEMS], ids[0]], "target_item_id": targets}
    path = str(tmp_path / "own.parquet")
    pq.write_table(pa.table(own), path)
    context = make_context(
        "train-alignment",
        external={"tables": {"item_pairs": path}},
        alignment={"valid_share": 0.1},
    )
    own_tables.adopt(context)
    ledger, files = _write_pairs(context)
    assert ledger.rows_in == ITEMS + 1
    assert ledger.dropped["removed_item"] == 1
    assert "other_source" not in ledger.dropped
    assert ledger.rows_out > 0.7 * ITEMS
    assert files["train"]
    table = context.table("alignment_pairs").collect()
    assert {(r.source, r.weight) for r in table} == {("user", 1.0)}
    said = capsys.readouterr()
    assert "have none of alignment.sources (u2i, swing)" in said.out + said.err
    assert "user (share 1)" in said.out + said.err


def test_pairs_of_ours_are_not_taken_for_others(
    world: Callable[..., None], make_context: Callable[..., Context]
) -> None:
    """Only a table of the user's own changes what alignment.sources means."""
    world()
    context = make_context("train-alignment", alignment={"sources": {"user": 1.0}})
    with pytest.raises(InputError, match=r"\['user'\], item_pairs has itemcf \(1 rows\), swing \("):
        _write_pairs(context)
