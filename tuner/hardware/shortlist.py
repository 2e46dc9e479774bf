"""What is worth measuring: first by the simulator alone, then by the simulator corrected by what was measured."""

import math
from dataclasses import replace

from ...errors import SlotuneError
from ...simulator.settings import Settings
from ..finalists.choice import picked
from ..finalists.finalists import best_few
from ..objective import Metrics, Objective
from ..study.comparison import Compared, compared, default_trial, quantities
from ..study.ranking import TIE, ranked, reference_of, unlike
from ..study.study import Study, Trial
from ..study.task import Task
from .correction import learned
from .verdict import Verdict, decide, mean_merit, merit_of


def shortlist(study: Study, task: Task) -> list[Settings]:
    """Best first as predicted: the recommendation, the other finalists, then the rest as ranked.

    Left out: the default, and whatever is predicted to behave as one before it. Raises SlotuneError where nothing was
    simulated yet.
    """
    trials = study.trials("simulation")
    if not trials:
        raise SlotuneError(f"{study.folder}: no trial in it yet; run `slotune tune` first")
    order = ranked(trials, task.objective, task.space, reference_of(trials))
    best = picked(study, task)
    best_first = [best, *best_few(study, task), *order] if best else order
    return [dict(trial.settings) for trial in unlike(best_first, [default_trial(study)], task.objective)]


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
    tried = {one.key for one in found if one.runs or one.failures}
    trials = [t for t in study.trials("simulation") if t.metrics is not None and task.space.holds(t.settings)]
    corrected = [Trial(t.settings, correction.corrected(t.settings, t.metrics or {}), number=t.number) for t in trials]
    reference = reference_of(corrected)
    known = [trial for trial in corrected if trial.key in tried]
    order = ranked(corrected, task.objective, task.space, reference)
    unknown = unlike(order, known, task.objective)
    return [dict(trial.settings) for trial in unknown if _promises(trial, verdict, task.objective, reference)]


def _earlier(one: Compared, before_round: int) -> Compared:
    runs = {number: metrics for number, metrics in one.runs.items() if number < before_round}
    failures = [trial for trial in one.failures if trial.repeat < before_round]
    return replace(one, runs=runs, failures=failures)


def _promises(trial: Trial, verdict: Verdict, objective: Objective, reference: Metrics) -> bool:
    """Whether the corrected prediction beats what the recommended configuration measured by more than the noise."""
    metrics = trial.metrics or {}
    if verdict.meets_targets and not (objective.meets(metrics) and objective.serves_as_much(metrics, reference)):
        return False
    merit = merit_of(objective) if verdict.meets_targets else objective.worst_ratio
    measured = mean_merit(verdict.recommended, merit)
    # Without a measured merit the model was not corrected: it would promise the same for ever.
    return math.isfinite(measured) and merit(metrics) < measured * (1 - _noise(verdict))


def _noise(verdict: Verdict) -> float:
    """Half the width of the paired interval, as a share; a tie where there is none."""
    change = verdict.advantage
    if change is None or not (change.value and math.isfinite(change.low)):
        return TIE
    return max(TIE, (change.high - change.low) / 2 / change.value)
