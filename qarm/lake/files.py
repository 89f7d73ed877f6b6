"""Files by URI (file, hdfs, s3a, ...), through fsspec. Writes replace a file atomically."""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

import fsspec

from qarm.errors import StorageError

_SCHEMES = {"s3a": "s3", "s3n": "s3", "wasbs": "abfs", "abfss": "abfs"}


def with_fsspec_scheme(uri: str) -> str:
    """``uri`` with Spark's scheme (s3a, wasbs, ...) replaced by that of fsspec."""
    scheme, found, rest = uri.partition("://")
    if found and scheme in _SCHEMES:
        return f"{_SCHEMES[scheme]}://{rest}"
    return uri if found else uri.removeprefix("file:")


def _open_fs(uri: str) -> tuple[Any, str]:
    """File system and path of ``uri``."""
    opened: tuple[Any, str] = fsspec.core.url_to_fs(with_fsspec_scheme(uri))
    return opened


def join(uri: str, *parts: str) -> str:
    """``uri`` with ``parts`` appended."""
    return posixpath.join(uri, *parts)


def absolute(uri: str) -> str:
    """``uri`` unchanged if it has a scheme, else the absolute local path."""
    return uri if "://" in uri or uri.startswith("file:") else os.path.abspath(uri)


def local_path(uri: str) -> str | None:
    """The local path behind ``uri``, or None if it is not on a local file system."""
    if uri.startswith("file:"):
        return "/" + uri.removeprefix("file:").lstrip("/")
    return None if "://" in uri else uri


def exists(uri: str) -> bool:
    """Whether there is a file or folder."""
    fs, path = _open_fs(uri)
    return bool(fs.exists(path))


def read_text(uri: str) -> str:
    """The file as UTF-8 text."""
    fs, path = _open_fs(uri)
    with fs.open(path, "rb") as file:
        return bytes(file.read()).decode("utf-8")


def write_bytes(uri: str, content: bytes) -> None:
    """Write the file atomically: readers see the old content or the new, never a part."""
    fs, path = _open_fs(uri)
    fs.makedirs(posixpath.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with fs.open(temporary, "wb") as file:
            file.write(content)
        if local_path(uri) is not None:
            os.replace(temporary, path)
        else:
            fs.mv(temporary, path)
    except BaseException:
        with suppress(OSError):
            fs.rm(temporary)
        raise


def write_text(uri: str, text: str) -> None:
    """``write_bytes`` for UTF-8 text."""
    write_bytes(uri, text.encode("utf-8"))


def check_writable(folder: str) -> None:
    """Write a small file to the folder and remove it.

    Raises:
        StorageError: that fails.
    """
    uri = join(folder, f".write-test-{uuid.uuid4().hex[:8]}")
    try:
        write_text(uri, "x" * 4096)
        remove_tree(uri)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error.strerror or error}; check it, or name another "
            "folder (--lake)"
        ) from error


def open_file(
    uri: str, mode: str = "rb", compression: str | None = None, block_bytes: int | None = None
) -> IO[Any]:
    """Open for streaming.

    Args:
        uri: of the file.
        mode: rb or wb.
        compression: gzip or bz2; "infer": by the name's ending.
        block_bytes: how much a store is asked for at once; by default 5 MB and more.
    """
    fs, path = _open_fs(uri)
    if "w" in mode:
        fs.makedirs(posixpath.dirname(path), exist_ok=True)
    asked = {} if block_bytes is None else {"block_size": block_bytes}
    opened: IO[Any] = fs.open(path, mode, compression=compression, **asked)
    return opened


def is_absent(error: Exception) -> bool:
    """Whether an error of opening means that there is no such file; others may pass by."""
    names = (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError)
    return isinstance(error, names) or (
        isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
    )


def move(source: str, target: str) -> None:
    """Rename a file; both names are on one file system."""
    fs, path = _open_fs(source)
    if local_path(target) is not None:
        os.replace(path, _open_fs(target)[1])
    else:
        fs.mv(path, _open_fs(target)[1])


def list_dir(uri: str) -> list[str]:
    """Names in a folder, sorted; empty if there is no such folder."""
    fs, path = _open_fs(uri)
    if not fs.exists(path):
        return []
    return sorted(posixpath.basename(str(p).rstrip("/")) for p in fs.ls(path, detail=False))


def remove_tree(uri: str) -> None:
    """Remove a file, or a folder with its contents; does nothing if there is none."""
    fs, path = _open_fs(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def describe(uri: str) -> list[dict[str, Any]]:
    """Files at ``uri`` (a file, a folder or a glob): name, size in bytes, and modification mark.

    Equal answers mean equal content for a source whose files are replaced, not edited in place.
    """
    fs, path = _open_fs(uri)
    entries: list[dict[str, Any]] = []
    for found in _matching(fs, path):
        for file in sorted(fs.find(found)) if fs.isdir(found) else [found]:
            info = fs.info(file)
            mark = info.get("ETag") or info.get("mtime") or info.get("LastModified")
            if mark is None:
                mark = _mark_without_time(fs, file, info)
            entries.append({"name": str(file), "size": info.get("size"), "mark": str(mark)})
    return entries


def _matching(fs: Any, path: str) -> list[str]:
    """The file or folder of exactly that name, else what matches it as a glob."""
    if fs.exists(path):
        return [path]
    return sorted(fs.glob(path)) if any(c in path for c in "*?[") else []


def visible_files(uri: str) -> list[str]:
    """URIs of the files at ``uri`` (a file, a folder or a glob), sorted.

    Like Spark, leaves out files and folders below it whose names begin with ``_`` or ``.``.
    """
    fs, path = _open_fs(uri)
    found = []
    for match in _matching(fs, path):
        start = len(match) if match == path else len(posixpath.dirname(match))
        for name in fs.find(match) if fs.isdir(match) else [match]:
            below = str(name)[start:].strip("/").split("/")
            if not any(_is_hidden(part) for part in below):
                found.append(_named_like(uri, fs, path, str(name)))
    return sorted(found)


def _named_like(uri: str, fs: Any, path: str, name: str) -> str:
    """A file that ``fs`` calls ``name``, with the scheme, host and account that ``uri`` has."""
    if local_path(uri) is not None:
        return name
    given = uri.rstrip("/")
    if given.endswith(path.rstrip("/")):
        return given[: len(given) - len(path.rstrip("/"))] + name
    return str(fs.unstrip_protocol(name))


def _is_hidden(name: str) -> bool:
    if name.endswith(("._COPYING_", "_$folder$")):  # marks of HDFS and of EMR
        return True
    return name.startswith(".") or (name.startswith("_") and "=" not in name)  # _date=2024 is not


def hadoop_path(uri: str) -> str:
    """``uri`` for Spark, which takes ``[ ] { } * ?`` for a glob even if a file has that name."""
    fs, path = _open_fs(uri)
    if any(c in uri for c in "[]{}*?") and fs.exists(path):
        return "".join(f"\\{c}" if c in "[]{}*?" else c for c in uri)
    return uri


def _mark_without_time(fs: Any, path: str, info: Mapping[str, Any]) -> str:
    """The file system's own fingerprint; a hash of the content if it knows name and size only."""
    if info.keys() - {"name", "size", "type", "islink", "mode"}:
        return str(fs.ukey(path))
    with fs.open(path, "rb") as file:
        return str(hashlib.file_digest(file, "sha256").hexdigest())
