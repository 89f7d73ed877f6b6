"""``qarm lineage TABLE``: trace a table back to the logs by the manifests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from qarm.config import Config, fingerprint
from qarm.errors import MissingStageError
from qarm.lake import files, manifest
from qarm.lake.manifest import Manifest
from qarm.pipeline import own_tables
from qarm.pipeline.stages import BY_NAME


def trace(config: Config, table: str) -> Iterator[str]:
    """Lines of a tree: the table, the run that wrote it, and what that run read, recursively.

    A version is traced to the run that wrote it, which may not be the stage's latest.

    Raises:
        MissingStageError: no stage has published the table.
    """
    root = files.absolute(config.lake)
    if table in config.external.tables:
        yield f"{table} (the user's own, {config.external.tables[table]})"
        return
    ref = manifest.pinned(root, table)
    if ref is None:
        published = {name for m in manifest.all_of(root).values() for name in m.outputs}
        raise MissingStageError(
            f"no stage has published {table} in {config.lake}; published: "
            f"{', '.join(sorted(published)) or 'nothing'}"
        )
    writers = _writers(root)

    def walk(name: str, ref: Mapping[str, Any], depth: int, seen: frozenset[str]) -> Iterator[str]:
        pad = "  " * depth
        folder, version = _folder(ref), int(ref["version"])
        if folder.startswith(own_tables.PREFIX):
            where = _commit(ref).get("source") or config.external.tables.get(name)
            yield f"{pad}{name} version {version} (the user's own, {where or 'source not known'})"
            return
        writer = _writer(writers.get((folder, version), []), ref)
        if writer is None:
            yield f"{pad}{name} version {version} <- a run of which no manifest is left"
            return
        yield (
            f"{pad}{name} version {version} <- {writer.stage} run {writer.run_id}, "
            f"config {writer.config_hash}, code {writer.code_version}"
        )
        if writer.stage in BY_NAME and BY_NAME[writer.stage].reads_sources:
            yield from (f"{pad}  {line}" for line in _sources(config, writer))
        for source, read in writer.inputs.items():
            if source not in seen:
                yield from walk(source, read, depth + 1, seen | {source})

    yield from walk(table, ref.as_dict(), 0, frozenset({table}))


def _folder(ref: Mapping[str, Any]) -> str:
    """Name of the table's folder. (Full paths differ if the lake has been moved.)"""
    return str(ref["path"]).rstrip("/").rpartition("/")[2]


def _writers(root: str) -> dict[tuple[str, int], list[Manifest]]:
    """(Folder of a table, version) -> manifests of all runs that have ever published it."""
    current = manifest.all_of(root)
    runs = {f"{m.stage}-{m.run_id}": m for m in current.values()}
    for name in files.list_dir(files.join(root, "manifests", "history")):
        run = name.removesuffix(".json")
        if name.endswith(".json") and run not in runs:
            published = manifest.find(root, f"history/{run}")
            if published is not None:
                runs[run] = published
    writers: dict[tuple[str, int], list[Manifest]] = {}
    for _, each in sorted(runs.items()):
        for ref in each.outputs.values():
            writers.setdefault((_folder(ref), int(ref["version"])), []).append(each)
    return writers


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


def _sources(config: Config, writer: Manifest) -> Iterator[str]:
    """Files of the log and the catalogue, from the configuration: manifests do not list them."""
    sources = config.source_uris()
    if fingerprint(BY_NAME[writer.stage].settings(config)) != writer.config_hash:
        sources = [f"{uri} (as configured now; that run had another config)" for uri in sources]
    yield from sources
