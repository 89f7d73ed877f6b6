"""Images: decoded in part, found beside their file, problems in a sentence."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

from PIL import Image

from qarm.ingest import images


def _jpeg() -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "JPEG")
    return out.getvalue()


def test_whole_images_decode_and_cut_ones_do_not() -> None:
    assert images.decode_problem(None) is None
    assert images.decode_problem(_jpeg()) is None
    assert "truncated" in (images.decode_problem(_jpeg()[:-200]) or "")
    assert "UnidentifiedImageError" in (images.decode_problem(b"no image") or "")


def _written(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def test_a_small_file_of_very_many_pixels_is_not_decoded() -> None:
    bomb = _written(Image.new("1", (10_000, 8_000)), "PNG")
    assert len(bomb) < 500_000
    tracemalloc.start()
    problem = images.decode_problem(bomb) or ""
    assert "10000 x 8000 pixels, at most 32,000,000 are decoded" in problem
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert "bytes, at most" in (images.decode_problem(bytes(images.MOST_BYTES + 1)) or "")


def test_formats_that_are_decoded() -> None:
    small = Image.linear_gradient("L")
    for kind in ("JPEG", "PNG", "WEBP", "GIF"):
        assert images.decode_problem(_written(small, kind)) is None
    for kind in ("BMP", "TIFF", "PPM"):
        assert "UnidentifiedImageError" in (images.decode_problem(_written(small, kind)) or "")
    frames = _written(small, "GIF", save_all=True, append_images=[Image.new("L", small.size, 9)])
    with images.open_image(frames) as picture:
        assert picture.convert("L").getextrema() == (0, 255)  # the first frame


def test_relative_paths_are_beside_the_catalogue() -> None:
    assert images.resolve("a.jpg", "file:///data/my%20items/items.jsonl") == (
        "file:///data/my items/a.jpg"
    )
    for whole in ("/x/a.jpg", "s3a://bucket/a.jpg", "file:/x/a.jpg"):
        assert images.resolve(whole, "file:///data/items.jsonl") == whole


def test_load_returns_the_bytes_or_the_problem(tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(_jpeg())
    (tmp_path / "bad.jpg").write_bytes(_jpeg()[:-200])
    beside = f"file://{tmp_path}/items.jsonl"
    assert images.load(None, beside) == (None, None)
    assert images.load("good.jpg", beside) == (_jpeg(), None)
    image, problem = images.load("bad.jpg", beside)
    assert image is None
    assert "truncated" in (problem or "")
    image, problem = images.load("none.jpg", beside)
    assert (image, problem) == (
        None,
        f"file://{tmp_path}/none.jpg cannot be read: FileNotFoundError",
    )
