"""Reading ahead on a thread."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import closing

import pytest

from qarm.training import prefetch
from qarm.training.prefetch import Prefetch


def priorities():
    """Of the thread that runs this, and of one that it starts."""
    found = []

    def look() -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    look()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    yield tuple(found)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows priorities of threads")
def test_threads_that_read_ahead_have_a_lower_priority() -> None:
    own = next(priorities())
    if own[0] >= prefetch._NICE:
        pytest.skip("these tests have a low priority themselves")
    with closing(Prefetch(priorities(), 1)) as ahead:
        (found,) = ahead
    assert min(found) > own[0]
    assert next(priorities()) == own


def test_errors_arrive_where_the_item_would() -> None:
    def source():
        yield 1
        raise ValueError("the second is bad")

    with closing(Prefetch(source(), 4)) as ahead:
        items = iter(ahead)
        assert next(items) == 1
        with pytest.raises(ValueError, match="the second is bad"):
            next(items)
