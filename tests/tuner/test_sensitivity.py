"""What a prediction becomes with faster and slower steps: in a study, in a plan, and where no error is known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slotune.profiler.profile import Profile, linear_profile
from slotune.profiler.profile_folder import load_profile
from slotune.profiler.provenance import KERNEL_TABLES, MEASURED
from slotune.profiler.surrogate.model import BEYOND, OVER_TIME, RegimeError
from slotune.profiler.trust import TABLES_TPOT_ERROR, USUALLY_OUTSIDE_S
from slotune.simulator.slo import Slo
from slotune.simulator.step_time import unbounded_hull
from slotune.simulator.timing import Overhead, Pace
from slotune.tuner.evaluate import SimulatedRun
from slotune.tuner.finalists.finalists import FINALISTS
from slotune.tuner.finalists.other_step_times import run_other_step_times, sensitivities_of
from slotune.tuner.finalists.variation import Variation, VariedRun
from slotune.tuner.objective import Objective
from slotune.tuner.pages.plan_page import document
from slotune.tuner.planning.capacity import Scenario
from slotune.tuner.planning.plan import plan, what_if, with_other_step_times
from slotune.tuner.sensitivity import Doubt, Sensitivity, doubt_of
from slotune.tuner.study.study import Study, settings_key
from slotune.tuner.study.task import Task, load_task

ERROR = TABLES_TPOT_ERROR
DOUBT = Doubt(ERROR, USUALLY_OUTSIDE_S)
"""Of tables where nothing is assumed of the way to the engine."""


@pytest.fixture
def tables_profile(small_profile: Profile) -> Profile:
    """A formula that passes for kernel tables, whose error is known."""
    return replace(small_profile, source=KERNEL_TABLES)


@pytest.fixture
def opened(study: Path) -> Any:
    """The searched study, open, and its task with a profile whose error is known."""
    with Study.open(study, writable=True) as found:
        task = load_task(found.asked)
        yield found, replace(task, profile=replace(task.profile, source=KERNEL_TABLES))


def all_run(study: Study, task: Task) -> list[Variation]:
    """Run what is missing; what that was."""
    asked: list[Variation] = []

    def run_all(variations: Any) -> Any:
        for variation in variations:
            asked.append(variation)
            yield VariedRun(task.simulated())(variation)

    run_other_step_times(study, task, run_all, lambda trial: None)
    return asked


def sensitivity(profile: Profile, run: Callable[[Pace], dict[str, float]]) -> Sensitivity | None:
    doubt = doubt_of(profile, [{}])
    return None if doubt is None else doubt.tried(run)


def test_steps_are_faster_and_slower_by_the_error_of_the_profile_where_it_is_known(
    small_profile: Profile, tables_profile: Profile
):
    seen: list[Pace] = []

    def run(pace: Pace) -> dict[str, float]:
        seen.append(pace)
        return {"factor": pace.step_factor}

    assert sensitivity(small_profile, run) is None and not seen
    found = sensitivity(tables_profile, run)
    assert found is not None
    assert seen == [Pace(1 / (1 + ERROR)), Pace(1 + ERROR, USUALLY_OUTSIDE_S)]
    assert (found.faster, found.slower) == ({"factor": 1 / (1 + ERROR)}, {"factor": 1 + ERROR})
    assert found.label == f"steps {100 * ERROR:.2g}% faster / slower, TTFT +22.5 ms"
    told = found.as_dict(lambda metrics: {})
    assert (told["step_time_error"], told["later_ms"]) == (ERROR, 22.5)


@pytest.mark.parametrize(("assumed_s", "later"), [(0.0065, ", TTFT +16 ms"), (0.03, "")])
def test_the_way_to_the_engine_is_longer_by_what_is_not_assumed_already(
    tables_profile: Profile, small_trace: Any, assumed_s: float, later: str
):
    profile = replace(tables_profile, overhead=Overhead(before_s=assumed_s))
    run = SimulatedRun(profile, small_trace(1))
    found = sensitivity(profile, lambda pace: replace(run, pace=pace)({}).metrics or {})
    assert found is not None and found.label == f"steps {100 * ERROR:.2g}% faster / slower{later}"
    told, added_ms = run({}).metrics or {}, 16.0 if later else 0.0
    step_ms = told["mean_ttft_ms"] - 1e3 * assumed_s
    assert found.slower["mean_ttft_ms"] == pytest.approx(1e3 * assumed_s + (1 + ERROR) * step_ms + added_ms)
    assert found.faster["mean_ttft_ms"] == pytest.approx(1e3 * assumed_s + step_ms / (1 + ERROR))
    assert found.slower["mean_tpot_ms"] == pytest.approx((1 + ERROR) * told["mean_tpot_ms"])


@pytest.mark.parametrize(("before_s", "later_s"), [(0.0, USUALLY_OUTSIDE_S), (0.002, 0.0)])
def test_a_way_that_was_measured_is_not_doubted(small_profile: Profile, before_s: float, later_s: float):
    held_out = (RegimeError("all", 30, 0.02, 0.03, 0.05, 0.0),)
    step = replace(small_profile.step, held_out=held_out)
    measured = replace(small_profile, source=MEASURED, step=step, overhead=Overhead(before_s))
    found = sensitivity(measured, lambda pace: {})
    assert found is not None and found.doubt == Doubt(0.02, later_s)


def test_a_machine_that_something_slowed_for_a_while_may_be_slower_only():
    held_out = (
        RegimeError("all", 30, 0.02, 0.03, 0.05, 0.0),
        RegimeError(OVER_TIME, 20, 0.01, 0.01, 0.01, 0.0, 0.9),
    )
    profile = linear_profile(4e-3, 4e-5, 1e-4, 2e-7)
    doubt = doubt_of(replace(profile, source=MEASURED, step=replace(profile.step, held_out=held_out)), [])
    assert doubt is not None
    assert (doubt.faster.step_factor, doubt.slower.step_factor) == (1 / 1.02, 1.9)
    assert doubt.label.startswith("steps 2% faster / 90% slower") and doubt.labels[1].startswith("steps 90% slower")
    assert doubt.as_dict()["slower_by"] == 0.9


def test_the_default_and_the_finalists_run_once_faster_and_slower(opened: Any):
    study, task = opened
    asked = all_run(study, task)
    assert len(asked) == 2 * (FINALISTS + 1)
    assert {variation.pace for variation in asked} == {DOUBT.faster, DOUBT.slower}
    known = sensitivities_of(study, task)
    default = known[settings_key(task.asked.engine)]
    predicted = task.simulated()(dict(task.asked.engine)).metrics
    for key in ("mean_tpot_ms", "mean_e2el_ms"):
        assert default.faster[key] < predicted[key] < default.slower[key]
    assert all_run(study, task) == []


def test_a_study_from_before_the_way_to_the_engine_was_doubted_runs_what_is_missing(opened: Any):
    study, task = opened
    for trial in study.trials("simulation")[:1]:
        for number, pace in enumerate((DOUBT.faster, DOUBT.slower)):
            details = {"step_factor": pace.step_factor}
            study.add(
                replace(trial, where="other step times", repeat=number, origin="other step time", details=details)
            )
    first = study.trials("simulation")[0]
    assert sensitivities_of(study, task) == {}, "one side alone is no range"
    asked = all_run(study, task)
    assert [variation.pace for variation in asked if variation.settings == first.settings] == [DOUBT.slower]
    assert sensitivities_of(study, task)[first.key].slower != first.metrics


def test_a_study_whose_profile_has_no_known_error_runs_nothing(opened: Any):
    study, task = opened
    closed = load_task(task.asked)
    assert all_run(study, closed) == [] and sensitivities_of(study, closed) == {}


def test_a_plan_for_faster_and_slower_steps(tables_profile: Profile, small_trace: Any):
    objective = Objective((Slo(99.0, "ttft", 200.0),))
    base = Scenario("base", tables_profile, small_trace(), objective, {"max_num_seqs": 8})
    (alone,) = plan([base], 100.0, jobs=1)
    faster, slower = with_other_step_times(alone)
    assert [faster.name, slower.name] == [
        f"steps {100 * ERROR:.2g}% {how}" for how in ("faster", "slower, TTFT +22.5 ms")
    ]
    assert [faster.pace, slower.pace] == [DOUBT.faster, DOUBT.slower]
    assert what_if(base, "step_time=x1.5").pace == Pace(1.5)
    told = document([alone], 2.0, plan([faster, slower], 100.0, jobs=1))
    sides = told["sensitivity"]
    assert (sides["step_time_error"], sides["later_ms"]) == (ERROR, 22.5)
    rates = [sides["slower"]["max_request_rate"], told["max_request_rate"], sides["faster"]["max_request_rate"]]
    assert rates == sorted(rates) and rates[0] < 0.95 * rates[2]
    assert sides["slower"]["replicas"] >= told["replicas"] >= sides["faster"]["replicas"] > 0
    assert told["what_if"] == []


@pytest.mark.parametrize(("greatest", "error"), [(np.inf, 0.02), (4096.0, 0.06), (100.0, None)])
def test_a_plan_mostly_outside_what_was_measured_varies_steps_by_the_error_there(
    small_profile: Profile, small_trace: Any, greatest: float, error: float | None
):
    """Up to twice as large as what was measured it is known."""
    hull = unbounded_hull()
    hull[..., 1] = greatest
    held_out = (RegimeError("all", 30, 0.02, 0.03, 0.05, 0.0), RegimeError(BEYOND, 30, 0.06, 0.07, 0.15, 0.0))
    step = replace(small_profile.step, hull=hull, held_out=held_out)
    profile = replace(small_profile, source=MEASURED, step=step)
    (alone,) = plan([Scenario("base", profile, small_trace(), Objective((Slo(99.0, "ttft", 200.0),)))], jobs=1)
    sides = with_other_step_times(alone)
    doubt = Doubt(error or 0.0, USUALLY_OUTSIDE_S)
    assert [side.pace for side in sides] == ([] if error is None else [doubt.faster, doubt.slower])
    told = document([alone], None, plan(sides, jobs=1))
    assert (told["sensitivity"] or {}).get("step_time_error") == error
    assert (told["trust"]["far_share"] > 0.05) == (error is None)


@pytest.mark.parametrize(("share", "error"), [(0.04, 0.02), (0.5, 0.06)])
def test_finalists_outside_what_was_measured_are_varied_by_the_error_there(opened: Any, share: float, error: float):
    study, task = opened
    held_out = (RegimeError("all", 30, 0.02, 0.03, 0.05, 0.0), RegimeError(BEYOND, 30, 0.06, 0.07, 0.15, 0.0))
    profile = replace(task.profile, source=MEASURED, step=replace(task.profile.step, held_out=held_out))
    task = replace(task, profile=profile)
    best = study.trials("simulation")[0]
    study.add(replace(best, metrics={**best.metrics, "extrapolated_share": share}))
    doubt = Doubt(error, USUALLY_OUTSIDE_S)
    assert {variation.pace for variation in all_run(study, task)} == {doubt.faster, doubt.slower}
    assert all(one.doubt == doubt for one in sensitivities_of(study, task).values())


def test_a_finalist_far_outside_what_was_measured_leaves_the_others_their_error(opened: Any):
    study, task = opened
    best = study.trials("simulation")[0]
    study.add(replace(best, metrics={**best.metrics, "far_share": 0.5}))
    asked = all_run(study, task)
    assert len(asked) == 2 * FINALISTS
    assert best.settings not in [variation.settings for variation in asked]
    assert best.key not in sensitivities_of(study, task) and len(sensitivities_of(study, task)) == FINALISTS


def test_a_plan_whose_profile_has_no_known_error(small_profile: Profile, small_trace: Any):
    base = Scenario("base", small_profile, small_trace(), Objective((Slo(99.0, "ttft", 200.0),)))
    plans = plan([base], jobs=1)
    assert with_other_step_times(plans[0]) == []
    assert document(plans, None)["sensitivity"] is None


def test_the_error_of_the_bundled_profile_is_known():
    assert sensitivity(load_profile("h200-llama-3.1-8b"), lambda factor: {}) is not None
