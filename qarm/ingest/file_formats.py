"""What format the user's files have, by their names."""

from __future__ import annotations

from qarm.errors import InputError
from qarm.lake import files

_ENDINGS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
#: Compressed text that Spark unpacks by itself.
_COMPRESSED = (".gz", ".bz2")
#: Ending -> what to do.
_PACKED = {
    ".zip": "unpack it; .gz and .bz2 are read as they are",
    ".7z": "unpack it; .gz and .bz2 are read as they are",
    ".tar": "unpack it",
    ".tgz": "unpack it",
    ".zst": "Spark cannot read zstd; compress it by gzip",
    ".xz": "Spark cannot read xz; compress it by gzip",
    ".xlsx": "save it as CSV",
}


def readable_files(uri: str, field: str) -> list[str]:
    """URIs of the files at ``uri``, a file, a folder or a glob.

    Raises:
        InputError: there is none, or one has a name that Spark cannot read.
    """
    names = files.visible_files(uri)
    if not names:
        raise InputError(f"{field}: no file at {uri}; check the path")
    for name in names:
        if ":" in name.rsplit("/", 1)[-1]:
            raise InputError(
                f"{field}: {name} has a colon in its name, which Spark's file systems cannot read; "
                "rename the file"
            )
    return names


def detect_format(uri: str, field: str) -> str:
    """parquet, csv, jsonl or delta: by a folder ``_delta_log``, or by the endings of the files.

    Raises:
        InputError: nothing there, or an unknown ending, or several formats in one folder.
    """
    if "_delta_log" in files.list_dir(uri):
        return "delta"
    kinds: dict[str | None, str] = {}
    for name in readable_files(uri, field):
        kinds.setdefault(_by_ending(name, field), name)
    known = sorted(kind for kind in kinds if kind is not None)
    if len(known) == 1 and None not in kinds:
        return known[0]
    if not known:
        section = field.split(".")[0] if field.startswith("items") else "log"
        raise InputError(
            f"{field}: the format of {kinds[None]} is not known from its ending; set "
            f"{section}.format to parquet, csv, jsonl or delta (known endings: "
            f"{', '.join(_ENDINGS)})"
        )
    odd = kinds[None] if None in kinds else kinds[known[1]]
    raise InputError(
        f"{field}: expected files of one format at {uri}, seen {kinds[known[0]]} and {odd}; remove "
        f"one of them, or name the files by a glob, such as {files.join(uri, '*.' + known[0])}"
    )


def _by_ending(name: str, field: str) -> str | None:
    stem = name.lower()
    for ending, remedy in _PACKED.items():
        if stem.endswith(ending):
            raise InputError(f"{field}: {name} is packed as {ending}; {remedy}")
    for ending in _COMPRESSED:
        stem = stem.removesuffix(ending)
    return next((kind for ending, kind in _ENDINGS.items() if stem.endswith(ending)), None)
