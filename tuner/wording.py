"""How a number of a run is worded, and what became of it under other circumstances."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

from ..figures import figure
from ..simulator.slo import Slo, milliseconds
from .objective import ENOUGH_GOOD, Metrics, Objective, good_share, met_or_missed, share_text

if TYPE_CHECKING:  # `simulate` tells targets too, and these would load the search's libraries
    from .finalists.other_orders import OtherOrders
    from .sensitivity import Sensitivity
    from .study.study import Trial


@dataclass(frozen=True, slots=True)
class Wording:
    """The words for one number or verdict: of a single run, of the other orders, of faster and slower steps."""

    name: str
    is_met: Callable[[Metrics], bool]
    """Whether a verdict is the good one; of a number, always."""
    run: Callable[[Metrics], str]
    orders: Callable[["OtherOrders"], str]
    steps: Callable[["Sensitivity"], str]

    def of(self, trial: "Trial") -> str:
        """What is predicted of a configuration."""
        return f"does not start: {trial.message}" if trial.metrics is None else self.run(trial.metrics)


def of_targets(objective: Objective) -> list[Wording]:
    """The verdicts: on goodput where it is a target beside others, then on the targets."""
    return [*([_of_good(objective)] if objective.good_is_target else []), *map(_of_target, objective.slos)]


def of_limits(objective: Objective) -> list[Wording]:
    """The verdicts and, where goodput is a goal, the share of good requests: their rate hides how many are not."""
    return [*([_of_share()] if objective.goodput and not objective.good_is_target else []), *of_targets(objective)]


def of_metric(key: str) -> Wording:
    """A metric by its name in the results."""

    def run(metrics: Metrics) -> str:
        return figure(metrics[key])

    def orders(orders: "OtherOrders") -> str:
        return " to ".join(map(figure, orders.range(itemgetter(key))))

    return Wording(key, lambda metrics: True, run, orders, lambda steps: steps.both(run))


def _of_share() -> Wording:
    """How many requests are good."""

    def run(metrics: Metrics) -> str:
        return share_text(good_share(metrics))

    def orders(orders: "OtherOrders") -> str:
        return " to ".join(map(share_text, orders.range(good_share)))

    return Wording("requests good", lambda metrics: True, run, orders, lambda steps: steps.both(run))


def _of_good(objective: Objective) -> Wording:
    """Whether enough requests are good, and how many are."""

    def is_met(metrics: Metrics) -> bool:
        return objective.good_ratio(metrics) == 0

    def run(metrics: Metrics) -> str:
        return f"{met_or_missed(is_met(metrics))} ({share_text(good_share(metrics))})"

    def orders(orders: "OtherOrders") -> str:
        low, high = orders.range(good_share)
        return f"met in {orders.meeting(is_met)} ({share_text(low)} to {share_text(high)})"

    return Wording(ENOUGH_GOOD, is_met, run, orders, lambda steps: steps.both(run))


def _of_target(slo: Slo) -> Wording:
    """Whether a target is met, and with what."""
    run, orders, steps = partial(_target_text, slo), partial(met_text, slo=slo), partial(_steps_text, slo)
    return Wording(str(slo), slo.is_met, run, orders, steps)


def _target_text(slo: Slo, metrics: Metrics) -> str:
    return f"{_met(slo, metrics)} ({milliseconds(slo.value_ms(metrics))})"


def _met(slo: Slo, metrics: Metrics) -> str:
    return met_or_missed(slo.is_met(metrics))


def met_text(orders: "OtherOrders", slo: Slo) -> str:
    """On how many of the other orders a target is met, and with what."""
    met = orders.meeting(slo.is_met)
    ends = dict.fromkeys(map(milliseconds, orders.range(slo.value_ms)))
    return f"met in {met} ({' to '.join(ends)})".replace(" ms to", " to")


def _steps_text(slo: Slo, steps: "Sensitivity") -> str:
    met = steps.both(partial(_met, slo))
    return f"{met} ({steps.both(lambda metrics: milliseconds(slo.value_ms(metrics)))})".replace(" ms /", " /")
