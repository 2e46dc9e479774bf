"""What is worth measuring: first by the simulator alone, then by the simulator corrected by what was measured."""

import math
from collections.abc import Sequence

from ..errors import SlotuneError
from ..simulator.engine_config import Settings
from .comparison import Compared, compared, default_metrics, quantities
from .correction import learned
from .objective import Objective
from .ranking import TIE, ranked, recommended
from .study import Study, Trial, settings_key
from .task import Task
from .verdict import Verdict, decide, mean_merit, merit_of

ALIKE = 0.005
"""Predictions within half a percent of each other: the engine would not tell such configurations apart either."""


def shortlist(study: Study, task: Task) -> list[Settings]:
    """Best first as predicted: the recommendation, then the rest as ranked.

    Left out: the default, and whatever is predicted to behave as one before it. Raises SlotuneError where nothing was
    simulated yet.
    """
    trials = study.trials("simulation")
    if not trials:
        raise SlotuneError(f"{study.folder}: no trial in it yet; run `slotune tune` first")
    reference = default_metrics(study)
    order = ranked(trials, task.objective, task.space, reference)
    best = recommended(trials, task.objective, task.space, reference)
    default = Trial(study.asked.engine, reference or None)
    return [dict(trial.settings) for trial in _unlike([best, *order] if best else order, [default], task.objective)]


def promising(study: Study, task: Task, before_round: int) -> list[Settings]:
    """What the corrected model holds for better than the best measured one, by more than the noise; best first.

    Only runs of earlier rounds than `before_round` are looked at, so that a validation that was killed chooses again
    what it had chosen.
    """
    found = [_earlier(one, before_round) for one in compared(study)]
    verdict = decide(found, task.objective)
    if verdict is None:
        return []
    correction = learned(found, quantities(task.objective), task.space)
    tried = {settings_key(one.settings) for one in found if one.runs or one.failures}
    trials = [t for t in study.trials("simulation") if t.metrics is not None]
    corrected = [Trial(t.settings, correction.corrected(t.settings, t.metrics or {}), number=t.number) for t in trials]
    known = [trial for trial in corrected if settings_key(trial.settings) in tried]
    order = ranked(corrected, task.objective, task.space, default_metrics(study))
    unknown = _unlike(order, known, task.objective)
    return [dict(trial.settings) for trial in unknown if _promises(trial, verdict, task.objective)]


def _earlier(one: Compared, before_round: int) -> Compared:
    runs = {number: metrics for number, metrics in one.runs.items() if number < before_round}
    failures = [trial for trial in one.failures if trial.repeat < before_round]
    return Compared(one.name, one.settings, one.predicted, runs, failures)


def _promises(trial: Trial, verdict: Verdict, objective: Objective) -> bool:
    """Whether the corrected prediction beats what the recommended configuration measured by more than the noise."""
    metrics = trial.metrics or {}
    if verdict.meets_targets and not objective.meets(metrics):
        return False
    merit = merit_of(objective) if verdict.meets_targets else objective.worst_ratio
    return merit(metrics) < mean_merit(verdict.recommended, merit) * (1 - _noise(verdict))


def _noise(verdict: Verdict) -> float:
    """Half the width of the paired interval, as a share; a tie where there is none."""
    change = verdict.advantage
    if change is None or math.isnan(change.low):
        return TIE
    return max(TIE, (change.high - change.low) / 2 / change.value)


def _unlike(trials: Sequence[Trial], known: Sequence[Trial], objective: Objective) -> list[Trial]:
    """Those that are neither known nor predicted to behave as one that is known or comes before."""
    taken, chosen = list(known), []
    for trial in trials:
        if not any(_alike(trial, other, objective) for other in taken):
            taken.append(trial)
            chosen.append(trial)
    return chosen


def _alike(one: Trial, other: Trial, objective: Objective) -> bool:
    """Whether they are the same, or predicted to be within ALIKE of each other in everything shown."""
    if settings_key(one.settings) == settings_key(other.settings):
        return True
    if one.metrics is None or other.metrics is None:
        return False
    mine, theirs = one.metrics, other.metrics
    return all(_near(quantity.of(mine), quantity.of(theirs)) for quantity in quantities(objective))


def _near(value: float, other: float) -> bool:
    return abs(value - other) <= ALIKE * abs(other) or (value != value and other != other)
