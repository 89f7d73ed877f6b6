"""Gates on metrics: names before a run, values before a stage publishes."""

from __future__ import annotations

from typing import Any

import pytest

from qarm.config.gates import Gates
from qarm.errors import ConfigError, GateError
from qarm.pipeline.metric_gates import check_existence, check_names, check_values, names_of


def metric(name: str, value: float = 0.5, **fields: str) -> dict[str, Any]:
    of = {"variant": "rq", "part": "test", "slice": "all", **fields}
    return {"metric": name, "value": value, **of}


COLD = metric("recall@50", 0.1, variant="aligned/raw", slice="swing cold")


def test_a_slice_is_named_last_and_all_need_not_be() -> None:
    assert names_of(metric("auc")) == ["auc/rq/test/all", "auc/rq/test"]
    assert names_of(COLD) == ["recall@50/aligned/raw/test/swing cold"]


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("acu/rq/test", r"gates\.max_drop: no metric is called 'acu/rq/test'.*did you mean auc"),
        ("aucc/rq/test", "did you mean auc"),
        ("auc", r"'auc' should be metric/variant/part or"),
        ("auc/rq", "should be metric/variant/part or"),
    ],
)
def test_names_that_no_stage_has_are_refused_before_a_run(gate: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_names(Gates(max_drop={gate: 0.1}))


def test_names_of_all_kinds_are_accepted() -> None:
    names = [
        *("auc/rq/test", "auc[long]/base/valid", "recall@50/aligned/test/swing cold"),
        *("rq_entropy_l1/rq/", "rq_drift_dead/rq/", "zero_vectors//", "pairs/swing/train"),
        *("rq_reconstruction_error_l2/rq/fit", "refit_due/rq/", "recall_ratio@50/a/b/test/u2i all"),
    ]
    check_names(Gates(min_metric=dict.fromkeys(names, 0.0)))


def test_a_name_that_no_stage_has_returned() -> None:
    check_existence(Gates(min_metric={"auc/rq/test": 0.5}), [metric("auc")])
    with pytest.raises(ConfigError, match=r"'auc/r/test'.*did you mean auc/rq/test"):
        check_existence(Gates(max_metric={"auc/r/test": 0.5}), [metric("auc")])


@pytest.mark.parametrize(
    ("limits", "value", "message"),
    [
        ({"min_metric": {"auc/rq/test": 0.6}}, 0.5, r"min_metric: auc/rq/test is 0\.5000, below"),
        ({"max_metric": {"auc/rq/test": 0.4}}, 0.5, r"max_metric: .* is 0\.5000, above 0\.4"),
        ({"max_drop": {"auc/rq/test": 0.1}}, 0.5, r"max_drop: .*fell from 0\.7000 to 0\.5000"),
        ({"max_rise": {"auc/rq/test": 0.1}}, 0.9, r"max_rise: .*rose from 0\.7000 to 0\.9000"),
        ({"max_drop": {"auc/rq/test": 0.1}}, float("nan"), r"gates\.max_drop: auc/rq/test is NaN"),
        ({"max_drop": {"auc/rq/test": 0.3}, "min_metric": {"auc/rq/test": 0.5}}, 0.5, None),
    ],
)
def test_values_beyond_a_limit_stop_the_run(
    limits: dict[str, dict[str, float]], value: float, message: str | None
) -> None:
    def check() -> None:
        check_values(Gates(**limits), [metric("auc", value)], [metric("auc", 0.7)], "Stopped")

    if message is None:
        check()
    else:
        with pytest.raises(GateError, match=message):
            check()


def test_a_change_needs_a_published_run() -> None:
    check_values(Gates(max_drop={"auc/rq/test": 0.1}), [metric("auc", 0.2)], [], "Stopped")


def test_a_gate_on_a_slice() -> None:
    gates = Gates(min_metric={"recall@50/aligned/raw/test/swing cold": 0.2})
    with pytest.raises(GateError, match=r"swing cold is 0\.1000"):
        check_values(gates, [COLD], [], "Stopped")
