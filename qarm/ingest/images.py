"""Images: loaded from where they lie, and tried whether they decode. Runs in Spark's tasks."""

from __future__ import annotations

import io
from posixpath import join
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def decode_problem(image: bytes | None) -> str | None:
    """Why the image cannot be decoded; None: it can, or there is none."""
    if image is None:
        return None
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image)) as picture:
            # JPEG decodes at 1/8 size but still reads all its data, so that a cut file shows.
            picture.draft("RGB", (64, 64))
            picture.load()
    # Pillow raises anything from OSError to struct.error for damaged data.
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return None


def resolve(uri: str, beside: str) -> str:
    """``uri``, or if it is relative, its place in the folder of the file ``beside``."""
    if "://" in uri or uri.startswith(("/", "file:")):
        return uri
    return join(unquote(beside).rpartition("/")[0], uri)


def load(uri: str | None, beside: str) -> tuple[bytes | None, str | None]:
    """Bytes at ``uri`` and the problem, one of which is None."""
    if uri is None:
        return None, None
    from qarm.lake import files

    where = resolve(uri, beside)
    try:
        with files.open_file(where) as file:
            image = bytes(file.read())
    # A store that is down or refuses access fails the stage: else all images would seem lost.
    except (FileNotFoundError, IsADirectoryError) as error:
        return None, f"{where} cannot be read: {type(error).__name__}"
    problem = decode_problem(image)
    return (None, problem) if problem else (image, None)


def checked(df: DataFrame, *, by_uri: bool) -> DataFrame:
    """``df`` with images loaded and ``image_problem``; an image with a problem becomes null.

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
