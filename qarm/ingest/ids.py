"""Ids of users and items as text, whatever type their column has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column

#: Whole numbers from here on are not distinct in the type: an id there may be another's.
_EXACT = {"float": 2**24, "double": 2**53}


def id_text(value: Column, kind: str, null_words: Sequence[str] = ()) -> Column:
    """The id as text; null where there is none, or where ``bad_id`` gives a reason.

    Text stays unchanged, spaces included. Whole numbers of type float, double or decimal are
    written without exponent and fraction: 10000011, not 1.0000011E7.

    Args:
        value: the column.
        kind: its Spark SQL type.
        null_words: texts, of any case, that mean that there is no id, such as ``nan``.
    """
    from pyspark.sql import functions as F

    if kind in _EXACT:
        return F.when(_whole(value, kind), value.cast("decimal(20,0)").cast("string"))
    if kind.startswith("decimal"):
        digits = kind.removeprefix("decimal(").split(",")[0]
        return F.when(_whole(value, kind), value.cast(f"decimal({digits},0)").cast("string"))
    text = value.cast("string")
    usable = F.length(F.trim(text)) > 0
    if kind == "string":
        usable = usable & ~_is_object(text)
        if null_words:
            words = [word.lower() for word in null_words]
            usable = usable & ~F.lower(F.trim(text)).isin(*words)
    return F.when(usable, text)


def bad_id(value: Column, kind: str) -> Column:
    """The value as text where it is no id: a fraction, a number too large to be exact, an object.

    Null for all others, also for those that ``id_text`` takes for no id.
    """
    from pyspark.sql import functions as F

    text = value.cast("string")
    if kind in _EXACT:
        return F.when(value.isNotNull() & ~F.isnan(value) & ~_whole(value, kind), text)
    if kind.startswith("decimal"):
        return F.when(value.isNotNull() & ~_whole(value, kind), text)
    if kind == "string":
        return F.when(_is_object(text), text)
    return F.lit(None).cast("string")


def _whole(value: Column, kind: str) -> Column:
    """Whether a number is whole, and exact in its type."""
    from pyspark.sql import functions as F

    if kind in _EXACT:
        return (F.abs(value) < _EXACT[kind]) & (value == F.floor(value))
    return value == F.floor(value)


def _is_object(text: Column) -> Column:
    """Whether the text is a JSON object: a column of JSON lines that mixes text and objects."""
    from pyspark.sql import functions as F

    return text.startswith("{") & F.get_json_object(text, "$").isNotNull()
