"""Which trial is the recommendation, and why: targets first, then the goal, then as few changes as possible."""

import math
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter

from ..objective import Goal, Metrics, Objective, failed_share, keeps_up
from .comparison import Quantity, quantities
from .space import SearchSpace
from .study import Trial

TIE = 0.01
"""Goals within 1 % are ties: vLLM's recipes use the same, and no engine is steadier from run to run."""
HEADROOM_TIE = 0.02
"""Latencies within 2 % of their limit are ties where the targets are met: nobody changes a setting for less."""
ALIKE = 0.005
"""Predictions within half a percent of each other: the engine would not tell such configurations apart either."""


def reference_of(trials: Sequence[Trial]) -> Metrics:
    """What goals are measured against: the first trial that ran, which is the default where it did."""
    return next((trial.metrics for trial in trials if trial.metrics is not None), {})


def ranked(trials: Sequence[Trial], objective: Objective, space: SearchSpace, reference: Metrics) -> list[Trial]:
    """Trials that ran, best first: lower cost, and among equal costs fewer changes. Several goals count equally."""
    ran = [trial for trial in trials if trial.metrics is not None]
    return sorted(ran, key=lambda t: (_total(t, objective, reference), len(space.changes(t.settings)), t.number or 0))


def recommended(trials: Sequence[Trial], objective: Objective, space: SearchSpace, reference: Metrics) -> Trial | None:
    """The best trial or, among those that are as good within TIE, the one with the fewest changes from the default."""
    order = ranked(trials, objective, space, reference)
    if not order:
        return None
    ties = [trial for trial in order if as_good(trial, order[0], objective, reference)]
    return min(ties, key=lambda trial: len(space.changes(trial.settings)))


def as_good(trial: Trial, best: Trial, objective: Objective, reference: Metrics) -> bool:
    """Whether `trial` is worse than `best` in no goal by more than TIE or, without goals, in headroom by HEADROOM_TIE.

    It is not as good when it misses the targets and `best` meets them; where both miss, the worst ratio counts.
    """
    if trial.metrics is None or best.metrics is None:
        return False
    mine, theirs = objective.worst_ratio(trial.metrics), objective.worst_ratio(best.metrics)
    if not objective.meets(best.metrics):
        return mine <= theirs * (1 + TIE) and failed_share(trial.metrics) <= failed_share(best.metrics)
    if not objective.meets(trial.metrics):
        return False
    goals = objective.effective_goals
    if goals and not objective.serves_as_much(trial.metrics, best.metrics):
        return False
    if not goals and keeps_up(best.metrics, reference) and not keeps_up(trial.metrics, reference):
        return False
    if not goals:
        return mine <= theirs + HEADROOM_TIE
    return all(_ties(goal, trial.metrics, best.metrics) for goal in goals)


def _ties(goal: Goal, mine: Metrics, best: Metrics) -> bool:
    """Whether it is worse by no more than TIE; everything ties with a best that has no value."""
    return math.isinf(goal.loss(best, best)) or goal.loss(mine, best) <= math.log1p(TIE)


def pareto_front(trials: Sequence[Trial], objective: Objective, space: SearchSpace, reference: Metrics) -> list[Trial]:
    """Trials that meet the targets and that no other such trial beats: is better in a goal by more than TIE, and worse
    in none by more than that (of several others, by more than their parts of it, so that no circle of trials beats
    itself away). Of trials that tie in every goal, the one with the fewest changes from the default.
    """
    plain_first = sorted(trials, key=lambda t: (len(space.changes(t.settings)), t.number or 0))
    goals, tie = objective.effective_goals, math.log1p(TIE)
    losses = [
        (tuple(goal.loss(trial.metrics, reference) for goal in goals), trial)
        for trial in plain_first
        if trial.metrics is not None
        and objective.meets(trial.metrics)
        and objective.serves_as_much(trial.metrics, reference)
    ]
    worse = tie / max(len(goals) - 1, 1)
    front: list[tuple[tuple[float, ...], Trial]] = []
    for mine, trial in losses:
        beaten = any(_beats(other, mine, tie, worse) for other, _ in losses)
        if not beaten and not any(_within(other, mine, tie) for other, _ in front):
            front.append((mine, trial))
    return [trial for _, trial in sorted(front, key=itemgetter(0))]


def _beats(one: Sequence[float], other: Sequence[float], by: float, worse: float) -> bool:
    pairs = list(zip(one, other, strict=True))
    return any(mine < theirs - by for mine, theirs in pairs) and all(mine <= theirs + worse for mine, theirs in pairs)


def _within(one: Sequence[float], other: Sequence[float], by: float) -> bool:
    return all(mine <= theirs + by and theirs <= mine + by for mine, theirs in zip(one, other, strict=True))


def unlike(
    trials: Iterable[Trial], known: Iterable[Trial], objective: Objective, within: float = ALIKE
) -> Iterator[Trial]:
    """Those that are neither known nor predicted to behave, `within` a share, as one that is known or comes before."""
    taken, shown = list(known), quantities(objective)
    for trial in trials:
        if not any(alike(trial, other, shown, within) for other in taken):
            taken.append(trial)
            yield trial


def alike(one: Trial, other: Trial, shown: Iterable[Quantity], within: float) -> bool:
    """Whether they are the same, or predicted to be within a share of each other in everything shown."""
    if one.key == other.key:
        return True
    if one.metrics is None or other.metrics is None:
        return False
    mine, theirs = one.metrics, other.metrics
    return all(_near(quantity.of(mine), quantity.of(theirs), within) for quantity in shown)


def _near(value: float, other: float, within: float) -> bool:
    return abs(value - other) <= within * abs(other) or (value != value and other != other)


def _total(trial: Trial, objective: Objective, reference: Metrics) -> float:
    return sum(objective.costs(trial.metrics, reference))
