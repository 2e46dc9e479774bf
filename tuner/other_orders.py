"""The best few of a search on other orders of the same requests, and which of them is best on the whole.

The winner of many trials on one order of requests owes a part of its lead to that order, and its prediction is too good
by as much. So the best few and the default also run on orders that no trial has seen: what they give there decides
between them, and how far it lies apart is told beside the prediction.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import islice
from math import isnan

import numpy as np

from ..simulator.engine_config import Settings
from ..traces.trace import Trace
from .evaluate import Outcome, SimulatedRun
from .objective import Metrics, Objective
from .ranking import ranked, recommended, unlike
from .study import Study, Trial, settings_key
from .task import Task

FINALISTS = 4
"""Configurations that run on other orders, besides the default."""
ORDERS = 6
"""Enough for a mean whose error is less than half the spread, at the cost of 30 trials."""
ORIGIN = "other order"


def rotated(trace: Trace, number: int) -> Trace:
    """Order `number` (1 to ORDERS) of a trace: the arrival times stay, the requests move on along them.

    What follows what stays too, so bursts, conversations and shared prefixes are as they were; which request meets
    which burst is not.
    """
    first = number * len(trace) // (ORDERS + 1)
    return replace(trace.taken(np.roll(np.arange(len(trace)), -first)), arrival_s=trace.arrival_s)


@dataclass(frozen=True, slots=True)
class OrderedRun:
    """Runs settings on one order of a trace; order 0 is the trace as it is."""

    simulated: SimulatedRun

    def __call__(self, question: tuple[Settings, int]) -> Outcome:
        settings, number = question
        if number == 0:
            return self.simulated(settings)
        return replace(self.simulated, trace=rotated(self.simulated.trace, number))(settings)


@dataclass(frozen=True, slots=True)
class OtherOrders:
    """What a configuration gave on the other orders."""

    runs: Sequence[Metrics]

    def mean(self) -> dict[str, float]:
        """The mean of each metric; NaN where an order has none."""
        return {key: float(np.mean([metrics[key] for metrics in self.runs])) for key in self.runs[0]}

    def range(self, key: str) -> tuple[float, float]:
        """Least and greatest value of a metric; NaN where an order has none."""
        values = [metrics[key] for metrics in self.runs]
        return (min(values), max(values)) if not any(map(isnan, values)) else (np.nan, np.nan)

    def meeting(self, met: Callable[[Metrics], bool]) -> int:
        """On how many orders `met` holds."""
        return sum(map(met, self.runs))


def orders_of(study: Study) -> dict[str, OtherOrders]:
    """What the study knows of other orders, by `settings_key`."""
    runs: dict[str, list[Metrics]] = {}
    for trial in study.trials("other orders"):
        if trial.metrics is not None:
            runs.setdefault(settings_key(trial.settings), []).append(trial.metrics)
    return {key: OtherOrders(metrics) for key, metrics in runs.items()}


def run_other_orders(
    study: Study,
    task: Task,
    run_all: Callable[[Iterable[tuple[Settings, int]]], Iterator[Outcome]],
    on_trial: Callable[[Trial], None],
) -> None:
    """Run the default and the finalists on every order, each put in the study when it ends; known ones are not run."""
    trials = _ran(study)
    default = [trial for trial in trials if settings_key(trial.settings) == settings_key(study.asked.engine)]
    known = {(settings_key(trial.settings), trial.repeat) for trial in study.trials("other orders")}
    chosen = {settings_key(trial.settings): dict(trial.settings) for trial in [*default, *_finalists(trials, task)]}
    numbers = range(1, min(ORDERS, len(task.trace) - 1) + 1)
    missing = [(chosen[key], number) for key in chosen for number in numbers if (key, number) not in known]
    for (settings, number), outcome in zip(missing, run_all(missing), strict=True):
        trial = Trial(
            settings,
            outcome.metrics,
            outcome.failure,
            outcome.message,
            "other orders",
            number,
            ORIGIN,
            outcome.duration_s,
        )
        study.add(trial)
        on_trial(trial)


def picked(study: Study, task: Task, without: AbstractSet[str] = frozenset()) -> Trial | None:
    """The configuration that the simulations of a study speak for; None where nothing ran.

    The finalists' means over the other orders decide, or the trials alone where those are not known. `without` holds
    the `settings_key` of configurations that are out of the question.
    """
    trials = [trial for trial in _ran(study) if settings_key(trial.settings) not in without]
    orders = orders_of(study)
    finalists = [trial for trial in _finalists(trials, task) if settings_key(trial.settings) in orders]
    if not finalists:
        return recommended(trials, task.objective, task.space, _reference(trials))
    means = [replace(trial, metrics=orders[settings_key(trial.settings)].mean()) for trial in finalists]
    default = orders.get(settings_key(study.asked.engine))
    best = recommended(means, task.objective, task.space, default.mean() if default else _reference(means))
    return next(trial for trial in finalists if best is not None and trial.number == best.number)


def _ran(study: Study) -> list[Trial]:
    return [trial for trial in study.trials("simulation") if trial.metrics is not None]


def _reference(trials: Sequence[Trial]) -> Metrics:
    """What goals are measured against: the first trial, which is the default where it ran."""
    return (trials[0].metrics or {}) if trials else {}


def _finalists(trials: Sequence[Trial], task: Task) -> list[Trial]:
    """The best trials that are predicted to differ, none that misses targets where the best meets them."""
    objective, space = task.objective, task.space
    best = recommended(trials, objective, space, _reference(trials))
    if best is None:
        return []
    order = [trial for trial in ranked(trials, objective, space, _reference(trials)) if _rivals(trial, best, objective)]
    return list(islice(unlike([best, *order], [], objective), FINALISTS))


def _rivals(trial: Trial, best: Trial, objective: Objective) -> bool:
    return objective.meets(trial.metrics or {}) or not objective.meets(best.metrics or {})
