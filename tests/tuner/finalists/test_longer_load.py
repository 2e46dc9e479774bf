"""The best few on the same traffic for many times as long: what runs, what it decides, and what is told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slotune.errors import InfeasibleError
from slotune.simulator.slo import parse_slo
from slotune.traces.stats import request_rate
from slotune.tuner.evaluate import SimulatedRun
from slotune.tuner.finalists import longer_load
from slotune.tuner.finalists.choice import picked
from slotune.tuner.finalists.contenders import run_longer_load
from slotune.tuner.finalists.finalists import FINALISTS, finalists
from slotune.tuner.finalists.longer_load import (
    TIMES,
    LongerLoad,
    longer_by,
    longer_loads_of,
    lost_targets,
    without_chance,
)
from slotune.tuner.finalists.variation import Variation, VariedRun
from slotune.tuner.objective import Objective
from slotune.tuner.pages.report import write_report
from slotune.tuner.recommendation import best_yaml_of, require_targets
from slotune.tuner.study.study import Study, Trial, read_asked, settings_key
from slotune.tuner.study.task import Task, load_task
from slotune.tuner.traffic.steady_load import lasting_seed, ordered
from slotune.tuner.tune import tune


@pytest.fixture
def opened(study: Path) -> Any:
    """The searched study, open, and its task."""
    with Study.open(study, writable=True) as found:
        yield found, load_task(found.asked)


def all_run(study: Study, task: Task) -> list[Variation]:
    """Run what is missing; what that was."""
    asked: list[Variation] = []

    def run_all(variations: Any) -> Any:
        for variation in variations:
            asked.append(variation)
            yield VariedRun(task.simulated())(variation)

    run_longer_load(study, task, run_all, lambda trial: None)
    return asked


def put(study: Study, trial: Trial, factor: float) -> None:
    """Give a trial a run on the longer load: its own metrics, latencies by a factor."""
    metrics = {key: value * (factor if key.endswith("_ms") else 1) for key, value in (trial.metrics or {}).items()}
    study.add(replace(trial, metrics=metrics, where="longer load", repeat=TIMES, number=None))


def test_the_default_and_the_finalists_run_once_on_the_longer_load(opened: Any):
    study, task = opened
    asked = all_run(study, task)
    assert len(asked) == FINALISTS + 1 and {variation.times for variation in asked} == {TIMES}
    known = longer_loads_of(study)
    assert known.keys() == finalists(study, task).keys()
    default = known[settings_key(task.asked.engine)]
    assert default.label == "30 times as long"
    assert default.metrics["completed"] == TIMES * len(task.trace)
    assert all_run(study, task) == []


def test_the_longer_load_is_the_same_traffic_at_the_same_rate(small_profile: Any, small_trace: Any):
    simulated = SimulatedRun(small_profile, small_trace(70))
    lasting = ordered(simulated.trace, TIMES * 70, request_rate(simulated.trace), lasting_seed(simulated.trace))
    assert len(lasting) == TIMES * 70 and request_rate(lasting) == pytest.approx(request_rate(simulated.trace))
    varied = VariedRun(simulated)(Variation({}, times=TIMES)).metrics
    assert varied == replace(simulated, trace=lasting)({}).metrics


def test_a_load_that_has_nothing_to_lengthen_is_not(opened: Any, monkeypatch: pytest.MonkeyPatch):
    study, task = opened
    at_once = replace(task.trace, arrival_s=np.zeros(len(task.trace)))
    closed = replace(task, asked=task.asked.model_copy(update={"max_concurrency": 4}))
    assert longer_by(closed) == TIMES, "the limit may never be reached"
    for other in (
        replace(task, trace=at_once),
        replace(task, trace=task.trace.taken(np.array([0]))),
    ):
        assert longer_by(other) == 1 and all_run(study, other) == []
    assert longer_by(replace(closed, trace=at_once)) == TIMES, "a client that waits goes on as it began"
    wide = replace(task, trace=at_once, asked=task.asked.model_copy(update={"max_concurrency": len(at_once)}))
    assert longer_by(wide) == 1, "it never waits, and more at once are another load"
    for most, times in ((3, 3), (1.9, 1), (0.5, 1)):
        monkeypatch.setattr(longer_load, "MOST_LOAD_REQUESTS", int(most * len(task.trace)))
        assert longer_by(task) == times


def test_one_that_misses_on_the_longer_load_is_not_picked_where_another_holds(opened: Any):
    study, task = opened
    best = picked(study, task)
    assert best is not None and task.objective.meets(best.metrics)
    rest = [trial for trial in study.trials("simulation") if trial.key in finalists(study, task).keys() - {best.key}]
    holds = next(trial for trial in rest if task.objective.meets(trial.metrics))
    put(study, best, 1000)
    assert picked(study, task) == best, "where none holds, the longer load decides nothing"
    put(study, holds, 1)
    assert picked(study, task) == holds
    put(study, best, 1)
    assert picked(study, task) == best


def test_where_none_meets_the_targets_at_all_the_longer_load_tells_which_is_nearest(opened: Any):
    """The nearest on a short trace may be one that is overloaded."""
    study, task = opened
    hopeless = replace(task, objective=Objective((parse_slo("p99:ttft:0.001"),)))
    best = picked(study, hopeless)
    other = next(trial for trial in study.trials("simulation") if trial.metrics and trial.key != best.key)
    put(study, best, 1000)
    put(study, other, 1)
    assert picked(study, hopeless) == other


def slow(trial: Trial) -> Trial:
    return replace(trial, metrics={key: 99 * value for key, value in (trial.metrics or {}).items()}, number=None)


def test_targets_that_are_met_on_the_longer_load_only_are_told_so(study: Path):
    found = tune(read_asked(study), study, jobs=1)
    with pytest.raises(InfeasibleError, match="the recommended settings do if the same traffic lasts 30 times as"):
        require_targets(replace(found, best=slow(found.best)))
    overloaded = LongerLoad(TIMES, {key: 1e6 * value for key, value in (found.best.metrics or {}).items()})
    worse = replace(found, best=slow(found.best), longer_loads={found.best.key: overloaded})
    with pytest.raises(
        InfeasibleError, match=r"the nearest overall has .* ms if the same traffic lasts 30 times as long,"
    ):
        require_targets(worse)
    with Study.open(study, writable=True) as opened:
        for trial in opened.trials("simulation"):
            opened.add(slow(trial))
    page = write_report(study, jobs=1).read_text()
    assert "no configuration meets every target on this trace; this one does if its traffic continues" in page


def test_targets_that_the_longer_load_loses_are_named():
    objective = Objective((parse_slo("p99:ttft:500"), parse_slo("p99:tpot:30")))
    fine = {"p99_ttft_ms": 400.0, "p99_tpot_ms": 20.0, "completed": 9.0, "failed": 0.0}
    longer = LongerLoad(10, fine | {"p99_ttft_ms": 12_017.3})
    (line,) = lost_targets(objective, fine, longer)
    assert "miss p99:ttft:500 (12,017 ms) if the same traffic lasts 10 times as long" in line
    assert lost_targets(objective, fine | {"p99_ttft_ms": 501.0}, longer) == []
    assert lost_targets(objective, fine, LongerLoad(10, fine)) == lost_targets(objective, fine, None) == []


def test_goodput_that_the_longer_load_loses_is_named():
    objective = Objective((parse_slo("p99:ttft:500"),), goodput={"ttft": 100.0})
    fine = {"p99_ttft_ms": 90.0, "completed": 9.0, "failed": 0.0, "request_throughput": 5.0, "request_goodput": 5.0}
    (line,) = lost_targets(objective, fine, LongerLoad(10, fine | {"request_goodput": 4.0}))
    assert "miss 99% of requests good (80.0%) if" in line


def test_what_piles_up_by_chance_on_a_short_trace_is_no_doubt(small_trace: Any):
    ends_high = {"piled_up_share": 0.2}
    trace = small_trace(70)
    calm = LongerLoad(10, {"piled_up_share": 0.001})
    assert without_chance(ends_high, calm, trace) == {"piled_up_share": 0}
    assert without_chance(ends_high, LongerLoad(10, {"piled_up_share": 0.07}), trace) == ends_high
    assert without_chance(ends_high, None, trace) == ends_high
    assert without_chance({}, None, trace) == {}, "an earlier version did not keep it"
    rising = small_trace(700)
    rising = replace(rising, arrival_s=np.sqrt(rising.arrival_s))
    assert without_chance(ends_high, calm, rising) == ends_high


def test_a_recommendation_tells_of_no_pile_that_the_longer_load_does_not_have(study: Path):
    found = tune(read_asked(study), study, jobs=1)
    short = replace(found.best, metrics={**(found.best.metrics or {}), "piled_up_share": 0.2})
    assert found.longer_load_of(short).metrics["piled_up_share"] < 0.05
    alarmed = replace(found, best=short, longer_loads={})
    assert "pile up" in best_yaml_of(alarmed) and alarmed.trust()["piled_up_share"] == 0.2
    calm = replace(found, best=short)
    assert "pile up" not in best_yaml_of(calm) and calm.trust()["piled_up_share"] == 0
