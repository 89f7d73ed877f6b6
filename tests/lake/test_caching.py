"""Frames that are kept while a block runs."""

from __future__ import annotations

import pytest

from qarm.lake.caching import Keeper

pytestmark = pytest.mark.spark


def test_frames_are_freed_at_the_end_of_the_block(spark) -> None:
    with Keeper() as keep:
        frame = keep(spark.range(3))
        assert frame.storageLevel.useMemory
        assert frame.storageLevel.useDisk
    assert not frame.storageLevel.useMemory


def test_frames_are_freed_after_an_error(spark) -> None:
    frame = spark.range(3)
    with pytest.raises(ZeroDivisionError), Keeper() as keep:
        keep(frame).foreach(1 / 0)
    assert not frame.storageLevel.useMemory
