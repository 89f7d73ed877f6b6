"""A quote that is never closed loses no row in silence: quarantine, or a message."""

from __future__ import annotations

import gzip

import pytest

from qarm.errors import InputError
from qarm.ingest import sources


def rows(spark, path, **options) -> list[tuple]:

    df = sources.open_files(spark, [str(path)], field="log.path", **options)
    return [tuple(r) for r in df.drop(sources.FILE).collect()]


@pytest.mark.parametrize(
    "swallowed",
    [
        '"abc\n6,"def"',
        '"abc\n6,"d""e"" f"',
        '"abc\n6, "def"',
        '"abc\n6,def\n7,"ghi',
        '"abc\r\n6,"def"',
    ],
)
def test_rows_up_to_the_next_quote_are_malformed(spark, tmp_path, swallowed) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(f'id,text\n1,"ok"\n5,{swallowed}\n8,x\n'.encode())
    good, bad, last = rows(spark, path)
    assert good == ("1", "ok", None)
    assert bad[:2] == (None, None)
    assert all(part in bad[2] for part in ("5", "abc", "6,"))
    assert last == ("8", "x", None)


def test_also_in_the_middle_of_a_row(spark, tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text,n\n1,"ok",2\n5,"abc,1\n6,"def",4\n8,x,3\n')
    assert [r[0] for r in rows(spark, path)] == ["1", None, "8"]


@pytest.mark.parametrize("end", ["6,def\n8,x\n", "6,def\n8,x", '6,""\n8,x\n', '6,""', ""])
def test_a_value_that_runs_to_the_end_is_refused(spark, tmp_path, end) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'id,text\n1,"ok\nfine"\n5,"abc\n{end}')
    with pytest.raises(InputError, match=r"log\.path: .*a\.csv is quoted .*begins with 'abc"):
        rows(spark, path)


def test_also_in_a_compressed_file_among_others(spark, tmp_path) -> None:
    (tmp_path / "many").mkdir()
    good = 'id,text\n1,"a\nb"\n'
    for number in range(3):
        (tmp_path / "many" / f"{number}.csv").write_text(good)
    folder = str(tmp_path / "many")
    options = {"field": "items.path", "file_format": "csv"}
    assert sources.open_files(spark, [folder], **options).count() == 3
    bad = f'{good}5,"abc\n' + "6,def\n" * 2000
    (tmp_path / "many" / "3.csv.gz").write_bytes(gzip.compress(bad.encode()))
    with pytest.raises(InputError, match=r"3\.csv\.gz is quoted .* items\.csv_options"):
        sources.open_files(spark, [folder], **options)


@pytest.mark.parametrize(
    "text",
    [
        '5,"two\nlines"\n',
        '5,"two\nlines\n"',
        '5,"he said ""yes,\nof course"""\n',
        '5,"""Best"" of all,\nsaid ""she"""\n7,"a\nb"\n8,x\n',
        '5,six" pipe\n6,"a\nb"\n7,five" pipe\n',
        '5,"a\nb"\n\n\n',
        "5,\n6,\n",
    ],
)
def test_quoted_lines_are_no_fault(spark, tmp_path, text) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"id,text\n{text}")
    found = rows(spark, path)
    assert found
    assert all(row[0] and row[2] is None for row in found)


def test_other_marks(spark, tmp_path) -> None:
    path = tmp_path / "a.csv"
    backslash = {"csv_options": {"escape": "\\"}}
    path.write_text('id,text\n5,"say \\"hi\\"\nand\n"\n')
    assert [r[1] for r in rows(spark, path, **backslash)] == ['say "hi"\nand\n']
    path.write_text('id,text\n5,"say \\"hi\\"\nand \\"\n')
    with pytest.raises(InputError, match="never closed"):
        rows(spark, path, **backslash)
    path.write_text("id;text\n5;'abc\n6;'def'\n7;x\n")
    other = {"csv_options": {"sep": ";", "quote": "'"}}
    assert [r[0] for r in rows(spark, path, **other)] == [None, "7"]
    path.write_text('id,text\n5,"abc\n6,def\n')
    off = {"csv_options": {"quote": ""}}
    assert [r[0] for r in rows(spark, path, **off)] == ["5", "6"]
