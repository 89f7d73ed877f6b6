"""Images: load them and check that they decode. Runs in Spark tasks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from posixpath import join
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from PIL.Image import Image
    from pyspark.sql import DataFrame


#: What is decoded; each other decoder of Pillow is one more that a crafted file can attack.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MOST_BYTES = 32 << 20
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
        return f"{type(error).__name__}: {error}"[:200]
    return None


def resolve(uri: str, beside: str) -> str:
    """``uri``; if it is relative, resolved against the folder of the file ``beside``."""
    if "://" in uri or uri.startswith(("/", "file:")):
        return uri
    return join(unquote(beside).rpartition("/")[0], uri)


def load(uri: str | None, beside: str) -> tuple[bytes | None, str | None]:
    """(Bytes at ``uri``, None), or (None, the problem)."""
    if uri is None:
        return None, None
    from qarm.lake import files

    where = resolve(uri, beside)
    try:
        with files.open_file(where) as file:
            image = bytes(file.read())
    # An unavailable store or a refused access fails the stage: otherwise all images would be lost.
    except (FileNotFoundError, IsADirectoryError) as error:
        return None, f"{where} cannot be read: {type(error).__name__}"
    problem = decode_problem(image)
    return (None, problem) if problem else (image, None)


def checked(df: DataFrame, *, by_uri: bool) -> DataFrame:
    """``df`` with loaded images and ``image_problem``; an image that cannot be read is null.

    Args:
        df: columns image (bytes), image_uri, file.
        by_uri: whether the images are files named by image_uri.
    """
    from pyspark.sql import functions as F

    if by_uri:
        loaded = F.udf(load, "struct<image: binary, problem: string>")("image_uri", "file")
        return (
            df.withColumn("__loaded", loaded)
            .withColumn("image", F.col("__loaded.image"))
            .withColumn("image_problem", F.col("__loaded.problem"))
            .drop("__loaded")
        )
    problem = F.udf(decode_problem, "string")("image")
    return df.withColumn("image_problem", problem)
