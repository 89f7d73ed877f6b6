"""The error that each rank leaves in the work folder, and who left none.

A rank that fails by itself tells why. The others' next collective fails, or waits: they know that
someone is gone, and who it is shows by elimination, for a rank that was killed, or that takes no
part any more, leaves nothing.
"""

from __future__ import annotations

import json
import time
from typing import Any

from qarm.errors import QarmError
from qarm.lake import files
from qarm.training.collectives import RankLostError

_POLL_SECONDS = 0.2
_OTHERS_SECONDS = 3.0


def file_of(rank: int) -> str:
    """Name of the file with the error of ``rank``."""
    return f"failure-{rank}.json"


def clear(work_dir: str, world: int) -> None:
    """Remove what an earlier attempt left."""
    for rank in range(world):
        files.remove_tree(files.join(work_dir, file_of(rank)))


def record(work_dir: str, rank: int, error: BaseException, traceback: str) -> None:
    """Leave the error of this rank."""
    content = {
        "rank": rank,
        "time": time.time(),
        "type": type(error).__name__,
        "of_ours": isinstance(error, QarmError),
        # A collective that failed tells that another rank is gone, not why.
        "follows": isinstance(error, RankLostError),
        "message": str(error),
        "traceback": traceback,
    }
    files.write_text(files.join(work_dir, file_of(rank)), json.dumps(content))


def find(work_dir: str, world: int) -> list[dict[str, Any]]:
    """What ranks left: the first cause first, those that follow from it last."""
    found = []
    for rank in range(world):
        uri = files.join(work_dir, file_of(rank))
        if files.exists(uri):
            found.append(json.loads(files.read_text(uri)))
    return sorted(found, key=lambda failure: (failure["follows"], failure["time"]))


def silent(work_dir: str, world: int, seconds: float = _OTHERS_SECONDS) -> list[int]:
    """Ranks that left nothing within ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        there = set(files.list_dir(work_dir))
        missing = [rank for rank in range(world) if file_of(rank) not in there]
        if not missing or time.monotonic() >= end:
            return missing
        time.sleep(_POLL_SECONDS)


def named(ranks: list[int]) -> str:
    """Such as "rank 1" or "ranks 1, 3"."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
