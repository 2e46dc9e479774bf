"""The best few of a search, which are looked at more closely, and those of which they are taken.

The longer load decides between those that last there (longer_load.py), since it holds many times the requests of the
trace, and the trace itself where none is known to.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import islice

from ...simulator.settings import Settings
from ..objective import Objective
from ..study.ranking import pareto_front, ranked, recommended, reference_of, unlike
from ..study.study import Study, Trial, settings_key
from ..study.task import Task
from .longer_load import LongerLoad, decided_by, longer_loads_of, lost_there

FINALISTS = 4
"""Configurations that run under other circumstances too, besides the default."""


def finalists(study: Study, task: Task) -> dict[str, Settings]:
    """The default, where it ran, and the best few, by `settings_key`."""
    default = [trial for trial in ran(study) if trial.key == settings_key(study.asked.engine)]
    return {trial.key: dict(trial.settings) for trial in [*default, *best_few(study, task)]}


def best_few(study: Study, task: Task) -> list[Trial]:
    """The best trials that are predicted to differ, of those that are eligible."""
    trials, longer = ran(study), longer_loads_of(study)
    candidates = eligible(trials, task, lost_there(trials, task, longer))
    held = decided_by(candidates, task, longer)
    if not held:
        return few(candidates, trials, task)
    known = {trial.number: trial for trial in held}
    return [known[one.number] for one in few(on_longer_load(held, longer), on_longer_load(trials, longer), task)]


def on_longer_load(trials: Sequence[Trial], longer: Mapping[str, LongerLoad]) -> list[Trial]:
    """Those of the trials that ran on the longer load, with what they gave there."""
    return [replace(trial, metrics=longer[trial.key].metrics) for trial in trials if trial.key in longer]


def ran(study: Study) -> list[Trial]:
    """The trials of a study that ran."""
    return [trial for trial in study.trials("simulation") if trial.metrics is not None]


def few(candidates: Sequence[Trial], trials: Sequence[Trial], task: Task) -> list[Trial]:
    """The best of the candidates, at most FINALISTS and none as another, beside the first of all trials."""
    objective, space = task.objective, task.space
    best = recommended(candidates, objective, space, reference_of(trials))
    if best is None:
        return []
    order = ranked(candidates, objective, space, reference_of(trials))
    return list(islice(unlike([best, *order], [], objective), FINALISTS))


def eligible(trials: Sequence[Trial], task: Task, lost: AbstractSet[str]) -> list[Trial]:
    """Those that may be recommended: none that misses targets where the best meets them and, with several goals, the
    front and the default, which may be beaten on this trace alone.

    `lost` holds the `settings_key` of those that do not last on the longer load: the front is that of the others.
    """
    objective, space, reference = task.objective, task.space, reference_of(trials)
    if len(objective.goals) > 1 and (front := front_without(trials, task, lost)):
        default = settings_key(task.asked.engine)
        own = [t for t in trials if t.key == default and t not in front and objective.meets(t.metrics or {})]
        return [*own, *front]
    best = recommended(trials, objective, space, reference)
    return [trial for trial in trials if best is not None and _rivals(trial, best, objective)]


def _rivals(trial: Trial, best: Trial, objective: Objective) -> bool:
    return objective.meets(trial.metrics or {}) or not objective.meets(best.metrics or {})


def front_without(trials: Sequence[Trial], task: Task, lost: AbstractSet[str]) -> list[Trial]:
    """The Pareto front of the trials that are not `lost` on the longer load."""
    lasting = [trial for trial in trials if trial.key not in lost]
    return pareto_front(lasting, task.objective, task.space, reference_of(trials))
