"""The best few of a search on other orders of the same requests, and which of them is best on the whole.

The winner of many trials on one order of requests owes a part of its lead to that order, and its prediction is too good
by as much. So the best few and the default also run on orders that no trial has seen: what they give there decides
between them, and how far it lies apart is told beside the prediction.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import islice
from math import inf, isnan

import numpy as np

from ..simulator.engine_config import Settings
from ..simulator.slo import OF_ALL
from .objective import Metrics, Objective
from .ranking import pareto_front, ranked, recommended, reference_of, unlike
from .study import Study, Trial, settings_key
from .task import Task
from .variation import ORDERS, RunVariations, Variation, run_variations

FINALISTS = 4
"""Configurations that run on other orders, besides the default."""
ORIGIN = "other order"


@dataclass(frozen=True, slots=True)
class OtherOrders:
    """What a configuration gave on the other orders."""

    runs: Sequence[Metrics]

    def mean(self) -> dict[str, float]:
        """The mean of each metric; NaN where an order has none."""
        keys = dict.fromkeys(key for metrics in self.runs for key in metrics)
        return {key: float(np.mean([_of(metrics, key) for metrics in self.runs])) for key in keys}

    def range(self, value: Callable[[Metrics], float]) -> tuple[float, float]:
        """Least and greatest of what `value` reads off an order; NaN where one has none."""
        values = list(map(value, self.runs))
        return (min(values), max(values)) if not any(map(isnan, values)) else (np.nan, np.nan)

    def meeting(self, met: Callable[[Metrics], bool]) -> int:
        """On how many orders `met` holds."""
        return sum(map(met, self.runs))


def _of(metrics: Metrics, key: str) -> float:
    """A metric; a percentile of all requests also where all were answered, which are all then, and where more were not
    than it leaves out, which wait for ever (simulator/metrics.py has it in between only)."""
    if key in metrics or not key.endswith(OF_ALL):
        return metrics[key]
    return inf if metrics["failed"] else metrics[key.removesuffix(OF_ALL)]


def orders_of(study: Study) -> dict[str, OtherOrders]:
    """What the study knows of other orders, by `settings_key`."""
    runs: dict[str, list[Metrics]] = {}
    for trial in study.trials("other orders"):
        if trial.metrics is not None:
            runs.setdefault(trial.key, []).append(trial.metrics)
    return {key: OtherOrders(metrics) for key, metrics in runs.items()}


def run_other_orders(
    study: Study,
    task: Task,
    run_all: RunVariations,
    on_trial: Callable[[Trial], None],
) -> None:
    """Run the default and the finalists on every order, each put in the study when it ends; known ones are not run."""
    known = {(trial.key, trial.repeat) for trial in study.trials("other orders")}
    numbers = range(1, min(ORDERS, len(task.trace) - 1) + 1)
    missing = [
        (number, Variation(settings, number))
        for key, settings in finalists(study, task).items()
        for number in numbers
        if (key, number) not in known
    ]
    run_variations(study, "other orders", ORIGIN, missing, run_all, on_trial)


def finalists(study: Study, task: Task) -> dict[str, Settings]:
    """The default, where it ran, and the best few, by `settings_key`."""
    trials = _ran(study)
    default = [trial for trial in trials if trial.key == settings_key(study.asked.engine)]
    return {trial.key: dict(trial.settings) for trial in [*default, *_best_few(trials, task)]}


def picked(study: Study, task: Task, without: AbstractSet[str] = frozenset()) -> Trial | None:
    """The configuration that the simulations of a study speak for; None where nothing ran.

    The finalists' means over the other orders decide, or the trials alone where those are not known. `without` holds
    the `settings_key` of configurations that are out of the question.
    """
    trials = [trial for trial in _ran(study) if trial.key not in without]
    orders, eligible = orders_of(study), _eligible(trials, task)
    ordered = [trial for trial in eligible if trial.key in orders]
    if not ordered:
        return recommended(eligible, task.objective, task.space, reference_of(trials))
    means = [replace(trial, metrics=orders[trial.key].mean()) for trial in ordered]
    default = orders.get(settings_key(study.asked.engine))
    best = recommended(means, task.objective, task.space, default.mean() if default else reference_of(means))
    return next(trial for trial in ordered if best is not None and trial.number == best.number)


def _ran(study: Study) -> list[Trial]:
    return [trial for trial in study.trials("simulation") if trial.metrics is not None]


def _best_few(trials: Sequence[Trial], task: Task) -> list[Trial]:
    """The best trials that are predicted to differ, of those that are eligible."""
    objective, space = task.objective, task.space
    eligible = _eligible(trials, task)
    best = recommended(eligible, objective, space, reference_of(trials))
    if best is None:
        return []
    order = ranked(eligible, objective, space, reference_of(trials))
    return list(islice(unlike([best, *order], [], objective), FINALISTS))


def _eligible(trials: Sequence[Trial], task: Task) -> list[Trial]:
    """Those that may be recommended: none that misses targets where the best meets them and, with several goals, none
    that another beats in all of them."""
    objective, space, reference = task.objective, task.space, reference_of(trials)
    if len(objective.goals) > 1 and (front := pareto_front(trials, objective, space, reference)):
        return front
    best = recommended(trials, objective, space, reference)
    return [trial for trial in trials if best is not None and _rivals(trial, best, objective)]


def _rivals(trial: Trial, best: Trial, objective: Objective) -> bool:
    return objective.meets(trial.metrics or {}) or not objective.meets(best.metrics or {})
