"""The best few of a search, which are looked at more closely, and those of which they are taken."""

from collections.abc import Sequence
from itertools import islice

from ..simulator.settings import Settings
from .objective import Objective
from .ranking import pareto_front, ranked, recommended, reference_of, unlike
from .study import Study, Trial, settings_key
from .task import Task

FINALISTS = 4
"""Configurations that run under other circumstances too, besides the default."""


def finalists(study: Study, task: Task) -> dict[str, Settings]:
    """The default, where it ran, and the best few, by `settings_key`."""
    trials = ran(study)
    default = [trial for trial in trials if trial.key == settings_key(study.asked.engine)]
    return {trial.key: dict(trial.settings) for trial in [*default, *_best_few(trials, task)]}


def ran(study: Study) -> list[Trial]:
    """The trials of a study that ran."""
    return [trial for trial in study.trials("simulation") if trial.metrics is not None]


def _best_few(trials: Sequence[Trial], task: Task) -> list[Trial]:
    """The best trials that are predicted to differ, of those that are eligible."""
    objective, space = task.objective, task.space
    candidates = eligible(trials, task)
    best = recommended(candidates, objective, space, reference_of(trials))
    if best is None:
        return []
    order = ranked(candidates, objective, space, reference_of(trials))
    return list(islice(unlike([best, *order], [], objective), FINALISTS))


def eligible(trials: Sequence[Trial], task: Task) -> list[Trial]:
    """Those that may be recommended: none that misses targets where the best meets them and, with several goals, none
    that another beats in all of them."""
    objective, space, reference = task.objective, task.space, reference_of(trials)
    if len(objective.goals) > 1 and (front := pareto_front(trials, objective, space, reference)):
        return front
    best = recommended(trials, objective, space, reference)
    return [trial for trial in trials if best is not None and _rivals(trial, best, objective)]


def _rivals(trial: Trial, best: Trial, objective: Objective) -> bool:
    return objective.meets(trial.metrics or {}) or not objective.meets(best.metrics or {})
