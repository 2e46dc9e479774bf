"""Configurations side by side: which numbers are shown, under which names, and how they are set against each other."""

import math
from pathlib import Path
from typing import Any

import pytest

from slotune.simulator.slo import Slo
from slotune.tuner.objective import Goal, Objective
from slotune.tuner.study.comparison import (
    Compared,
    Quantity,
    _compared,
    changes_text,
    comparisons,
    default_trial,
    quantities,
)
from slotune.tuner.study.study import Asked, Study, Trial, Versions

TPOT = Quantity("mean TPOT", "ms", "mean_tpot_ms")


def ran(*tpot_ms: float, **other: Any) -> Compared:
    """A configuration with a run for each mean TPOT, from round 0 on."""
    return Compared("#1", {}, runs={number: {"mean_tpot_ms": value} for number, value in enumerate(tpot_ms)}, **other)


def test_limits_come_first_then_goals_then_means_and_throughput_each_once() -> None:
    goals = (Goal("mean_ttft_ms", False), Goal("total_token_throughput", True), Goal("p99_ttft_ms", False))
    shown = quantities(Objective((Slo(99.0, "ttft", 500.0),), goals, {"tpot": 50.0}))
    assert [(one.label, one.unit, one.key) for one in shown] == [
        ("p99 TTFT", "ms", "p99_ttft_ms"),
        ("mean TTFT", "ms", "mean_ttft_ms"),
        ("total token throughput", "tokens/s", "total_token_throughput"),
        ("mean TPOT", "ms", "mean_tpot_ms"),
        ("mean E2E", "ms", "mean_e2el_ms"),
        ("request throughput", "requests/s", "request_throughput"),
        ("output throughput", "tokens/s", "output_throughput"),
        ("request goodput", "requests/s", "request_goodput"),
    ]
    assert "request_goodput" not in {one.key for one in quantities(Objective((Slo(99.0, "ttft", 500.0),)))}


def test_the_default_is_found_wherever_its_trial_stands(tmp_path: Path) -> None:
    asked = Asked(
        profile="p", profile_digest="a", trace="t", trace_digest="b", engine={"max_num_seqs": 64},
        versions=Versions(slotune="0", smac="2", python="3"),
    )  # fmt: skip
    with Study.create(tmp_path, asked) as study:
        assert default_trial(study) == Trial({"max_num_seqs": 64}, None)
        study.add(Trial({"max_num_seqs": 8}, {"mean_tpot_ms": 1.0}))
        study.add(Trial({"max_num_seqs": 64}, {"mean_tpot_ms": 2.0}))
        assert default_trial(study).metrics == {"mean_tpot_ms": 2.0}


def test_a_ratio_is_of_the_rounds_that_both_ran() -> None:
    one, other = ran(20.0, 30.0, 99.0), Compared("default", {}, runs={r: {"mean_tpot_ms": 10.0} for r in (0, 1, 7)})
    found = one.against(other, TPOT)
    assert (found.value, found.runs) == (pytest.approx(math.sqrt(6)), 2)
    wider = one.against(other, TPOT, comparisons=4)
    assert wider.low < found.low < found.high < wider.high


def test_no_ratio_is_told_where_a_round_has_none() -> None:
    base = ran(10.0, 10.0)
    assert ran(20.0, math.inf).against(base, TPOT).value == math.inf
    for one, other in ((ran(20.0, 0.0), base), (base, ran(20.0, 0.0))):
        found = one.against(other, TPOT)
        assert math.isnan(found.value) and math.isnan(found.high) and found.runs == 2
    assert ran(1.0, 1.0).against(base, TPOT).value == pytest.approx(0.1), "one is no zero"


@pytest.mark.parametrize(
    ("predicted", "measured", "error"),
    [(12.0, 10.0, 0.2), (9.0, 10.0, -0.1), (math.inf, 10.0, None), (math.nan, 10.0, None), (10.0, 0.0, None)],
)
def test_errors_are_shares_of_what_was_measured(predicted: float, measured: float, error: float | None) -> None:
    one = ran(measured, measured, predicted={"mean_tpot_ms": predicted})
    told = math.nan if error is None else error
    assert one.prediction_error(TPOT) == pytest.approx(told, nan_ok=True)


def test_errors_at_the_speed_of_the_runs_are_of_those_whose_steps_were_timed() -> None:
    one = ran(10.0, 20.0, 90.0, predicted={"mean_tpot_ms": 1.0}, at_speed={n: {"mean_tpot_ms": 18.0} for n in (0, 1)})
    assert one.error_at_speed(TPOT) == pytest.approx(18 / 15 - 1)
    assert math.isnan(ran(10.0).error_at_speed(TPOT))


def test_those_that_ran_are_compared_with_the_default() -> None:
    default, idle = ran(1.0), Compared("#2", {})
    assert [comparisons(found) for found in ([default], [default, idle], [default, ran(1.0), idle, ran(2.0)])] == [
        1,
        1,
        2,
    ]


def test_changes_are_what_differs_from_the_default() -> None:
    default = {"max_num_seqs": 256, "block_size": 16}
    assert changes_text({"max_num_seqs": 64, "block_size": 16}, default) == "max_num_seqs=64"
    assert changes_text({"max_num_seqs": 64, "seed": 1}, default) == "max_num_seqs=64 seed=1"
    assert changes_text(default, default) == "no change"


def test_the_runs_of_a_configuration_with_what_they_tell_of_the_engine() -> None:
    settings = {"max_num_seqs": 64}
    timed = {"step_time_ratio": 1.25, "predicted_at_speed": {"mean_tpot_ms": 12.0}, "first_error": "reset"}
    told = {"num_gpu_blocks": 5000, "block_size": 16}
    trials = [
        Trial(settings, {"mean_tpot_ms": 10.0}, where="hardware", repeat=0, details=timed | told),
        Trial(settings, {"mean_tpot_ms": 11.0}, where="hardware", repeat=1, details={"num_gpu_blocks": 5000}),
        Trial(settings, None, "out-of-memory", where="hardware", repeat=2, details=timed),
        Trial({}, {"mean_tpot_ms": 99.0}, where="hardware", repeat=0, details=told),
    ]
    one = _compared("#1", settings, {trials[0].key: {"mean_tpot_ms": 9.0}}, trials)
    assert one.predicted == {"mean_tpot_ms": 9.0}
    assert {number: run["mean_tpot_ms"] for number, run in one.runs.items()} == {0: 10.0, 1: 11.0}
    assert [trial.repeat for trial in one.failures] == [2]
    assert (one.step_time_ratios, one.at_speed) == ({0: 1.25}, {0: {"mean_tpot_ms": 12.0}})
    assert (one.cache_tokens, one.errors) == ({0: 80_000}, {0: "reset", 2: "reset"})
