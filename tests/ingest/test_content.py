"""Texts, attributes, bins, hashes and images."""

from __future__ import annotations

import io

import pytest
from pyspark.sql import functions as F

from qarm.config import ItemSource
from qarm.errors import ConfigError, InputError
from qarm.ingest import content, images

pytestmark = pytest.mark.spark


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["Toy Story", "1995", "A toy."], "Toy Story. 1995. A toy."),
        (["Toy.", None, " "], "Toy"),
        ([None, "plot ..", "x"], "plot. x"),
        ([None, None, None], None),
    ],
)
def test_text_is_joined_without_nulls(spark, texts, joined) -> None:
    df = spark.createDataFrame([texts], "a string, b string, c string")
    assert df.select(content.joined_text([F.col(c) for c in "abc"])).first()[0] == joined


def test_bins(spark) -> None:
    values = [(0.4,), (0.5,), (1.9,), (2.0,), (None,), (float("nan"),)]
    df = spark.createDataFrame(values, "x double")
    found = [r[0] for r in df.select(content.binned(F.col("x"), [0.5, 1, 2], "f")).collect()]
    assert found == ["(-inf,0.5)", "[0.5,1)", "[1,2)", "[2,inf)", None, None]
    with pytest.raises(ConfigError, match="ascending"):
        content.binned(F.col("x"), [2, 1], "f")


def test_attributes_are_split_trimmed_and_distinct(spark) -> None:
    items = ItemSource(
        attributes={"genre": "g", "maker": "m", "tag": "t"}, attribute_separator={"genre": r"\|"}
    )
    df = spark.createDataFrame(
        [("a| b|a", "x|y", ["p", " "]), (None, " ", [])], "g string, m string, t array<string>"
    )
    kinds = {f.name: f.dataType.simpleString() for f in df.schema}
    found = df.select(content.described(items, kinds, F.col)["attributes"].alias("x")).collect()
    assert found[0]["x"] == {"genre": ["a", "b"], "maker": ["x|y"], "tag": ["p"]}
    assert found[1]["x"] is None
    with pytest.raises(ConfigError, match="attribute_separator"):
        content.described(
            ItemSource(attributes={"a": "g"}, attribute_separator={"b": ","}), kinds, F.col
        )


@pytest.mark.parametrize("field", ["image", "audio"])
def test_types_that_hold_no_modality(field) -> None:
    with pytest.raises(InputError, match=rf"items\.{field}.*'x'.*map"):
        content.described(ItemSource(**{field: "x"}), {"x": "map<string,int>"}, F.col)


def test_hash_covers_every_content_column(spark) -> None:
    schema = (
        "title string, text string, image binary, image_uri string, audio array<float>, "
        "attributes map<string,array<string>>"
    )
    base = ["a", "b", b"c", "d", [1.0], {"e": ["f"]}]
    other = ["A", "B", b"C", "D", [2.0], {"e": ["F"]}]
    rows = [tuple(base)] + [(*base[:k], other[k], *base[k + 1 :]) for k in range(6)]
    rows.append((None,) * 6)
    df = spark.createDataFrame(rows, schema)
    hashes = [r[0] for r in df.select(content.content_hash(F.col)).collect()]
    assert len(set(hashes)) == 8
    assert hashes[-1] == spark.range(1).select(content.content_hash()).first()[0]


def test_images_are_decoded_to_the_end(tmp_path) -> None:
    from PIL import Image

    out = io.BytesIO()
    noise = Image.effect_noise((64, 64), 90)
    noise.save(out, "JPEG")
    whole = out.getvalue()
    assert images.decode_problem(whole) is None
    assert images.decode_problem(None) is None
    assert images.decode_problem(whole[: len(whole) // 2]) is not None
    assert images.decode_problem(b"<html>") is not None
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "x.jpg").write_bytes(whole)
    beside = f"file:{tmp_path}/a%20b/items.jsonl"
    assert images.load("x.jpg", beside) == (whole, None)
    assert images.load(f"{tmp_path}/a b/x.jpg", "anything") == (whole, None)
    assert images.load(None, beside) == (None, None)
    missing, problem = images.load("y.jpg", beside)
    assert missing is None
    assert "y.jpg" in str(problem)
