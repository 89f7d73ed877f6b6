"""Images: decoded in part, found beside their file, problems in a sentence."""

from __future__ import annotations

import base64
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qarm.errors import InputError
from qarm.ingest import images


def _jpeg() -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "JPEG")
    return out.getvalue()


def test_whole_images_decode_and_cut_ones_do_not() -> None:
    assert images.decode_problem(None) is None
    assert images.decode_problem(_jpeg()) is None
    assert "truncated" in (images.decode_problem(_jpeg()[:-200]) or "")
    problem = images.decode_problem(b"no image")
    assert problem == "UnidentifiedImageError: cannot identify image file this file"  # no address


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    with images.open_image(_written(Image.fromarray(grey), "PNG")) as picture:
        rgb = np.asarray(images.to_rgb(picture))
    np.testing.assert_array_equal(rgb[..., 0], (grey / 256).astype(np.uint8))
    with images.open_image(_jpeg()) as picture:
        assert images.to_rgb(picture).mode == "RGB"


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


def test_images_lie_below_the_catalogue_or_an_allowed_prefix(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "other").mkdir()
    for folder in ("own", "other"):
        (tmp_path / folder / "a.jpg").write_bytes(_jpeg())
    beside = f"file://{tmp_path}/own/items.jsonl"
    other = f"{tmp_path}/other"
    assert images.load(f"{tmp_path}/own/a.jpg", beside) == (_jpeg(), None)
    for elsewhere in ("../other/a.jpg", f"{other}/a.jpg", f"file://{other}/a.jpg", "/etc/passwd"):
        with pytest.raises(InputError, match=r"is not below .*items\.image_prefixes"):
            images.load(elsewhere, beside)
        with pytest.raises(InputError, match="is not below"):
            images.load(elsewhere, beside, [f"{tmp_path}/oth"])
    assert images.load("../other/a.jpg", beside, [other]) == (_jpeg(), None)
    with pytest.raises(InputError, match="is on the web, which is not read"):
        images.load("https://example.com/a.jpg", beside)
    with pytest.raises(InputError, match="is not below"):
        images.load("s3a://bucket/../media/a.jpg", beside, ["s3a://bucket"])
    for chain in (f"{tmp_path}/own/../other/a.jpg::file://y", f"{tmp_path}/own/a::memory://b"):
        with pytest.raises(InputError, match="is not below"):
            images.load(chain, beside)
    images._refuse_elsewhere("s3://bucket/cat/a.jpg", "s3a://bucket/cat/", [])
    assert "OSError" in (images.load("a" * 300, beside)[1] or "")


def test_images_within_the_text(tmp_path: Path) -> None:
    text = base64.b64encode(_jpeg()).decode()
    beside = f"file://{tmp_path}/items.jsonl"
    assert images.load(f"data:image/jpeg;base64,{text}", beside) == (_jpeg(), None)
    assert images.load("data:image/jpeg;base64,%%", beside)[1] == (
        "a data: URI without valid base64 text"
    )
    assert "decode base64 text" in (images.load("A" * 5000, beside)[1] or "")
    assert images.load("a\0b", beside)[0] is None
