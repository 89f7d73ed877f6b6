"""The settings reference: each setting with its default and its meaning."""

from __future__ import annotations

import textwrap
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from qarm.config.load import Config
from qarm.errors import ConfigError


def describe(section: str | None = None) -> str:
    """All settings as text, or those of one section such as ``ranker``.

    Raises:
        ConfigError: there is no such section.
    """
    if section is None:
        return "\n".join(_lines(Config, ""))
    if section not in Config.model_fields:
        raise ConfigError(f"no section {section!r}; sections: {', '.join(Config.model_fields)}")
    kind = Config.model_fields[section].annotation
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "\n".join(_lines(kind, f"{section}."))
    return "\n".join(_field(Config.model_fields[section], section))


def _lines(model: type[BaseModel], prefix: str) -> list[str]:
    lines: list[str] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            doc = (kind.__doc__ or "").strip().splitlines()
            lines += ["", f"[{prefix}{name}]  {doc[0] if doc else ''}"]
            lines += _lines(kind, f"{prefix}{name}.")
        else:
            lines += _field(field, f"{prefix}{name}")
    return lines


def _field(field: FieldInfo, name: str) -> list[str]:
    default: Any = field.get_default(call_default_factory=True)
    choices = [str(a) for a in get_args(field.annotation) if isinstance(a, str)]
    one_of = f"  one of {', '.join(choices)}" if choices else ""
    text = " ".join((field.description or "").split())
    return [
        f"{name} = {default!r}{one_of}",
        *textwrap.wrap(text, 96, initial_indent="    ", subsequent_indent="    "),
    ]
