"""What a search recommends, with all that it rests on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path

from ..errors import InfeasibleError
from ..profiler.trust import piled_up
from ..simulator.engine_config import Settings
from ..simulator.slo import Slo, milliseconds
from . import validation
from .best_yaml import best_yaml
from .objective import GOOD_SHARE, Metrics, Objective, good_share
from .other_orders import OtherOrders
from .sensitivity import Sensitivity
from .study import Trial
from .task import Task
from .validation import Validation


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What a search found, beside the default."""

    folder: Path
    task: Task
    best: Trial
    """What is recommended: by the measurements where there are any."""
    default: Trial
    trials: int
    front: tuple[Trial, ...]
    """With several goals: every configuration that no other beats in all of them."""
    orders: Mapping[str, OtherOrders]
    """What the best few and the default gave on other orders of the requests, by `settings_key`."""
    sensitivities: Mapping[str, Sensitivity]
    """What they gave with faster and slower steps, where the profile's error is known."""
    simulated: Trial
    """What the simulations alone recommend."""
    measured: Validation | None
    """What the study's runs on the engine say; None where it has none."""

    @property
    def settings(self) -> Settings:
        """The recommended settings, with what was fixed."""
        return dict(self.best.settings)

    def orders_of(self, trial: Trial) -> OtherOrders | None:
        """What a configuration gave on other orders of the requests, where that is known."""
        return self.orders.get(trial.key)

    def sensitivity_of(self, trial: Trial) -> Sensitivity | None:
        """What a configuration gave with faster and slower steps, where that is known."""
        return self.sensitivities.get(trial.key)


def require_targets(recommendation: Recommendation) -> None:
    """Raise InfeasibleError where not even the best configuration meets the targets, naming the nearest miss.

    What was measured decides, where anything was.
    """
    if recommendation.measured and recommendation.measured.verdict:
        validation.require_targets(recommendation.measured)
        return
    metrics, objective = recommendation.best.metrics or {}, recommendation.task.objective
    missed = [slo for slo in objective.slos if slo.ratio(metrics) > 1]
    if missed and metrics.get("failed"):
        raise InfeasibleError(
            f"none of {recommendation.trials} configurations meets the targets; with the nearest on the whole "
            f"{metrics['failed']:.0f} requests are not answered: `slotune simulate` tells why"
        )
    if missed:
        worst = max(missed, key=lambda slo: slo.ratio(metrics))
        raise InfeasibleError(
            f"none of {recommendation.trials} configurations meets the targets; the nearest on the whole has "
            f"{worst.key} {worst.value_ms(metrics):.4g} ms where {worst.limit_ms:g} are allowed: allow more, lower "
            "--rate, or plan for more replicas"
        )
    if objective.good_ratio(metrics):
        raise InfeasibleError(
            f"none of {recommendation.trials} configurations meets the targets; with the nearest on the whole "
            f"{good_share(metrics):.1%} of the requests are good where {GOOD_SHARE:.0%} are needed"
        )


def good_text(objective: Objective, metrics: Metrics) -> str:
    """Where goodput is a target beside others: whether enough requests are good, and how many are."""
    met = "met" if objective.good_ratio(metrics) == 0 else "missed"
    return f"{met} ({good_share(metrics):.1%})"


def good_orders_text(orders: OtherOrders, objective: Objective) -> str:
    """On how many of the other orders enough requests are good, and how many are."""
    met = orders.meeting(lambda metrics: objective.good_ratio(metrics) == 0)
    low, high = orders.range(good_share)
    return f"met in {met} ({low:.1%} to {high:.1%})"


def good_steps_text(steps: Sensitivity, objective: Objective) -> str:
    """Whether enough requests are good with faster and with slower steps, and how many are."""
    return steps.both(partial(good_text, objective))


def after_measuring(recommendation: Recommendation, measured: Validation) -> Recommendation:
    """The recommendation that the measurements make of it; they decide where any run succeeded."""
    if measured.verdict is None:
        return replace(recommendation, measured=measured)
    one, default = measured.verdict.recommended, recommendation.default
    best = default if one.key == default.key else Trial(one.settings, one.predicted)
    return replace(recommendation, measured=measured, best=best)


def best_yaml_of(recommendation: Recommendation) -> str:
    """best.yaml, headed by what was measured where anything was, and otherwise by what was predicted."""
    measured, task = recommendation.measured, recommendation.task
    if measured and measured.verdict:
        return validation.best_yaml_of(measured, measured.verdict)
    found = [
        f"recommended by slotune {task.asked.versions.slotune} after {recommendation.trials} simulated configurations",
        task.profile.provenance,
        *_target_lines(recommendation),
        *piled_up((recommendation.best.metrics or {}).get("piled_up_share", 0.0)),
        *(validation.failure_lines(measured.found) if measured else []),
    ]
    return best_yaml(task, recommendation.settings, found, recommendation.best.metrics)


def _target_lines(recommendation: Recommendation) -> list[str]:
    objective, best = recommendation.task.objective, recommendation.best
    orders, steps = recommendation.orders_of(best), recommendation.sensitivity_of(best)
    values = best.metrics or {}
    lines = [
        f"{goal.metric}: {values.get(goal.metric, math.nan):.4g} in simulation" for goal in objective.effective_goals()
    ]
    if objective.good_is_target and best.metrics is not None:
        line = f"{GOOD_SHARE:.0%} of requests good: {good_text(objective, best.metrics)} in simulation"
        if orders:
            line += f"; in {len(orders.runs)} other orders of the requests {good_orders_text(orders, objective)}"
        if steps:
            line += f"; with {steps.label} {good_steps_text(steps, objective)}"
        lines.append(line)
    for slo in objective.slos:
        line = f"{slo}: {verdict_text(slo, best)} in simulation"
        if orders:
            line += f"; in {len(orders.runs)} other orders of the requests {met_text(orders, slo)}"
        if steps:
            line += f"; with {steps.label} {steps_text(steps, slo)}"
        lines.append(line)
    return lines


def verdict_text(slo: Slo, trial: Trial) -> str:
    """Whether a configuration is predicted to meet a target, and with what."""
    if trial.metrics is None:
        return f"does not start: {trial.message}"
    return f"{_met(slo, trial.metrics)} ({milliseconds(slo.value_ms(trial.metrics))})"


def _met(slo: Slo, metrics: Metrics) -> str:
    return "met" if slo.is_met(metrics) else "missed"


def range_text(orders: OtherOrders, key: str) -> str:
    """Least and greatest value of a metric over the other orders."""
    low, high = orders.range(itemgetter(key))
    return f"{low:.4g} to {high:.4g}"


def met_text(orders: OtherOrders, slo: Slo) -> str:
    """On how many of the other orders a target is met, and with what."""
    met = orders.meeting(slo.is_met)
    ends = dict.fromkeys(map(milliseconds, orders.range(slo.value_ms)))
    return f"met in {met} ({' to '.join(ends)})".replace(" ms to", " to")


def steps_range_text(steps: Sensitivity, key: str) -> str:
    """A metric with faster and with slower steps."""
    return steps.both(lambda metrics: f"{metrics[key]:.4g}")


def steps_text(steps: Sensitivity, slo: Slo) -> str:
    """Whether a target is met with faster and with slower steps, and with what."""
    met = steps.both(partial(_met, slo))
    return f"{met} ({steps.both(lambda metrics: milliseconds(slo.value_ms(metrics)))})".replace(" ms /", " /")
