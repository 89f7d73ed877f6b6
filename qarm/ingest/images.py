"""Images: load them and check that they decode. Runs in Spark tasks."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from posixpath import join, normpath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from qarm.errors import InputError
from qarm.lake import files

if TYPE_CHECKING:
    from PIL.Image import Image
    from pyspark.sql import DataFrame


#: What is decoded; each other decoder of Pillow is one more that a crafted file can attack.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MOST_BYTES = 32 << 20
_LONGEST_PATH = 4096
#: A path, or a URI whose scheme is one.
_SCHEME = re.compile(r"(?!.*://)|[A-Za-z][A-Za-z0-9+.-]*://", re.DOTALL)
#: Checked before anything is decoded: a PNG of 0.5 MB can hold 200 million pixels.
MOST_PIXELS = 32_000_000


@contextmanager
def open_image(content: bytes) -> Iterator[Image]:
    """The image, not decoded yet; of several frames the first one.

    Raises:
        ValueError: it is too large.
        OSError: it is of none of ``FORMATS``, or damaged.
    """
    from PIL import Image

    if len(content) > MOST_BYTES:
        raise ValueError(f"{len(content):,} bytes, at most {MOST_BYTES:,} are read")
    with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"{width} x {height} pixels, at most {MOST_PIXELS:,} are decoded")
        yield picture


def to_rgb(picture: Image) -> Image:
    """The picture in 8-bit RGB; by itself, Pillow clips 16 bits to white."""
    if picture.mode == "I" or picture.mode.startswith("I;16"):  # grey PNG of 16 bits
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    return picture.convert("RGB")


def decode_problem(image: bytes | None) -> str | None:
    """Why the image cannot be decoded; None if it can, or if there is none."""
    if image is None:
        return None
    try:
        with open_image(image) as picture:
            # At 1/8 size JPEG decodes faster and still reads all data, so a cut file is noticed.
            picture.draft("RGB", (64, 64))
            picture.load()
    # Pillow raises anything from OSError to struct.error for damaged data.
    except Exception as error:
        # Pillow names the buffer, whose address differs from run to run.
        text = re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", "this file", str(error))
        return f"{type(error).__name__}: {text}"[:200]
    return None


def resolve(uri: str, beside: str) -> str:
    """``uri``; if it is relative, resolved against the folder of the file ``beside``."""
    if "://" in uri or uri.startswith(("/", "file:")):
        return uri
    return join(unquote(beside).rpartition("/")[0], uri)


def load(
    uri: str | None, beside: str, prefixes: Sequence[str] = ()
) -> tuple[bytes | None, str | None]:
    """(Bytes at ``uri``, None), or (None, the problem).

    Args:
        uri: a path or URI, or ``data:image/...;base64,...``.
        beside: the file that names it: its folder and what is below may be read.
        prefixes: of other URIs that may be read.

    Raises:
        InputError: it lies elsewhere. (A catalogue comes from outside: it must not name any file
            that this machine can read.)
    """
    if uri is None:
        return None, None
    if uri.startswith("data:"):
        return _inline(uri)
    if len(uri) > _LONGEST_PATH:
        return None, f"{len(uri):,} characters are no path; decode base64 text to a binary column"
    where = resolve(uri, beside)
    _refuse_elsewhere(where, resolve("", beside), prefixes)
    try:
        with files.open_file(where) as file:
            image = bytes(file.read(MOST_BYTES + 1))
    # An unavailable store or a refused access fails the stage: otherwise all images would be lost.
    except (OSError, ValueError) as error:
        if not files.is_absent(error):
            raise
        return None, f"{where} cannot be read: {type(error).__name__}"
    problem = decode_problem(image)
    return (None, problem) if problem else (image, None)


def _inline(uri: str) -> tuple[bytes | None, str | None]:
    """The image that a ``data:`` URI holds."""
    head, _, text = uri.partition(",")
    try:
        image = base64.b64decode(text if head.endswith(";base64") else "?", validate=True)
    except ValueError:
        return None, "a data: URI without valid base64 text"
    problem = decode_problem(image)
    return (None, problem) if problem else (image, None)


def _refuse_elsewhere(where: str, folder: str, prefixes: Sequence[str]) -> None:
    """Raise InputError unless ``where`` is below ``folder`` or one of the ``prefixes``."""
    plain = _plain(where)
    chained = "::" in where or not _SCHEME.match(where)  # fsspec opens the first of a chain
    if not chained and any(
        plain.startswith(_plain(each).rstrip("/") + "/") for each in (folder, *prefixes)
    ):
        return
    scheme = where.partition("://")[0] if "://" in where else ""
    if scheme in ("http", "https", "ftp") and not prefixes:
        raise InputError(
            f"items.image: {where} is on the web, which is not read; download the images and name "
            "their paths"
        )
    raise InputError(
        f"items.image: {where} is not below the catalogue's folder {folder}; allow it by "
        "items.image_prefixes, or move the images"
    )


def _plain(uri: str) -> str:
    """The URI without ``..`` and, for local files, without a scheme."""
    scheme, found, rest = files.with_fsspec_scheme(uri).partition("://")
    if not found or scheme == "file":
        return normpath("/" + uri.removeprefix("file:").lstrip("/"))
    return f"{scheme}://{normpath(rest)}"


def checked(df: DataFrame, *, by_uri: bool, prefixes: Sequence[str] = ()) -> DataFrame:
    """``df`` with loaded images and ``image_problem``; an image that cannot be read is null.

    Args:
        df: columns image (bytes), image_uri, file.
        by_uri: whether the images are files named by image_uri.
        prefixes: of URIs outside of the catalogue's folder that may be read.
    """
    from pyspark.sql import functions as F

    if by_uri:
        loading = partial(load, prefixes=tuple(prefixes))
        loaded = F.udf(loading, "struct<image: binary, problem: string>")("image_uri", "file")
        return (
            df.withColumn("__loaded", loaded)
            .withColumn("image", F.col("__loaded.image"))
            .withColumn("image_problem", F.col("__loaded.problem"))
            .drop("__loaded")
        )
    problem = F.udf(decode_problem, "string")("image")
    return df.withColumn("image_problem", problem)
