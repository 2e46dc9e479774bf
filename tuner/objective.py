"""What "better" means: targets that must be met, goals to improve, and how two configurations are compared.

Without a goal, the best configuration is the one with the most headroom: the smallest worst ratio of a latency to its
target. Where arrivals set the throughput, as in a recorded trace, every configuration that keeps up has the same
throughput, and headroom is what is left to choose by.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import InputError, unknown_name
from ..simulator.slo import METRICS, ROUNDING, Slo, percentile_of

Metrics = Mapping[str, float]

ALIASES = {"goodput": "request_goodput", "throughput": "output_throughput"}
THROUGHPUTS = ("request_throughput", "output_throughput", "total_token_throughput", "request_goodput")
LATENCIES = tuple(f"{what}_{metric}_ms" for metric in METRICS for what in ("mean", "median", "p90", "p95", "p99"))

GOOD_SHARE = 0.99
"""With --goodput: the share of requests that must be good, as in vLLM's recipes."""
ENOUGH_GOOD = f"{GOOD_SHARE:.0%} of requests good"
"""That target in words."""

KEEPS_UP = 0.9
"""Of the default's requests a second: below it a queue grows that does not grow under the default."""

GOODPUT_PERCENTILE = 99.0  # where only --goodput is given: the percentile whose headroom breaks ties
HEADROOM_WEIGHT = 0.05  # against a goal in logs: a tenth of a target is worth half a percent of the goal
GOAL_SPAN = 3.0  # a factor of 20 better or worse than the default; costs of more are bent to stay within
MISSED = GOAL_SPAN + 1.0  # above every cost of a configuration that meets its targets
FAILED = MISSED + GOAL_SPAN + 1.0
"""Cost of a configuration that did not run: finite (SMAC cannot take infinities), just above the worst that did."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing to improve: a metric by its name in the results, and the direction."""

    metric: str
    maximize: bool

    def loss(self, metrics: Metrics, reference: Metrics) -> float:
        """Log of the ratio to the reference's value, positive where worse; infinite without a value.

        Against a reference that has none, such as a goodput of 0, a tenth of the value's own log: that orders values
        of any unit and stays within GOAL_SPAN.
        """
        value, base = metrics.get(self.metric, math.nan), reference.get(self.metric, math.nan)
        if not (math.isfinite(value) and value > 0):
            return math.inf
        ratio = math.log(value / base) if math.isfinite(base) and base > 0 else math.log(value) / 10
        return -ratio if self.maximize else ratio


def parse_goal(name: str, *, maximize: bool) -> Goal:
    """A goal from the command line, e.g. `goodput` or `p99_ttft_ms`. Raises InputError for an unknown metric."""
    metric = ALIASES.get(name, name)
    kind, valid = ("metric to maximize", THROUGHPUTS) if maximize else ("metric to minimize", LATENCIES)
    if metric not in valid and (maximize or percentile_of(metric) is None):
        raise unknown_name(kind, name, (*valid, *ALIASES) if maximize else valid)
    return Goal(metric, maximize)


@dataclass(frozen=True, slots=True)
class Objective:
    """Targets, goals and, for goodput, the limits (ms by metric) a good request keeps."""

    slos: tuple[Slo, ...] = ()
    goals: tuple[Goal, ...] = ()
    goodput: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.slos or self.goals or self.goodput):
            raise InputError(
                "no target: give one such as --slo p99:ttft:500 or --goodput ttft:500 (or, to tune, a goal)"
            )
        if not self.goodput and any(goal.metric == "request_goodput" for goal in self.goals):
            raise InputError("--maximize goodput needs to know what a good request is: add --goodput ttft:500")

    @property
    def limits(self) -> tuple[Slo, ...]:
        """What headroom is measured against: the targets, or else what a good request keeps."""
        return self.slos or tuple(Slo(GOODPUT_PERCENTILE, name, ms) for name, ms in self.goodput.items())

    @property
    def percentiles(self) -> tuple[float, ...]:
        """Those that limits and goals name."""
        goals = (percentile_of(goal.metric) for goal in self.goals)
        return (*(slo.percentile for slo in self.limits), *(one for one in goals if one is not None))

    @property
    def effective_goals(self) -> tuple[Goal, ...]:
        """The goals, with goodput where only --goodput was given; empty means headroom."""
        if self.goals or self.slos:
            return self.goals
        return (Goal("request_goodput", True),)

    @property
    def good_is_target(self) -> bool:
        """Whether goodput is a target beside others; by itself it is a goal."""
        return bool(self.slos and self.goodput)

    def good_ratio(self, metrics: Metrics) -> float:
        """Where goodput is a target beside others: GOOD_SHARE over the share of requests that are good; 0 where enough
        are, or goodput is no target."""
        share = good_share(metrics) if self.good_is_target else 1.0
        if share >= GOOD_SHARE:
            return 0.0
        return GOOD_SHARE / share if share > 0 else math.inf

    def worst_ratio(self, metrics: Metrics) -> float:
        """The largest ratio over all limits, or of goodput where too few requests are good; 0 without any."""
        return max([self.good_ratio(metrics), *(slo.ratio(metrics) for slo in self.limits)])

    def meets(self, metrics: Metrics) -> bool:
        """Whether every target is met; goodput is one beside others, and a goal by itself."""
        return all(slo.is_met(metrics) for slo in self.slos) and self.good_ratio(metrics) == 0

    def fulfilled(self, metrics: Metrics) -> bool:
        """Whether every target is met, and goodput's GOOD_SHARE also where it stands alone."""
        return self.meets(metrics) and (not self.goodput or good_share(metrics) >= GOOD_SHARE)

    def targets_met(self, metrics: Metrics) -> dict[str, bool]:
        """Each target as it was written, goodput where it is one beside others, and whether it is met."""
        met = {str(slo): slo.is_met(metrics) for slo in self.slos}
        return met | ({"goodput": self.good_ratio(metrics) == 0} if self.good_is_target else {})

    def serves_as_much(self, metrics: Metrics, reference: Metrics) -> bool:
        """Whether it may count as better than the reference, which meets the targets too.

        Latencies gain by requests that wait outside, and whatever is measured over a load that ends sooner by those
        that are turned away. Where goodput is to be maximised they may be, if more of all requests are good for it.
        """
        goals = self.effective_goals
        if answers_as_many(metrics, reference):
            return bool(goals) or keeps_up(metrics, reference)
        sheds = all(goal.maximize for goal in goals) and any(goal.metric == "request_goodput" for goal in goals)
        return sheds and good_share(metrics) > (good_share(reference) if reference else 0.0)

    def costs(self, metrics: Metrics | None, reference: Metrics) -> tuple[float, ...]:
        """What the search minimises, one number a goal; `metrics` is None where the configuration did not run.

        With goals: below MISSED for configurations that meet the targets, above it by the log of the worst ratio for
        those that do not, or by the share of unanswered requests for those that do not serve as much as the reference
        (`serves_as_much`). Without: the log of the worst ratio. FAILED lies above everything.
        """
        goals = self.effective_goals
        if metrics is None:
            return (FAILED,) * max(len(goals), 1)
        worst = self.worst_ratio(metrics)
        # A share of the requests gets nothing: the fewer they are, the better. Goodput as the goal counts them itself.
        if math.isinf(worst) and not (goals and self.meets(metrics)):
            return (MISSED + GOAL_SPAN + failed_share(metrics) / 2,) * max(len(goals), 1)
        if not goals:
            slow = 0.0 if keeps_up(metrics, reference) else MISSED
            return (_below(MISSED + GOAL_SPAN, slow + max(_log(worst), -GOAL_SPAN)),)
        if not self.meets(metrics):
            return (MISSED + _below(GOAL_SPAN, max(_log(worst), 0.0)),) * len(goals)
        if not self.serves_as_much(metrics, reference):
            return (MISSED + failed_share(metrics),) * len(goals)
        losses = [goal.loss(metrics, reference) for goal in goals]
        bent = [math.copysign(_below(GOAL_SPAN, abs(loss)), loss) for loss in losses]
        return tuple(loss + HEADROOM_WEIGHT * min(worst, 2.0) for loss in bent)


def failed_share(metrics: Metrics) -> float:
    """Share of the requests that were rejected or failed: each is a miss."""
    failed = metrics.get("failed", 0.0)
    total = failed + metrics.get("completed", 0.0)
    return failed / total if total else 1.0


def good_share(metrics: Metrics) -> float:
    """Share of all requests that are good, without the last digits, which dividing by the duration twice makes up."""
    throughput = metrics["request_throughput"]
    return round(metrics["request_goodput"] / throughput * (1 - failed_share(metrics)), 12) if throughput > 0 else 0.0


def share_text(share: float) -> str:
    """A share of good requests in per cent, rounded down: 98.96 % are not the 99.0 that are needed."""
    return f"{math.floor(1000 * share + ROUNDING) / 10:.1f}%"


def met_or_missed(is_met: bool) -> str:
    """What became of a target."""
    return "met" if is_met else "missed"


def keeps_up(metrics: Metrics, reference: Metrics) -> bool:
    """Whether it answers as many requests a second as the reference, within what the end of a short trace moves."""
    least = KEEPS_UP * reference.get("request_throughput", 0.0)
    return not metrics.get("request_throughput", math.inf) < least


def answers_as_many(metrics: Metrics, reference: Metrics) -> bool:
    """Whether it does not owe its latencies to requests that it leaves unanswered and the reference does not."""
    return failed_share(metrics) <= (failed_share(reference) if reference else 0.0) + 1 - GOOD_SHARE


def _below(bound: float, value: float) -> float:
    """The value, bent from `bound` - 1 on so that it never gets to the bound, while larger values stay larger."""
    return min(value, bound - math.exp(min(0.0, bound - 1 - value)))


def _log(ratio: float) -> float:
    return math.log(ratio) if ratio > 0 else -math.inf
