"""Dataclasses to JSON and back."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from qarm.config.training import Loader
from qarm.lake.tables import TableRef
from qarm.training.settings import FitConfig
from qarm.training.wire import from_json, to_json


@dataclass(frozen=True)
class Inner:
    """Numbers whose bits count."""

    values: list[float]


@dataclass(frozen=True)
class Outer:
    """One of everything."""

    inner: Inner
    loader: Loader
    by_name: dict[str, Inner] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)
    optional: str | None = None


def test_nested_dataclasses_and_sections_come_back_equal() -> None:
    value = Outer(
        Inner([0.1 + 0.2, 5e-324, -1.7976931348623157e308, math.inf]),
        Loader(shards=3),
        {"b": Inner([1.0]), "a": Inner([])},
        {"list": [1, "two", None]},
    )
    back = from_json(Outer, to_json(value))
    assert back == value
    assert isinstance(back.loader, Loader)
    (nan,) = from_json(Inner, to_json(Inner([math.nan]))).values
    assert math.isnan(nan)


def test_the_configuration_of_a_run_crosses_the_border() -> None:
    config = FitConfig(epochs=3, seed=2**40, tables={"t": TableRef("t", "file:///t", 4)})
    assert from_json(FitConfig, to_json(config)) == config
    assert config.manifest["tables"]["t"]["version"] == 4


def test_equal_values_have_equal_texts() -> None:
    value = Outer(Inner([]), Loader(), {"a": Inner([]), "b": Inner([])})
    turned = replace(value, by_name={"b": Inner([]), "a": Inner([])})
    assert to_json(value) == to_json(turned)


def test_a_missing_field_is_named() -> None:
    content = json.loads(to_json(Outer(Inner([]), Loader())))
    del content["inner"]
    with pytest.raises(ValueError, match=r"inner\n.*[Mm]issing"):
        from_json(Outer, json.dumps(content))
