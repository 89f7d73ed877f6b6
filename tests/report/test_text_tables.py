"""Tables as text."""

from __future__ import annotations

from qarm.report.text_tables import Cell, Row, Table, aligned, metric_lines, table_lines


def _metric(metric: str, value: float, variant: str, where: str = "all", part: str = "") -> dict:
    return {"metric": metric, "value": value, "variant": variant, "slice": where, "part": part}


def test_first_column_left_others_right() -> None:
    assert aligned([["", "a", "long"], ["name", "1", "2"]]) == [
        "      a  long",
        "name  1     2",
    ]


def test_notes_stand_in_brackets_below_the_title() -> None:
    rows = [Row("u2i", [Cell("7", "1")], meaning="not in text"), Row("swing", [Cell("12")])]
    assert table_lines(Table("Pairs", ["of"], rows, "not in text")) == [
        "Pairs",
        "            of",
        "  u2i    7 (1)",
        "  swing     12",
    ]


def test_metrics_by_variant_of_the_test_part_and_warm_pairs() -> None:
    metrics = [
        _metric("auc", 0.75, "base", part="test"),
        _metric("auc", 0.5, "base", part="valid"),
        _metric("auc", 0.1, "base", "cold", "test"),
        _metric("loss", 1200.0, "rq", part="test"),
        _metric("recall", 0.25, "raw", "u2i warm", "test"),
    ]
    assert metric_lines(metrics) == [
        "test     auc   loss",
        "base  0.7500",
        "rq            1,200",
        "u2i warm, test  recall",
        "raw             0.2500",
    ]


def test_levels_share_a_cell_and_many_metrics_are_a_list() -> None:
    levels = [_metric(f"error_l{n}", n / 4, "rq") for n in (1, 2)]
    assert metric_lines(levels) == ["    error by level", "rq   0.2500 0.5000"]
    many = [_metric(f"m{i}", i, "") for i in range(9)]
    assert metric_lines(many)[8] == " m8: 8"
