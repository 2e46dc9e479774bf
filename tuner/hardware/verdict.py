"""What the measurements on the engine allow to be said: which configuration to run, and whether it is really better.

A configuration is recommended over the default when it meets the targets on average over its runs and its advantage,
paired by round, exceeds the noise between runs. All runs serve the same requests: nothing is said of others. Picking
the best of K and then testing it is K comparisons, so the intervals are Bonferroni's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...figures import figure
from ...simulator.slo import Slo
from ..intervals import Interval, alone_in, mean_interval, paired_ratio, rounds_alone
from ..objective import ENOUGH_GOOD, GOOD_SHARE, KEEPS_UP, Metrics, Objective, good_share, share_text
from ..study.comparison import Compared, Quantity, changes_text, comparisons

MANIFOLD = 5.0
"""From here on a change is told as a factor."""
AS_GOOD = 1.1
"""An interval within this factor shows that there is little between two configurations; a wider one shows nothing."""
PROVEN = "beyond the noise between runs of the same requests"
"""What an advantage is where its interval says so. Other requests of the same traffic were not sent."""

Merit = Callable[[Metrics], float]
"""A run's figure of merit: positive, lower is better."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The recommendation after validation."""

    recommended: Compared
    meets_targets: bool
    proven: bool
    """Whether the advantage over the default exceeds the noise, or the default cannot run; false for the default."""
    advantage: Interval | None
    """Merit against the default's, paired by round: below 1 is better. None where there is nothing to compare."""
    sentence: str


def decide(found: Sequence[Compared], objective: Objective) -> Verdict | None:
    """The verdict on the default (first in `found`) and the others; None where none ran without failing, or the default
    has not run for what may be nobody's fault.

    One whose failures are held against it is not recommended, however good its other runs were. Of one that meets the
    targets, it is told where chance may have helped it to.
    """
    verdict = _decided(found, objective)
    doubts = unsure_targets(verdict.recommended, objective) if verdict and verdict.meets_targets else {}
    if verdict is None or not doubts:
        return verdict
    who = "The default" if verdict.recommended is found[0] else verdict.recommended.name
    told = "; ".join(f"{target}: {doubt}" for target, doubt in doubts.items())
    return replace(verdict, sentence=f"{verdict.sentence} {who} meets the targets on average ({told}).")


def _decided(found: Sequence[Compared], objective: Objective) -> Verdict | None:
    """The verdict, and what speaks for it."""
    default, others = found[0], [one for one in found[1:] if one.is_steady]
    if not default.is_steady and (not others or (default.failures and not default.is_barred)):
        return None
    good = [one for one in others if meets(one, objective)]
    if not good:
        return _without_candidate(found, objective)
    if not default.is_steady:
        best = min(good, key=lambda one: mean_merit(one, merit_of(objective)))
        how = "failed on the engine" if default.failures else "did not run"
        return Verdict(best, True, True, None, f"The default {how}; of those that ran, this one is best.")
    merit = merit_of(objective) if meets(default, objective) else objective.worst_ratio
    may_win = objective.serves_as_much if meets(default, objective) else _always
    # By pairs and not by means: later batches of runs may have met a slower machine.
    advantages = {one.name: _advantage(one, default, merit, comparisons(found), may_win) for one in good}
    best = min(good, key=lambda one: (*_standing(advantages[one.name]), mean_merit(one, merit)))
    advantage = advantages[best.name]
    if not meets(default, objective):
        return _over_missing_default(best, default, advantage, objective, rounds_alone(comparisons(found)))
    if advantage.high < 1:
        each = _each_goal(best, default, objective)
        return Verdict(best, True, True, advantage, f"Measured {_better(advantage, objective)}{each}, {PROVEN}.")
    told = _as_good(best, default, advantage, objective, rounds_alone(comparisons(found)))
    return Verdict(default, True, False, advantage, told)


def meets(one: Compared, objective: Objective) -> bool:
    """Whether the mean over the runs meets every target."""
    kept = all(mean_ratio(one, slo) <= 1 for slo in objective.slos)
    return bool(one.runs) and kept and (not objective.good_is_target or mean_good_share(one) >= GOOD_SHARE)


def mean_ratio(one: Compared, slo: Slo) -> float:
    """The mean latency over the runs that have it, against its limit; where none has it, what the target says of such
    a run."""
    mean_ms = mean_interval([slo.value_ms(metrics) for metrics in one.runs.values()]).value
    return max(map(slo.ratio, one.runs.values())) if math.isnan(mean_ms) else slo.ratio_of(mean_ms)


def unsure_targets(one: Compared, objective: Objective) -> dict[str, str]:
    """Targets that the mean over the runs meets and its interval does not, each with how far that reaches; without
    those of which one run alone gives no interval."""
    told = {}
    for slo in objective.slos:
        high = slo.ratio_of(mean_interval([slo.value_ms(metrics) for metrics in one.runs.values()]).high)
        if mean_ratio(one, slo) <= 1 < high:
            over = f"{figure(100 * (high - 1), 2)} % above" if high < MANIFOLD else f"{figure(high, 3)} times"
            told[str(slo)] = f"the interval reaches {over} the limit"
    if objective.good_is_target and mean_good_share(one) >= GOOD_SHARE:
        low = mean_interval(list(map(good_share, one.runs.values()))).low
        if low < GOOD_SHARE:
            told[ENOUGH_GOOD] = f"the interval reaches down to {share_text(low)}"
    return told


def mean_good_share(one: Compared) -> float:
    """The share of good requests, the mean over the runs."""
    return math.fsum(map(good_share, one.runs.values())) / len(one.runs)


def _always(_: Metrics, __: Metrics) -> bool:
    return True


def merit_of(objective: Objective) -> Merit:
    """What "better" is measured by: the goals (their geometric mean), or the worst ratio of a latency to its target."""
    goals = objective.effective_goals
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
    goals = objective.effective_goals
    if len(goals) > 1:
        return "the goals together"
    return goals[0].metric if goals else "the worst latency against its target"


def _each_goal(best: Compared, default: Compared, objective: Objective) -> str:
    """With several goals, what each of them changed by."""
    goals = [goal.metric for goal in objective.effective_goals]
    told = [f"{name} {percent(best.against(default, Quantity(name, '', name)).value)}" for name in goals]
    return f" ({', '.join(told)})" if len(goals) > 1 else ""


def percent(ratio: float) -> str:
    """A ratio as a signed change in per cent, or as a factor where that is easier to read."""
    return f"{100 * (ratio - 1):+.1f} %" if ratio < MANIFOLD else f"x{ratio:,.3g}"


def mean_merit(one: Compared, merit: Merit) -> float:
    """A configuration's merit: the mean over its runs; infinite where it is so in any run."""
    values = [merit(metrics) for metrics in one.runs.values()]
    return mean_interval(values).value if values and all(map(math.isfinite, values)) else math.inf


def _advantage(
    best: Compared, default: Compared, merit: Merit, comparisons: int, may_win: Callable[[Metrics, Metrics], bool]
) -> Interval:
    """Merit against the default's. Infinite where `best` has none in a round in which the default has; 0 where that is
    so the other way round, and `best` is worse in no round: without an interval where chance may do that.

    A run that may not win has no merit.
    """
    pairs = [
        (merit(mine) if may_win(mine, theirs) else math.inf, merit(theirs))
        for mine, theirs in ((best.runs[r], default.runs[r]) for r in sorted(best.runs.keys() & default.runs.keys()))
    ]
    if any(math.isinf(mine) and math.isfinite(theirs) for mine, theirs in pairs):
        return Interval(math.inf, math.nan, math.inf, len(pairs))
    known = [(mine, theirs) for mine, theirs in pairs if math.isfinite(mine)]
    wins = sum(math.isinf(theirs) for _, theirs in known)
    alone = alone_in(wins, len(known), comparisons=comparisons)
    if wins and all(mine <= theirs for mine, theirs in known) and (alone.high == 0 or wins == len(known)):
        return alone
    return paired_ratio([mine for mine, _ in known], [theirs for _, theirs in known], comparisons=comparisons)


def _standing(advantage: Interval) -> tuple[int, float]:
    """To order by: those proven first, then those with an interval, each by its advantage."""
    proof = 0 if advantage.high < 1 else 1 if math.isfinite(advantage.low) else 2
    return proof, math.inf if math.isnan(advantage.value) else advantage.value


def _better(advantage: Interval, objective: Objective) -> str:
    name = merit_name(objective)
    if advantage.value == 0:
        return f"better in {_paired(advantage)}, in which the default has nothing to show for {name}"
    change = _as_told(advantage, objective)
    if _is_maximised(objective):
        return f"{100 * (change.value - 1):.0f} % more {name} than the default ({_range(change)})"
    return f"{100 * (1 - change.value):.0f} % better than the default in {name} ({_range(change)})"


def _is_maximised(objective: Objective) -> bool:
    """Whether the merit is one metric of which more is better."""
    goals = objective.effective_goals
    return len(goals) == 1 and goals[0].maximize


def _as_told(advantage: Interval, objective: Objective) -> Interval:
    """The ratio of the metric itself: a merit is lower where it is better."""
    if not _is_maximised(objective):
        return advantage
    value, low, high = (1 / bound if bound else math.inf for bound in (advantage.value, advantage.high, advantage.low))
    return Interval(value, low, high, advantage.runs)


def _range(change: Interval) -> str:
    if math.isnan(change.low):
        return f"{_paired(change)}, no interval"
    return f"between {percent(change.low)} and {percent(change.high)}, {_paired(change)}"


def _paired(change: Interval) -> str:
    return "1 paired run" if change.runs == 1 else f"{change.runs or 'no'} paired runs"


def _without_candidate(found: Sequence[Compared], objective: Objective) -> Verdict:
    default, ran = found[0], [one for one in found if one.is_steady]
    if default.is_steady and meets(default, objective):
        return Verdict(default, True, False, None, _alone(found[1:]))
    nearest = min(ran, key=lambda one: mean_merit(one, objective.worst_ratio))
    missed = f"No measured configuration meets the targets; the nearest {_shortfall(nearest, objective)}."
    return Verdict(nearest, False, False, None, missed)


def _shortfall(nearest: Compared, objective: Objective) -> str:
    worst = max((mean_ratio(nearest, slo) for slo in objective.slos), default=0.0)
    if math.isinf(worst):
        return "leaves more requests unanswered than they allow"
    if worst > 1:
        return f"has {figure(worst, 3)} times the latency allowed"
    return f"has {share_text(mean_good_share(nearest))} good requests where {GOOD_SHARE:.0%} are needed"


def _alone(others: Sequence[Compared]) -> str:
    if any(one.is_steady for one in others):
        return "No other measured configuration meets the targets; the default does."
    if others:
        return "No other configuration ran on the engine without failing; the default did."
    return "Nothing else was measured: no other is predicted to behave differently."


def _price(best: Compared, default: Compared) -> str:
    """How many requests a second it serves less, where that is more than the end of a short trace moves."""
    served = Quantity("requests a second", "requests/s", "request_throughput")
    ratio = best.against(default, served).value
    return f"; it serves {1 - ratio:.0%} fewer requests a second" if ratio < KEEPS_UP else ""


def _over_missing_default(
    best: Compared, default: Compared, advantage: Interval, objective: Objective, needed: int
) -> Verdict:
    worst = Objective(slos=objective.limits)  # the goals do not count where the default misses
    if advantage.high < 1:
        how = f"{_better(advantage, worst)}, {PROVEN}{_price(best, default)}"
        sentence = f"Meets the targets on average and the default does not; {how}."
        return Verdict(best, True, True, advantage, sentence)
    if math.isinf(advantage.value):
        doubt = "not in every round"
    elif advantage.value == 0:
        doubt = f"in {_paired(advantage)} that may be chance; {needed} would tell"
    else:
        doubt = f"within the noise ({_range(advantage)})"
    sentence = f"Meets the targets on average and the default does not, but {doubt}{_price(best, default)}."
    return Verdict(best, True, False, advantage, sentence)


def _as_good(best: Compared, default: Compared, advantage: Interval, objective: Objective, needed: int) -> str:
    shown = f"{best.name} ({changes_text(best.settings, default.settings)})"
    if math.isinf(advantage.value):
        lacks = f"serves fewer requests in some round, or has nothing to show for {merit_name(objective)}"
        return f"The default is better: the best other, {shown}, {lacks}."
    if not advantage.runs or advantage.value == 0:
        return (
            f"No paired run tells {shown} from the default: that takes rounds in which both have a result, or {needed} "
            "in which it alone has one."
        )
    if math.isnan(advantage.low):
        return f"One paired run cannot tell {shown} from the default; repeat at least 3 times."
    change = _as_told(advantage, objective)
    by = f"{percent(change.value)} in {merit_name(objective)}{_each_goal(best, default, objective)}"
    told = f"the best other, {shown}, differs by {by}, {_range(change)}"
    if advantage.low > 1:
        return f"The default is better: {told}."
    if advantage.low >= 1 / AS_GOOD and advantage.high <= AS_GOOD:
        return f"The default is as good: {told}."
    return f"Nothing is proven better than the default, and the runs vary too much to call the default as good: {told}."
