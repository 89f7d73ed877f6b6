"""Errors of Spark tasks."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql import SparkSession

from qarm.errors import ConfigError, InputError, plain_errors

pytestmark = pytest.mark.spark


def test_errors_of_tasks_arrive_as_themselves(spark: SparkSession) -> None:
    def fail(batches: Any) -> Any:
        raise InputError("the text backbone returned NaN: see above")

    message = r"^the text backbone returned NaN: see above"
    with pytest.raises(InputError, match=message), plain_errors():
        spark.range(3).mapInArrow(fail, "id bigint").collect()
    with pytest.raises(Exception, match="division by zero"), plain_errors():
        spark.range(3).mapInArrow(lambda batches: [1 / 0], "id bigint").collect()


def test_errors_of_the_driver_pass() -> None:
    with pytest.raises(ConfigError, match="no such folder"), plain_errors():
        raise ConfigError("no such folder")
