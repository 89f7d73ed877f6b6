"""Dataclasses as JSON: the form in which tasks, results and errors travel between processes."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

T = TypeVar("T")


def to_json(value: Any) -> str:
    """A dataclass (fields may be configuration sections) as JSON with sorted keys.

    NaN and infinity are written as such, and floats so that they come back with equal bits.
    """
    return json.dumps(to_jsonable_python(value), indent=1, sort_keys=True)


def from_json(kind: type[T], text: str) -> T:
    """Inverse of ``to_json``.

    Args:
        kind: the dataclass; its fields' types must exist at run time, not for type checkers only.

    Raises:
        ValueError: the text is not JSON, or a field is missing or of another type.
    """
    return TypeAdapter(kind).validate_python(json.loads(text))
