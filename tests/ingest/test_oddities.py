"""What is legal but odd is counted and said; a gate can stop on it."""

from __future__ import annotations

from datetime import datetime

import pytest

from qarm.config.gates import Gates
from qarm.errors import GateError
from qarm.ingest import oddities
from qarm.ingest.times import micros_of

NOW = micros_of(datetime(2024, 1, 1))
DAY = 86_400_000_000


def _part(positives: int = 3, first: int = NOW, last: int = NOW + DAY) -> dict[str, int]:
    return {"rows": 5, "positives": positives, "first": first, "last": last}


def _names(parts: dict[str, dict[str, int]], counts: list[int], days: int = 1) -> list[str]:
    over_time = {"counts": counts, "bucket_days": days}
    return [each.name for each in oddities.of_log(parts, over_time, "positive")]


def test_an_ordinary_log_has_none() -> None:
    assert _names({"train": _part(), "test": _part()}, [3, 0, 7]) == []
    assert oddities.of_text(0, None) == []


def test_labels_and_times() -> None:
    assert _names({"train": _part(), "test": _part(positives=0)}, [3]) == ["no_positive"]
    whole = oddities.of_log({"train": _part(positives=0)}, None, "buys")
    assert whole[0].text == "no event is positive in any part; check log.labels.buys"
    assert _names({"train": _part(first=5, last=9 * DAY)}, [3]) == ["times_of_1970"]
    assert _names({"train": _part(last=NOW)}, [5]) == ["one_time"]
    assert _names({"train": _part()}, [3, *[0] * 40, 7], days=100) == ["gap_in_time"]
    assert _names({"train": _part()}, [3, *[0] * 30, 7, *[0] * 30, 1], days=100) == []


@pytest.mark.spark
def test_ids_that_look_alike(spark) -> None:
    ids = ["u1", "u1 ", "U1", "u2", "caf\u00e9", "cafe\u0301", "\u00a0u2"]
    df = spark.createDataFrame([(each,) for each in ids], "user_id string")
    (found,) = oddities.of_ids({"users": df})
    assert (found.name, found.count) == ("similar_users", 7)
    assert "'U1' and 'u1 '" in found.text
    (found,) = oddities.of_ids({"users": df.where("user_id LIKE 'caf%'")})
    assert "'cafe\u0301' and 'caf\u00e9'" in found.text
    few = df.where("user_id in ('u1', 'u2')")
    assert oddities.of_ids({"users": few}) == []
    (found,) = oddities.of_ids({"users": few, "items": df.withColumnRenamed("user_id", "item_id")})
    assert found.name == "similar_items"


def test_a_gate_stops_on_what_it_names() -> None:
    found = oddities.of_text(3, "Gr\ufffde")
    oddities.check(Gates(stop_on=["no_positive"]), found)
    with pytest.raises(GateError, match=r"replacement_characters: 3 items have U\+FFFD .* 'Gr"):
        oddities.check(Gates(stop_on=["replacement_characters"]), found)
