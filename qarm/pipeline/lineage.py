"""``qarm lineage NAME``: trace a table or an artifact back to the source files by the manifests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from qarm.config import Config, fingerprint
from qarm.errors import MissingStageError
from qarm.lake import files, manifest
from qarm.lake.manifest import Manifest
from qarm.pipeline import own_tables
from qarm.pipeline.stages import BY_NAME


@dataclass(frozen=True, kw_only=True)
class Node:
    """A version of a table or an artifact, the run that wrote it, and what that run read."""

    name: str
    version: int | str | None
    """None: of the user's own table as it is now."""
    stage: str | None = None
    """None: the user's own, or no manifest of the run is left."""
    run_id: str | None = None
    config_hash: str | None = None
    code_version: str | None = None
    note: str | None = None
    """Where it came from if not from a run, or that it is in the tree already."""
    rows_in: int | None = None
    """Rows that the run read; None: the run did not say."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Source files that the run read: name, size in bytes, mark of the store."""
    inputs: list[Node] = field(default_factory=list)

    def lines(self, depth: int = 0) -> Iterator[str]:
        """The tree as text, one line per table, artifact and source file."""
        pad = "  " * depth
        version = "" if self.version is None else f" version {self.version}"
        if self.stage is None:
            yield f"{pad}{self.name}{version} {self.note}"
            return
        rows = "" if self.rows_in is None else f", {self.rows_in:,} rows in"
        yield (
            f"{pad}{self.name}{version} <- {self.stage} run {self.run_id}, config "
            f"{self.config_hash}, code {self.code_version}{rows}"
        )
        for source in self.sources:
            yield f"{pad}  {_source_text(source)}"
        for each in self.inputs:
            yield from each.lines(depth + 1)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def _source_text(source: Mapping[str, Any]) -> str:
    if "size" not in source:
        return str(source["name"])
    return f"{source['name']} ({source['size']:,} bytes, mark {source['mark']})"


def trace(config: Config, name: str) -> Node:
    """What a table or an artifact was made from, recursively.

    A version is traced to the run that wrote it, which may not be the stage's latest.

    Args:
        config: names the lake and the user's own tables.
        name: a table, or an artifact such as ``encoder`` or ``ranker``.

    Raises:
        MissingStageError: no stage has published it.
    """
    root = files.absolute(config.lake)
    if name in config.external.tables:
        where = config.external.tables[name]
        return Node(name=name, version=None, note=f"(the user's own, {where})")
    walk = _Walk(config, root)
    ref = manifest.pinned(root, name)
    if ref is not None:
        return walk.table(name, ref.as_dict(), frozenset({name}))
    current = manifest.all_of(root).values()
    for each in current:
        if name in each.artifacts:
            artifact = f"{each.stage}/{name}"
            return walk.artifact(artifact, each.artifacts[name], frozenset({artifact}))
    published = {n for m in current for n in (*m.outputs, *m.artifacts)}
    raise MissingStageError(
        f"no stage has published {name} in {config.lake}; published: "
        f"{', '.join(sorted(published)) or 'nothing'}"
    )


class _Walk:
    """Goes from what was written to what the writing run read, over all runs of a lake."""

    def __init__(self, config: Config, root: str) -> None:
        self._config = config
        self._runs = _runs(root)
        self._walked: set[tuple[str, int | str | None]] = set()
        self._writers: dict[tuple[str, int], list[Manifest]] = {}
        for each in self._runs:
            for ref in each.outputs.values():
                self._writers.setdefault((_folder(ref), int(ref["version"])), []).append(each)

    def table(self, name: str, ref: Mapping[str, Any], seen: frozenset[str]) -> Node:
        """The node of a version of a table; ``seen`` are names above it in the tree."""
        folder, version = _folder(ref), int(ref["version"])
        if folder.startswith(own_tables.PREFIX):
            where = _commit(ref).get("source") or self._config.external.tables.get(name)
            note = f"(the user's own, {where or 'source not known'})"
            return Node(name=name, version=version, note=note)
        writer = _writer(self._writers.get((folder, version), []), ref)
        return self._node(name, version, writer, seen)

    def artifact(self, artifact: str, found: Mapping[str, Any], seen: frozenset[str]) -> Node:
        """The node of an artifact, named as stage/name."""
        stage, _, name = artifact.partition("/")
        version = found.get("version")
        writers = [
            run
            for run in self._runs
            if run.stage == stage and run.artifacts.get(name, {}).get("version") == version
        ]
        return self._node(name, version, writers[0] if writers else None, seen)

    def _node(
        self, name: str, version: int | str | None, run: Manifest | None, seen: frozenset[str]
    ) -> Node:
        if run is None:
            note = "<- a run of which no manifest is left"
            return Node(name=name, version=version, note=note)
        if (name, version) in self._walked:
            return Node(name=name, version=version, note="(as above)")
        self._walked.add((name, version))
        inputs = [
            self.table(table, ref, seen | {table})
            for table, ref in run.inputs.items()
            if table not in seen
        ]
        inputs += [
            self.artifact(artifact, found, seen | {artifact})
            for artifact, found in run.artifact_inputs.items()
            if artifact not in seen
        ]
        reads_sources = run.stage in BY_NAME and BY_NAME[run.stage].reads_sources
        return Node(
            name=name,
            version=version,
            stage=run.stage,
            run_id=run.run_id,
            config_hash=run.config_hash,
            code_version=run.code_version,
            rows_in=run.result.get("rows_in"),
            sources=_sources(self._config, run) if reads_sources else [],
            inputs=inputs,
        )


def _folder(ref: Mapping[str, Any]) -> str:
    """Name of the table's folder. (Full paths differ if the lake has been moved.)"""
    return str(ref["path"]).rstrip("/").rpartition("/")[2]


def _runs(root: str) -> list[Manifest]:
    """Manifests of all runs that have ever published."""
    current = manifest.all_of(root)
    runs = {f"{m.stage}-{m.run_id}": m for m in current.values()}
    for name in files.list_dir(files.join(root, "manifests", "history")):
        run = name.removesuffix(".json")
        if name.endswith(".json") and run not in runs:
            published = manifest.find(root, f"history/{run}")
            if published is not None:
                runs[run] = published
    return [run for _, run in sorted(runs.items())]


def _writer(published: list[Manifest], ref: Mapping[str, Any]) -> Manifest | None:
    """The run that wrote the version, among those that have published it.

    A run without changes writes no commit and publishes an earlier version again, and a forced run
    replaces its own manifest. In these cases the commit's metadata names the writer.
    """
    if len(published) == 1:
        return published[0]
    commit = _commit(ref)
    for each in published:
        if (each.stage, each.run_id) == (commit.get("stage"), commit.get("run_id")):
            return each
    if published:
        return published[0]
    fields = ("stage", "run_id", "config_hash", "code_version", "inputs")
    if any(name not in commit for name in fields):
        return None
    return Manifest(**{name: commit[name] for name in fields}, outputs={})


def _commit(ref: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of the commit of a version, stored by ``Lake``; empty if the commit is gone."""
    log = files.join(str(ref["path"]), "_delta_log", f"{int(ref['version']):020d}.json")
    if not files.exists(log):
        return {}
    for line in files.read_text(log).splitlines():
        metadata = json.loads(line).get("commitInfo", {}).get("userMetadata")
        if metadata:
            lineage = json.loads(metadata)
            return lineage if isinstance(lineage, dict) else {}
    return {}


def _sources(config: Config, run: Manifest) -> list[dict[str, Any]]:
    """Files of the log and the catalogue that the run read.

    Manifests of earlier releases do not list them: what is configured now is named then.
    """
    if run.sources:
        return run.sources
    note = ""
    if fingerprint(BY_NAME[run.stage].settings(config)) != run.config_hash:
        note = " (as configured now; that run had another config)"
    return [{"name": f"{uri}{note}"} for uri in config.source_uris()]
