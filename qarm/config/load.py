"""The configuration tree, and reading it from TOML with overrides."""

from __future__ import annotations

import difflib
import hashlib
import json
import posixpath
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError, model_validator

from qarm.config.alignment import Alignment
from qarm.config.codes import Codes
from qarm.config.encoder import Encoder
from qarm.config.evaluation import Evaluation
from qarm.config.external import External
from qarm.config.gates import Gates
from qarm.config.items import ItemSource
from qarm.config.log import LogSource
from qarm.config.pairs import Pairs
from qarm.config.ranker import Ranker
from qarm.config.samples import Samples
from qarm.config.section import Section
from qarm.config.split import Split
from qarm.config.training import Loader, Training
from qarm.errors import ConfigError


class Config(Section):
    """The whole configuration."""

    name: str = "qarm"
    """Name of the run, for the titles of sessions and reports."""
    lake: str = "lake"
    """URI of the folder for all tables and artifacts, relative to the working directory."""
    spark: dict[str, str] = {}
    """Spark settings of sessions that the command line opens; under spark-submit, use its
    options."""
    log: LogSource = LogSource()
    items: ItemSource = ItemSource()
    split: Split = Split()
    gates: Gates = Gates()
    external: External = External()
    pairs: Pairs = Pairs()
    encoder: Encoder = Encoder()
    alignment: Alignment = Alignment()
    codes: Codes = Codes()
    samples: Samples = Samples()
    ranker: Ranker = Ranker()
    loader: Loader = Loader()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

    def source_uris(self) -> list[str]:
        """Files of the log, the split and the catalogue, as configured."""
        split = [uri for uris in self.split.files.values() for uri in uris]
        return [*self.log.path, *split, *self.items.path]

    @model_validator(mode="after")
    def _ranks_share_shards(self) -> Config:
        shards, ranks = self.loader.shards, self.training.ranks
        if shards % ranks:
            raise ValueError(
                f"loader.shards ({shards}) must be a multiple of training.ranks ({ranks}), such as "
                f"{-(-shards // ranks) * ranks}"
            )
        return self


def fingerprint(*parts: BaseModel | str | dict[str, Any] | list[Any]) -> str:
    """First 16 hex digits of the SHA-256 of ``parts`` as canonical JSON."""
    plain = [p.model_dump(mode="json") if isinstance(p, BaseModel) else p for p in parts]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load(path: str, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file and apply ``section.field=value`` overrides (values are TOML, or text).

    Paths under ``log``, ``items``, ``split.files`` and ``external`` are relative to the file, which
    may be a URI; so are folders of backbones (a ``text_backbone`` with a slash).

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown, or a value is out of range.
    """
    from qarm.lake import files

    if not files.exists(path):
        raise ConfigError(f"no configuration file at {path}; the shipped ones are in conf/")
    tree = _parse(path)
    for override in overrides:
        _apply(tree, override)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from error
    return _resolve(config, path)


def _parse(path: str) -> dict[str, Any]:
    from qarm.lake import files

    with files.open_file(path) as file:
        content = bytes(file.read())
    try:
        text = content.decode("utf-8-sig")  # with or without the mark that Windows editors write
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path} is not UTF-8: byte {content[error.start]:#04x} in line {line}; save it as "
            "UTF-8"
        ) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}{_toml_hint(text, error)}") from error


#: What people write in place of TOML -> what TOML has.
_HABITS = {
    r"=\s*(True|False)\b": "true and false are written in lower case",
    r"=\s*(None|null)\b": "TOML has no null: leave the setting out",
    r"=\s*-?\d+,\d+\s*$": "decimals have a point: 0.8",
    r"^\s*[\w.-]+\s*:": "settings are written as name = value, sections as [name]",
    r"^\s*-\s": 'lists are written as name = ["a", "b"]',
    r"=\s*[A-Za-z_/.][^\"'\[{]*$": 'text is written in quotes: name = "text"',
    r'=\s*"[^"]*\\': 'a backslash in "..." is doubled, or the text is written in single quotes',
}


def _toml_hint(text: str, error: Exception) -> str:
    """What may be meant by the line that the parser stopped at."""
    at = re.search(r"at line (\d+)", str(error))
    lines = text.splitlines()
    if at is None or not 0 < int(at[1]) <= len(lines):
        return ""
    line = lines[int(at[1]) - 1]
    hint = next((hint for habit, hint in _HABITS.items() if re.search(habit, line)), None)
    return f"; the line is {line.strip()!r}" + (f": {hint}" if hint else "")


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set expects section.field=value, got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override!r}: {parent} is no section")
    tree[last] = value


def _explain(error: ValidationError, path: str) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(step) for step in problem["loc"]) or "the whole file"
        if problem["type"] == "extra_forbidden":
            known = _fields_beside(problem["loc"])
            near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            lines.append(f"  {where}: no such setting{hint}")
        else:
            seen = problem.get("input")
            shown = "" if isinstance(seen, dict) else f" (got {seen!r})"
            lines.append(f"  {where}: {problem['msg']}{shown}")
    return f"{path} cannot be used:\n" + "\n".join(lines)


def _fields_beside(location: Iterable[int | str]) -> list[str]:
    """Names of the fields of the section that holds ``location``."""
    model: type[BaseModel] = Config
    for step in list(location)[:-1]:
        annotation = (
            model.model_fields[str(step)].annotation if step in model.model_fields else None
        )
        candidates = [annotation, *get_args(annotation)]
        model = next(
            (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model
        )
    return sorted(model.model_fields)


def _resolve(config: Config, path: str) -> Config:
    """Make the paths of the sources absolute; ``path`` is the configuration file's."""

    def absolute(uri: str) -> str:
        return _beside(path, uri)

    def backbone(name: str) -> str:
        # A name without a slash is a model that ships in a package.
        return absolute(name) if "/" in name else name

    return config.model_copy(
        update={
            "log": config.log.model_copy(update={"path": [absolute(p) for p in config.log.path]}),
            "items": config.items.model_copy(
                update={"path": [absolute(p) for p in config.items.path]}
            ),
            "split": config.split.model_copy(
                update={
                    "files": {k: [absolute(p) for p in v] for k, v in config.split.files.items()}
                }
            ),
            "external": config.external.model_copy(
                update={"tables": {k: absolute(p) for k, p in config.external.tables.items()}}
            ),
            "encoder": config.encoder.model_copy(
                update={"text_backbone": backbone(config.encoder.text_backbone)}
            ),
        }
    )


def _beside(path: str, uri: str) -> str:
    """``uri``; if it is relative, resolved against the folder of the file ``path``.

    Raises:
        ConfigError: it leaves the bucket or host of a configuration that is a URI.
    """
    from qarm.lake import files

    if "://" in uri or uri.startswith(("/", "file:")):
        return uri
    if (local := files.local_path(path)) is not None:
        return str((Path(local).resolve().parent / uri).resolve())
    # pathlib would read s3://bucket/x as a local folder named s3:.
    scheme, _, rest = path.partition("://")
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(rest), uri))
    root = rest.partition("/")[0]
    if joined != root and not joined.startswith(f"{root}/") and "/" in rest:
        raise ConfigError(
            f"{path}: {uri!r} leads out of {scheme}://{root}; expected a path below it, or an "
            "absolute URI"
        )
    return f"{scheme}://{joined}"
