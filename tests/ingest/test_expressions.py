"""SQL expressions of the configuration."""

from __future__ import annotations

import pytest

from qarm.errors import ConfigError, InputError
from qarm.ingest.expressions import condition, explained, number

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def raw(spark):
    return spark.createDataFrame([(1, "3.5"), (None, "x")], "click int, price string")


def test_null_is_false_and_text_may_be_a_number(raw) -> None:
    rows = raw.select(
        condition(raw, "click = 1", "log.labels.positive").alias("a"),
        number(raw, "price", "log.weight").alias("b"),
    ).collect()
    assert [tuple(row) for row in rows] == [(True, 3.5), (False, None)]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("click =", "is not valid SQL"),
        ("clik = 1", r"did you mean 'click'.*Columns available: \['click', 'price'\]"),
        ("click", r"is of type int, expected a condition, such as click = 1"),
        ("sum(click) = 1", "cannot be evaluated on the log"),
        ("click IN (SELECT 1)", "reads a table; expected columns of the row alone"),
        ("rand() < click", "gives another value each time"),
        ('java_method("java.lang.System", "getenv", "HOME") = "x"', "no Java methods"),
    ],
)
def test_bad_conditions_name_the_setting(raw, sql, message) -> None:
    with pytest.raises(ConfigError, match=rf"log\.rows = '.*{message}"):
        condition(raw, sql, "log.rows")


def test_a_condition_is_no_number(raw) -> None:
    with pytest.raises(ConfigError, match=r"log\.weight = 'click = 1' is of type boolean"):
        number(raw, "click = 1", "log.weight")


def test_a_value_that_breaks_an_expression_is_an_input_error(raw) -> None:
    broken = raw.select(condition(raw, "cast(price AS int) > 1", "log.rows").alias("a"))
    message = r"log: a value cannot be evaluated: .*Use try_cast"
    with pytest.raises(InputError, match=message), explained("log"):
        broken.collect()
    with pytest.raises(ZeroDivisionError), explained("log"):
        _ = 1 / 0
