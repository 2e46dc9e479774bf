"""Which configurations run on the longer load: in place of those that do not last, the next best."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slotune.tuner.evaluate import Outcome
from slotune.tuner.finalists.choice import picked
from slotune.tuner.finalists.contenders import ROUNDS, run_longer_load, run_picked
from slotune.tuner.finalists.finalists import FINALISTS, best_few, finalists, front_without, ran
from slotune.tuner.finalists.longer_load import TIMES, LongerLoad, holding_up, longer_loads_of, lost_there
from slotune.tuner.finalists.variation import Variation
from slotune.tuner.hardware.shortlist import shortlist
from slotune.tuner.objective import Metrics, parse_goal
from slotune.tuner.study.study import Study, Trial, settings_key
from slotune.tuner.study.task import Task, load_task


@pytest.fixture
def opened(study: Path) -> Any:
    """The searched study, open, and its task."""
    with Study.open(study, writable=True) as found:
        yield found, load_task(found.asked)


def all_run(study: Study, task: Task, factor_of: Any) -> list[Variation]:
    """Run what is missing on a longer load whose latencies are those of the trace by a factor; what that was."""
    asked: list[Variation] = []

    def run_all(variations: Any) -> Any:
        for variation in variations:
            asked.append(variation)
            metrics = task.simulated()(variation.settings).metrics or {}
            yield Outcome(slower(metrics, factor_of(variation.settings)))

    run_longer_load(study, task, run_all, lambda trial: None)
    return asked


def slower(metrics: Metrics, factor: float) -> dict[str, float]:
    """The same with latencies by a factor, and nothing that piles up."""
    return {key: value * (factor if key.endswith("_ms") else 1) for key, value in metrics.items()} | {
        "piled_up_share": 0.0
    }


def test_where_all_last_the_best_few_are_tried_and_nothing_else(opened: Any):
    study, task = opened
    asked = all_run(study, task, lambda settings: 1.0)
    assert len(asked) == FINALISTS + 1 and asked[0].settings == study.asked.engine
    assert all_run(study, task, lambda settings: 1.0) == []


def test_in_place_of_those_that_do_not_last_the_next_best_are_tried(opened: Any):
    study, task = opened
    first = [trial.key for trial in best_few(study, task)]
    asked = all_run(study, task, lambda settings: 1000.0 if settings_key(settings) in first else 1.0)
    tried = [settings_key(variation.settings) for variation in asked]
    assert set(first) < set(tried) and len(set(tried)) == len(tried) <= 1 + ROUNDS * FINALISTS
    best = picked(study, task)
    assert best is not None and best.key in set(tried) - set(first)
    assert not set(first) & (finalists(study, task).keys() - {settings_key(study.asked.engine)})
    again = all_run(study, task, lambda settings: 1000.0 if settings_key(settings) in first else 1.0)
    assert again == [], "a study that goes on tries the same"


def test_where_none_lasts_the_rounds_end_and_the_trace_decides(opened: Any):
    study, task = opened
    before = picked(study, task)
    asked = all_run(study, task, lambda settings: 1000.0)
    assert FINALISTS < len(asked) <= 1 + ROUNDS * FINALISTS
    assert picked(study, task) == before


def test_headroom_on_the_longer_load_decides_between_those_that_last(opened: Any):
    study, task = opened
    best, second = best_few(study, task)[:2]
    asked = all_run(study, task, lambda settings: 1.2 if settings_key(settings) == best.key else 1.0)
    assert {best.key, second.key} <= {settings_key(variation.settings) for variation in asked}
    assert task.objective.meets(slower(best.metrics or {}, 1.2)), "it lasts, with less room"
    assert picked(study, task) == second
    assert shortlist(study, task)[0] == dict(second.settings)


def test_a_queue_that_grows_where_it_does_not_under_the_default_rules_out(opened: Any):
    study, task = opened
    one, default = best_few(study, task)[0], settings_key(study.asked.engine)
    fine = dict(one.metrics or {})

    def held(grows: float, under_default: float) -> bool:
        longer = {
            one.key: LongerLoad(TIMES, fine | {"piled_up_share": grows}),
            default: LongerLoad(TIMES, fine | {"piled_up_share": under_default}),
        }
        return one in holding_up([one], task, longer)

    assert [held(0.0, 0.0), held(0.05, 0.0), held(0.05, 0.05), held(0.05, 0.2)] == [True, False, True, True]


def test_a_trial_that_is_like_one_that_did_not_last_is_passed_over(opened: Any):
    study, task = opened
    first = best_few(study, task)
    copy = replace(first[-1], settings={**first[-1].settings, "max_num_seqs": 1000}, number=None)
    study.add(Trial(copy.settings, slower(first[-1].metrics or {}, 1.01), origin="sobol"))
    asked = all_run(study, task, lambda settings: 1000.0)
    tried = {settings_key(variation.settings) for variation in asked}
    assert first[-1].key in tried and copy.key not in tried


def test_a_study_that_ended_in_the_first_round_goes_on_with_the_same(opened: Any, study: Path, tmp_path: Path):
    """Of the longer loads it knows the default's alone."""
    first, task = opened
    shutil.copytree(study, tmp_path / "cut")
    asked = all_run(first, task, lambda settings: 1000.0)
    with Study.open(tmp_path / "cut", writable=True) as cut:
        default = slower(task.simulated()(cut.asked.engine).metrics or {}, 1000.0)
        cut.add(Trial(cut.asked.engine, default, where="longer load", repeat=TIMES, origin="longer load"))
        rest = all_run(cut, task, lambda settings: 1000.0)
    assert [one.settings for one in rest] == [one.settings for one in asked[1:]]


def test_what_is_recommended_ran_on_the_longer_load(opened: Any):
    """Also where none lasts, and a trial without its idle changes came last."""
    study, task = opened
    all_run(study, task, lambda settings: 1000.0)
    best = picked(study, task)
    assert best is not None
    twin = Trial(study.asked.engine | {"max_num_batched_tokens": 321}, best.metrics, origin="plain")
    study.add(twin)
    all_run(study, task, lambda settings: 1000.0)
    assert settings_key(twin.settings) in longer_loads_of(study)
    other = Trial(study.asked.engine | {"max_num_batched_tokens": 322}, slower(best.metrics or {}, 0.5), origin="sobol")
    study.add(other)
    asked: list[Variation] = []

    def run_all(variations: Any) -> Any:
        asked.extend(variations)
        return iter([Outcome(slower(other.metrics or {}, 1000.0)) for _ in asked])

    run_picked(study, task, run_all, lambda trial: None)
    chosen = picked(study, task)
    assert chosen is not None and chosen.key in longer_loads_of(study)


def test_with_several_goals_what_lasts_is_tried_where_the_front_does_not(opened: Any):
    """The front of the trace alone lost its target where the load goes on, and the default was kept."""
    study, asked = opened
    goals = (parse_goal("output_throughput", maximize=True), parse_goal("mean_e2el_ms", maximize=False))
    task = replace(asked, objective=replace(asked.objective, goals=goals))
    default = settings_key(study.asked.engine)
    first = {trial.key for trial in best_few(study, task)} - {default}
    budgets = {trial.settings.get("max_num_batched_tokens") for trial in ran(study) if trial.key in first} - {None}
    all_run(study, task, lambda settings: 1000.0 if settings.get("max_num_batched_tokens") in budgets else 1.0)
    known = longer_loads_of(study)
    lost = lost_there(ran(study), task, known)
    assert first <= lost and known.keys() - lost - {default}, "others were tried"
    best = picked(study, task)
    assert best is not None and best.key not in lost
    assert not lost & {trial.key for trial in front_without(ran(study), task, lost)}


def test_behind_a_short_front_the_next_best_are_tried_too(opened: Any):
    study, asked = opened
    goals = tuple(parse_goal(name, maximize=False) for name in ("mean_e2el_ms", "p99_e2el_ms"))
    task = replace(asked, objective=replace(asked.objective, goals=goals))
    front = front_without(ran(study), task, set())
    tried = all_run(study, task, lambda settings: 1.0)
    assert len(front) < FINALISTS and len(tried) >= FINALISTS
    assert {trial.key for trial in front} < {settings_key(variation.settings) for variation in tried}


def test_where_nothing_lasts_none_is_lost(opened: Any):
    study, task = opened
    all_run(study, task, lambda settings: 1000.0)
    assert lost_there(ran(study), task, longer_loads_of(study)) == set()
