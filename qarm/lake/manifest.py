"""What a stage has published: one JSON file per stage, written last and replaced atomically.

Delta has no commit across tables, and a stage may commit several. Readers therefore never use the
latest version of a table, but follow the manifests: they see all tables of a run or none of them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from qarm.errors import InputError
from qarm.lake import files
from qarm.lake.tables import TableRef

FORMAT = 2
"""2: with ``artifact_inputs`` and ``sources``. Earlier ones are read too."""


@dataclass(frozen=True)
class Manifest:
    """One run of one stage."""

    stage: str
    run_id: str
    """Hash of inputs, settings and code: equal runs have equal ids."""
    config_hash: str
    code_version: str
    inputs: dict[str, dict[str, Any]]
    """Table -> {name, path, version} that was read."""
    outputs: dict[str, dict[str, Any]]
    """Table -> {name, path, version} that was written."""
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> {uri, version, ...}, such as the encoder."""
    artifact_inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """stage/name -> {uri, version, ...} of the artifacts that were read."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Source files that were read: name, size in bytes, mark of the store."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Small JSON values that later stages need, such as train_end."""
    result: dict[str, Any] = field(default_factory=dict)
    """The stage's entry in summary.json."""
    format: int = FORMAT


def _uri(root: str, stage: str) -> str:
    return files.join(root, "manifests", f"{stage}.json")


def publish(root: str, manifest: Manifest) -> None:
    """Write the manifest: from then on readers see the run's tables."""
    text = json.dumps(asdict(manifest), indent=1, sort_keys=True)
    history = files.join(root, "manifests", "history", f"{manifest.stage}-{manifest.run_id}.json")
    files.write_text(history, text)
    files.write_text(_uri(root, manifest.stage), text)


def find(root: str, stage: str) -> Manifest | None:
    """The manifest of ``stage``, or None if it has published nothing.

    Raises:
        InputError: the file is damaged or of a later format.
    """
    uri = _uri(root, stage)
    if not files.exists(uri):
        return None
    try:
        fields = json.loads(files.read_text(uri))
        manifest = Manifest(**fields)
    except (ValueError, TypeError) as error:
        raise InputError(f"{uri} is not a manifest ({error}); run the stage again") from error
    if manifest.format > FORMAT:
        raise InputError(
            f"{uri} has format {manifest.format}, this version reads up to {FORMAT}; update qarm"
        )
    return manifest


def all_of(root: str) -> dict[str, Manifest]:
    """Stage -> its manifest, for all stages that have published."""
    names = files.list_dir(files.join(root, "manifests"))
    stages = [n.removesuffix(".json") for n in names if n.endswith(".json")]
    manifests = {stage: find(root, stage) for stage in stages}
    return {stage: each for stage, each in manifests.items() if each is not None}


def pinned(root: str, table: str) -> TableRef | None:
    """The published version of a table; the newest if two stages have written it."""
    refs = [
        TableRef(**manifest.outputs[table])
        for manifest in all_of(root).values()
        if table in manifest.outputs
    ]
    return max(refs, key=lambda ref: ref.version, default=None)
