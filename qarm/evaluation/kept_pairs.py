"""Test pairs are mined once: stage quality keeps them, evaluate takes them if nothing differs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qarm.config import fingerprint
from qarm.evaluation.new_pairs import TestPairs, mine
from qarm.lake import files, manifest
from qarm.pipeline.code_version import code_version

if TYPE_CHECKING:
    from qarm.pipeline.context import Context

ARTIFACT = "test_pairs"
_FILE = "test_pairs.safetensors"
_ARRAYS = ("trigger", "target", "warm", "group")


def pairs_of(context: Context) -> dict[str, TestPairs]:
    """``new_pairs.mine``, or what it gave to stage quality with the same tables and settings."""
    kept = manifest.find(context.lake.root, "quality")
    artifact = kept.artifacts.get(ARTIFACT) if kept is not None else None
    if artifact is None or artifact["version"] != _made_from(context):
        return mine(context)
    uri = str(artifact["uri"])
    if not files.exists(uri):
        return mine(context)
    context.say("test pairs are those of stage quality")
    with files.open_file(uri) as file:
        return _from_bytes(file.read())


def keep(context: Context, pairs: dict[str, TestPairs]) -> dict[str, Any]:
    """Write them into the run's folder; the artifact, whose version says what they are made from.

    At most ``evaluation.max_pairs`` a source.
    """
    uri = files.join(context.work_dir(), _FILE)
    files.write_bytes(uri, _to_bytes(pairs))
    return {"uri": uri, "version": _made_from(context)}


def _made_from(context: Context) -> str:
    """Everything that ``mine`` depends on: versions of tables, settings, code."""
    names = ("interactions", "event_splits", "item_pairs", "id_vectors")
    tables = {name: ref.as_dict() for name in names if (ref := context.find(name)) is not None}
    config = context.config
    settings = {
        "u2i": config.pairs.u2i.model_dump(mode="json"),
        "swing": config.pairs.swing.model_dump(mode="json"),
        "seed": config.pairs.seed,
        "evaluation": config.evaluation.model_dump(mode="json"),
        "sources": sorted(config.alignment.sources),
    }
    return fingerprint(tables, settings, code_version("qarm.evaluation.new_pairs"))


def _to_bytes(pairs: dict[str, TestPairs]) -> bytes:
    from safetensors.numpy import save

    arrays = {f"{s}.{n}": getattr(found, n) for s, found in pairs.items() for n in _ARRAYS}
    about = {s: {"mined": found.mined, "dropped": found.dropped} for s, found in pairs.items()}
    return save(arrays, metadata={"pairs": json.dumps(about)})


def _from_bytes(content: bytes) -> dict[str, TestPairs]:
    from safetensors.numpy import load

    arrays = load(content)
    size = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["pairs"])
    found = {}
    for source, counts in about.items():
        trigger, target, warm, group = (arrays[f"{source}.{name}"] for name in _ARRAYS)
        found[source] = TestPairs(trigger, target, warm, group, **counts)
    return found
