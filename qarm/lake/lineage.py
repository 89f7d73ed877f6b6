"""``qarm lineage TABLE``: from a table back to the logs, by the manifests."""

from __future__ import annotations

from collections.abc import Iterator

from qarm.config import Config
from qarm.errors import MissingStageError
from qarm.lake import files, manifest


def trace(config: Config, table: str) -> Iterator[str]:
    """Lines of a tree: the table, the run that wrote it, and what that run read, recursively.

    Raises:
        MissingStageError: nobody has published the table.
    """
    published = manifest.all_of(files.absolute(config.lake))
    writers = {name: m for m in published.values() for name in m.outputs}
    if table not in writers:
        raise MissingStageError(
            f"no stage has published {table} in {config.lake}; published: "
            f"{', '.join(sorted(writers)) or 'nothing'}"
        )

    def walk(name: str, version: int | None, depth: int, seen: frozenset[str]) -> Iterator[str]:
        pad = "  " * depth
        writer = writers.get(name)
        if writer is None:
            yield f"{pad}{name} (brought by the user)"
            return
        shown = writer.outputs[name]["version"] if version is None else version
        yield (
            f"{pad}{name} version {shown} <- {writer.stage} run {writer.run_id}, "
            f"config {writer.config_hash}, code {writer.code_version}"
        )
        if writer.stage == "ingest":
            for source in (*config.log.path, *config.items.path):
                yield f"{pad}  {source}"
        for source, ref in writer.inputs.items():
            if source not in seen:
                yield from walk(source, ref["version"], depth + 1, seen | {source})

    yield from walk(table, None, 0, frozenset({table}))
