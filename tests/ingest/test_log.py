"""Logs of several files, rows that do not fit, and what the gates show of a log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qarm.errors import GateError, InputError
from qarm.stages import ingest

pytestmark = pytest.mark.spark

HEADER = "user_id,item_id,ts,click\n"
TRAIN = "u1,a,2024-01-01T00:00:00,1\nu1,b,2024-01-02T00:00:00,0\nu2,a,2024-01-02T00:00:00,1\n"
VALID = "u1,c,2024-01-03T00:00:00,1\n"
TEST = "u2,c,2024-01-04T00:00:00,1\nu1,a,2024-01-01T00:00:00,1\n"


def make_sections(tmp_path: Path, **files: str) -> dict[str, Any]:
    """A log of one file a part; a catalogue with the title that CSV makes hardest."""
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "items.csv").write_text('item_id,title\na,"The ""A"", or\nso"\nb,B\nc,C\n')
    return {
        "log": {"time_format": "iso", "labels": {"positive": "click = 1"}},
        "items": {"path": [str(tmp_path / "items.csv")], "title": "title"},
        "split": {
            "kind": "files",
            "files": {name: [str(tmp_path / f"{name}.csv")] for name in files},
        },
    }


def test_the_file_gives_the_part_and_malformed_rows_go_to_quarantine(
    make_context, tmp_path
) -> None:
    bad = "u1,Lamp, red,2024-01-01T00:00:00,1\nu1,a\n"
    files = {"train": HEADER + TRAIN + bad, "valid": HEADER + VALID, "test": HEADER + TEST}
    sections = make_sections(tmp_path, **files)
    with (tmp_path / "items.csv").open("a") as catalog:
        catalog.write("d,Lamp, green\n")
    context = make_context("ingest", **sections)
    result = ingest.run(context)
    for ledger in result.ledgers:
        ledger.close("ingest")
    log, items = result.ledgers
    assert (log.rows_in, log.rows_out) == (8, 5)
    # u1's event with a is in train and test: as a test event it is not trained on.
    assert log.dropped == {"malformed_row": 2, "exact_duplicate": 1, "merged_lines": 0}
    assert items.dropped == {"malformed_row": 1, "bad_id": 0, "null_item": 0, "duplicate_item": 0}
    assert result.facts["parts"] == {"train": 2, "valid": 1, "test": 2}
    assert result.facts["positives"] == {"train": 1, "valid": 1, "test": 2}
    found = {(r.user_id, r.item_id): r.part for r in context.table("event_splits").collect()}
    assert found == {
        ("u1", "a"): "test",
        ("u1", "b"): "train",
        ("u2", "a"): "train",
        ("u1", "c"): "valid",
        ("u2", "c"): "test",
    }
    titles = {r.item_id: r.title for r in context.table("items").collect()}
    assert titles == {"a": 'The "A", or\nso', "b": "B", "c": "C"}
    quarantine = context.table("quarantine").collect()
    malformed = [r for r in quarantine if r.reason == "malformed_row"]
    assert [r.table for r in malformed].count("items") == 1
    details = {r.detail for r in malformed if r.table == "interactions"}
    assert details == set(bad.splitlines())
    lost = next(r for r in quarantine if r.table == "items")
    assert "d,Lamp, green" in json.loads(lost.raw).values()


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        ("user_id,item_id,ts\n", "u2,c,2024-01-04T00:00:00\n", ["lacks ['click']"]),
        ("user_id,item_id,ts,clicked\n", TEST, ["lacks ['click']", "has ['clicked']"]),
        (
            HEADER,
            "u2,c,2024-01-04T00:00:00,yes\n",
            ["'click' is of type int in split.files.train", "type string in split.files.test"],
        ),
    ],
)
def test_parts_with_other_columns_are_refused(make_context, tmp_path, header, rows, words) -> None:
    sections = make_sections(tmp_path, train=HEADER + TRAIN, test=header + rows)
    with pytest.raises(InputError) as caught:
        ingest.run(make_context("ingest", **sections))
    for word in ["split.files.test", *words]:
        assert word in str(caught.value)


def test_a_gate_shows_what_it_saw(make_context, tmp_path) -> None:
    lines = "u1,1.0,2024-01-01T00:00:00,1\nu1,a,yesterday,1\n,a,2024-01-01T00:00:00,1\n"
    sections = make_sections(tmp_path)
    (tmp_path / "log.csv").write_text(HEADER + lines)
    sections["log"]["path"] = [str(tmp_path / "log.csv")]
    sections["split"] = {"kind": "leave_last_n", "valid_events": 0}
    context = make_context("ingest", **sections, gates={"max_quarantine_share": 1.0})
    with pytest.raises(GateError, match="none of the 3 log rows") as caught:
        ingest.run(context)
    message = str(caught.value)
    assert "unknown_item 1 (such as '1.0', the catalogue has ids such as 'a';" in message
    assert "unparsable_time 1 (such as 'yesterday'; see log.time and log.time_format)" in message
    assert "correct the source or these settings" in message
