"""The error that each rank leaves in the work folder, and which ranks left none.

A rank that fails by itself writes the cause. On the others the next collective then fails or does
not return: they know only that another rank is missing. A rank that was killed or that stalls
writes nothing, so it is identified by elimination.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from qarm.errors import QarmError
from qarm.lake import files
from qarm.training.collectives import RankLostError
from qarm.training.wire import from_json, to_json

_POLL_SECONDS = 0.2
_OTHERS_SECONDS = 3.0


@dataclass(frozen=True)
class Failure:
    """The error of one rank."""

    rank: int
    time: float
    """Seconds since 1970."""
    type: str
    """Name of the exception's class."""
    is_ours: bool
    """Whether the class is one of ``qarm.errors``."""
    is_consequence: bool
    """A collective failed: another rank is gone, and this error does not say why."""
    message: str
    traceback: str


def file_of(rank: int) -> str:
    """Name of the file with the error of ``rank``."""
    return f"failure-{rank}.json"


def clear(work_dir: str, world: int) -> None:
    """Remove what an earlier attempt left."""
    for rank in range(world):
        files.remove_tree(files.join(work_dir, file_of(rank)))


def record(work_dir: str, rank: int, error: BaseException, traceback: str) -> None:
    """Write the error of this rank."""
    failure = Failure(
        rank=rank,
        time=time.time(),
        type=type(error).__name__,
        is_ours=isinstance(error, QarmError),
        is_consequence=isinstance(error, RankLostError),
        message=str(error),
        traceback=traceback,
    )
    files.write_text(files.join(work_dir, file_of(rank)), to_json(failure))


def read(work_dir: str, world: int) -> list[Failure]:
    """What the ranks left: the first cause first, consequences last."""
    uris = [files.join(work_dir, file_of(rank)) for rank in range(world)]
    failures = [from_json(Failure, files.read_text(uri)) for uri in uris if files.exists(uri)]
    return sorted(failures, key=lambda failure: (failure.is_consequence, failure.time))


def silent(work_dir: str, world: int, seconds: float = _OTHERS_SECONDS) -> list[int]:
    """Ranks that left nothing within ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        present = set(files.list_dir(work_dir))
        missing = [rank for rank in range(world) if file_of(rank) not in present]
        if not missing or time.monotonic() >= end:
            return missing
        time.sleep(_POLL_SECONDS)


def named(ranks: list[int]) -> str:
    """Such as "rank 1" or "ranks 1, 3"."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
