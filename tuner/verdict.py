"""What the measurements on the engine allow to be said: which configuration to run, and whether it is really better.

A configuration is recommended over the default when it meets the targets on average over its runs and its advantage,
paired by round, exceeds the noise between runs. Picking the best of K and then testing it is K comparisons, so the
intervals are Bonferroni's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .comparison import Compared, changes_text
from .intervals import Interval, mean_interval, paired_ratio
from .objective import Metrics, Objective

MANIFOLD = 5.0
"""From here on a change is told as a factor."""

Merit = Callable[[Metrics], float]
"""A run's figure of merit: positive, lower is better."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The recommendation after validation."""

    recommended: Compared
    meets_targets: bool
    proven: bool
    """Whether the advantage over the default exceeds the noise; true for the default itself."""
    advantage: Interval | None
    """Merit against the default's, paired by round: below 1 is better. None where there is nothing to compare."""
    sentence: str


def decide(found: Sequence[Compared], objective: Objective) -> Verdict | None:
    """The verdict on the default (first in `found`) and the others; None where nothing was measured."""
    default, others = found[0], [one for one in found[1:] if one.runs]
    if not others and not default.runs:
        return None
    good = [one for one in others if meets(one, objective)]
    if not good:
        return _without_candidate(default, others, objective)
    merit = merit_of(objective) if meets(default, objective) else objective.worst_ratio
    if not default.runs:
        best = min(good, key=lambda one: mean_merit(one, merit))
        return Verdict(best, True, True, None, "The default did not run; of those that did, this one is best.")
    # By pairs and not by means: later batches of runs may have met a slower machine.
    advantages = {one.name: _advantage(one, default, merit, len(others)) for one in good}
    best = min(good, key=lambda one: _or_last(advantages[one.name].value))
    advantage = advantages[best.name]
    if not meets(default, objective):
        return _over_missing_default(best, advantage)
    if advantage.high < 1:
        what = f"{_better(advantage)} than the default in {merit_name(objective)}"
        return Verdict(best, True, True, advantage, f"Measured {what}, beyond the noise between runs.")
    return Verdict(default, True, True, advantage, _as_good(best, default, advantage))


def meets(one: Compared, objective: Objective) -> bool:
    """Whether the mean over the runs meets every target."""
    return bool(one.runs) and all(
        mean_merit(one, lambda metrics, slo=slo: objective.ratio(slo, metrics)) <= 1  # type: ignore[misc]
        for slo in objective.slos
    )


def merit_of(objective: Objective) -> Merit:
    """What "better" is measured by: the goals (their geometric mean), or the worst ratio of a latency to its target."""
    goals = objective.effective_goals()
    if not goals:
        return objective.worst_ratio

    def merit(metrics: Metrics) -> float:
        values = [metrics.get(goal.metric, math.nan) for goal in goals]
        if not all(math.isfinite(value) and value > 0 for value in values):
            return math.inf
        logs = [math.log(v) * (-1 if goal.maximize else 1) for v, goal in zip(values, goals, strict=True)]
        return math.exp(math.fsum(logs) / len(logs))

    return merit


def merit_name(objective: Objective) -> str:
    """The merit in words."""
    goals = objective.effective_goals()
    return " and ".join(goal.metric for goal in goals) if goals else "the worst latency against its target"


def percent(ratio: float) -> str:
    """A ratio as a signed change in per cent, or as a factor where that is easier to read."""
    return f"{100 * (ratio - 1):+.1f} %" if ratio < MANIFOLD else f"x{ratio:,.3g}"


def mean_merit(one: Compared, merit: Merit) -> float:
    """A configuration's merit: the mean over its runs; infinite where it is so in any run."""
    values = [merit(metrics) for metrics in one.runs.values()]
    return mean_interval(values).value if values and all(map(math.isfinite, values)) else math.inf


def _advantage(best: Compared, default: Compared, merit: Merit, comparisons: int) -> Interval:
    rounds = sorted(best.runs.keys() & default.runs.keys())
    mine, theirs = [merit(best.runs[r]) for r in rounds], [merit(default.runs[r]) for r in rounds]
    return paired_ratio(mine, theirs, comparisons=comparisons)


def _or_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _better(advantage: Interval) -> str:
    return f"{100 * (1 - advantage.value):.0f} % better ({_range(advantage)})"


def _range(change: Interval) -> str:
    if math.isnan(change.low):
        return f"{change.runs} paired run, no interval"
    return f"between {percent(change.low)} and {percent(change.high)}, {change.runs} paired runs"


def _without_candidate(default: Compared, others: Sequence[Compared], objective: Objective) -> Verdict:
    if meets(default, objective):
        missed = "No other measured configuration meets the targets; the default does."
        alone = "Nothing else was measured: no other is predicted to behave differently."
        return Verdict(default, True, True, None, missed if others else alone)
    nearest = min(
        [one for one in (default, *others) if one.runs], key=lambda one: mean_merit(one, objective.worst_ratio)
    )
    ratio = mean_merit(nearest, objective.worst_ratio)
    sentence = f"No measured configuration meets the targets; the nearest has {ratio:.3g} times the latency allowed."
    return Verdict(nearest, False, False, None, sentence)


def _over_missing_default(best: Compared, advantage: Interval) -> Verdict:
    if advantage.high < 1:
        sentence = f"Meets the targets, which the default misses; worst latency {_better(advantage)}."
        return Verdict(best, True, True, advantage, sentence)
    sentence = f"Meets the targets on average and the default does not, but within the noise ({_range(advantage)})."
    return Verdict(best, True, False, advantage, sentence)


def _as_good(best: Compared, default: Compared, advantage: Interval) -> str:
    shown = f"{best.name} ({changes_text(best.settings, default.settings)})"
    if math.isnan(advantage.low):
        return f"One paired run cannot tell {shown} from the default; repeat at least 3 times."
    return (
        f"The default is as good: the best other, {shown}, differs by {percent(advantage.value)}, {_range(advantage)}."
    )
