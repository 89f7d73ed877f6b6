"""Content of items: title, text, attributes, audio, image, and a hash over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from qarm.config.items import ItemSource
from qarm.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pyspark.sql import Column

#: Columns of table items that content_hash covers.
CONTENT = ("title", "text", "image", "image_uri", "audio", "attributes")
_TEXT_SEPARATOR = ". "


def source_columns(items: ItemSource) -> dict[str, str]:
    """Setting -> column of the source, for every column that describes the item."""
    columns = {} if items.title is None else {"items.title": items.title}
    columns |= {f"items.text[{i}]": name for i, name in enumerate(items.text)}
    columns |= {f"items.attributes.{name}": source for name, source in items.attributes.items()}
    columns |= {
        f"items.numeric_attributes.{name}": items.attributes.get(name, name)
        for name in items.numeric_attributes
    }
    for field in ("image", "audio"):
        if (source := getattr(items, field)) is not None:
            columns[f"items.{field}"] = source
    return columns


def described(
    items: ItemSource, kinds: Mapping[str, str], column: Callable[[str], Column]
) -> dict[str, Column]:
    """Columns title, text, attributes, audio, and either image (bytes) or image_uri, unchecked.

    Args:
        items: the configuration.
        kinds: column of the source -> Spark SQL type.
        column: column of the source by name.

    Raises:
        InputError: a column has a type that cannot be used.
        ConfigError: bin edges that do not ascend, or a separator without its attribute.
    """
    from pyspark.sql import functions as F

    null = F.lit(None)
    image, uri = null.cast("binary"), null.cast("string")
    if items.image is not None:
        kind = kinds[items.image]
        if kind not in ("binary", "string"):
            raise InputError(
                f"items.image: column {items.image!r} is of type {kind}, expected bytes or a path"
            )
        if kind == "binary":
            value = column(items.image)
            image = F.when(F.length(value) > 0, value)
        else:
            uri = _trimmed(column(items.image))
    for field, name in source_columns(items).items():
        kind = kinds[name].removeprefix("array<")
        if field.startswith(("items.image", "items.audio")):
            continue
        if kind.startswith(("struct", "map", "binary", "array")):
            raise InputError(
                f"{field}: column {name!r} is of type {kinds[name]}, expected text, numbers, or a "
                "list of these; name a column of the field that is wanted"
            )
    return {
        "title": _trimmed(column(items.title)) if items.title else null.cast("string"),
        "text": joined_text([_text(column(name), kinds[name]) for name in items.text]),
        "attributes": _attributes(items, kinds, column),
        "audio": _audio(items, kinds, column),
        "image": image,
        "image_uri": uri,
    }


def joined_text(columns: list[Column]) -> Column:
    """The texts in order without nulls, separated by a full stop unless a text ends with one."""
    from pyspark.sql import functions as F

    if not columns:
        return F.lit(None).cast("string")
    clean = [F.regexp_replace(c, r"[\s.]+$", "") for c in columns[:-1]] + [columns[-1]]
    return _trimmed(F.concat_ws(_TEXT_SEPARATOR, *[_trimmed(c) for c in clean]))


def _text(value: Column, kind: str) -> Column:
    from pyspark.sql import functions as F

    return F.concat_ws(", ", value.cast("array<string>")) if kind.startswith("array<") else value


def _attributes(
    items: ItemSource, kinds: Mapping[str, str], column: Callable[[str], Column]
) -> Column:
    from pyspark.sql import functions as F

    if stray := set(items.attribute_separator) - set(items.attributes):
        raise ConfigError(
            f"items.attribute_separator names {sorted(stray)}, which are not among "
            f"items.attributes {sorted(items.attributes)}"
        )
    values: dict[str, Column] = {}
    for name, source in items.attributes.items():
        if name not in items.numeric_attributes:
            separator = items.attribute_separator.get(name)
            values[name] = _values(column(source), kinds[source], separator)
    for name, edges in items.numeric_attributes.items():
        number = column(items.attributes.get(name, name)).try_cast("double")
        label = binned(number, edges, f"items.numeric_attributes.{name}")
        values[name] = F.when(label.isNotNull(), F.array(label))
    if not values:
        return F.lit(None).cast("map<string,array<string>>")
    pairs = [part for name, value in values.items() for part in (F.lit(name), value)]
    filled = F.map_filter(F.create_map(*pairs), lambda _, v: v.isNotNull() & (F.size(v) > 0))
    return F.when(F.size(filled) > 0, filled)


def _values(value: Column, kind: str, separator: str | None) -> Column:
    """Distinct non-blank values, in order."""
    from pyspark.sql import functions as F

    if kind in ("float", "double"):
        value = F.when(~F.isnan(value), value)
    if kind.startswith("array<"):
        parts = value.cast("array<string>")
    elif separator is None:
        parts = F.array(value.cast("string"))
    else:
        parts = F.split(value.cast("string"), separator)
    trimmed = F.transform(parts, lambda v: F.trim(v))
    return F.array_distinct(F.filter(trimmed, lambda v: F.length(v) > 0))


def binned(number: Column, edges: list[float], field: str) -> Column:
    """The bin of a number as text, such as ``[1,2)``; null for null and NaN.

    Raises:
        ConfigError: the edges do not ascend.
    """
    from pyspark.sql import functions as F

    if not edges or any(a >= b for a, b in pairwise(edges)):
        raise ConfigError(f"{field} = {edges} must be ascending bin edges")
    label = F.when(F.isnan(number), F.lit(None)).when(number < edges[0], f"(-inf,{edges[0]:g})")
    for low, high in pairwise(edges):
        label = label.when(number < high, f"[{low:g},{high:g})")
    return label.when(number >= edges[-1], f"[{edges[-1]:g},inf)")


def _audio(items: ItemSource, kinds: Mapping[str, str], column: Callable[[str], Column]) -> Column:
    from pyspark.sql import functions as F

    if items.audio is None:
        return F.lit(None).cast("array<float>")
    kind, value = kinds[items.audio], column(items.audio)
    if kind == "string":  # CSV has no arrays: [0.1, 0.2]
        return F.from_json(value, "array<float>")
    if kind.startswith("array<") and kind[6:-1].split("(")[0] in (
        *("tinyint", "smallint", "int", "bigint", "float", "double", "decimal", "string"),
    ):
        return F.transform(value, lambda x: x.try_cast("float"))
    raise InputError(
        f"items.audio: column {items.audio!r} is of type {kind}, expected an array of numbers"
    )


def not_finite(vector: Column) -> Column:
    """Whether a vector is empty or holds null, NaN or infinity."""
    from pyspark.sql import functions as F

    bad = F.exists(vector, lambda x: x.isNull() | F.isnan(x) | (F.abs(x) == float("inf")))
    return (F.size(vector) == 0) | bad


def content_hash(column: Callable[[str], Column] | None = None) -> Column:
    """SHA-256 over all content columns; without ``column``, the hash of an item without content."""
    from pyspark.sql import functions as F

    values = []
    for name in CONTENT:
        if column is None:
            value = F.lit(None).cast("string")
        else:
            value = F.sha2(column(name), 256) if name == "image" else column(name)
        values.append(value.alias(name))
    return F.sha2(F.to_json(F.struct(*values)), 256)


def _trimmed(column: Column) -> Column:
    """The column as trimmed text; empty text becomes null."""
    from pyspark.sql import functions as F

    text = F.trim(column.cast("string"))
    return F.when(F.length(text) > 0, text)
