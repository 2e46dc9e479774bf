"""What a search recommends, with all that it rests on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InfeasibleError
from ..figures import digits, figure
from ..profiler.trust_page import lines as trust_lines
from ..simulator.misses import unanswered
from ..simulator.settings import Settings
from ..simulator.slo import Slo, milliseconds
from .finalists.longer_load import (
    FEWER_IN_FLIGHT,
    SUSTAINED_RATE,
    LongerLoad,
    is_closed_loop,
    lasts_only,
    lost_targets,
    without_chance,
)
from .finalists.other_orders import OtherOrders
from .hardware import validation
from .hardware.validation import Validation
from .objective import GOOD_SHARE, Metrics, good_share, share_text
from .sensitivity import Sensitivity
from .study.best_yaml import NEAREST, RECOMMENDED, best_yaml, head_line
from .study.study import Trial
from .study.task import Task
from .traffic.sample import few_requests
from .traffic.steady_load import in_bursts
from .traffic.warm import finds_others
from .wording import Wording, of_limits, of_metric, of_targets

BURSTS = (
    "requests come in bursts, and the trace holds few of them: similar traffic may wait several times as long, and "
    "miss targets that are met here"
)
MUCH = 2.0
"""Times as long, from which a latency that nobody named is told."""


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
    """With several goals: every configuration that no other beats in one without losing in another."""
    orders: Mapping[str, OtherOrders]
    """What the best few and the default gave on other orders of the requests, by `settings_key`."""
    longer_loads: Mapping[str, LongerLoad]
    """What they gave on the same traffic for many times as long, where it can be lengthened."""
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

    def longer_load_of(self, trial: Trial) -> LongerLoad | None:
        """What a configuration gave on the longer load, where that is known."""
        return self.longer_loads.get(trial.key)

    def sensitivity_of(self, trial: Trial) -> Sensitivity | None:
        """What a configuration gave with faster and slower steps, where that is known."""
        return self.sensitivities.get(trial.key)

    def runs_of(self, trial: Trial) -> list[Metrics]:
        """What a configuration gave on the trace and, where that is known, on the longer load."""
        longer = self.longer_load_of(trial)
        return [trial.metrics or {}, *([longer.metrics] if longer else [])]

    def trust(self) -> dict[str, Any]:
        """How far to believe the prediction of the recommended configuration (`Profile.trust`)."""
        run = without_chance(self.best.metrics or {}, self.longer_load_of(self.best), self.task.trace)
        return self.task.profile.trust(self.task.asked.with_model(self.best.settings), runs=[run])


def require_targets(recommendation: Recommendation) -> None:
    """Raise InfeasibleError where not even the best configuration meets the targets, naming the nearest miss.

    What was measured decides, where anything was.
    """
    if recommendation.measured and recommendation.measured.verdict:
        validation.require_targets(recommendation.measured)
        return
    metrics, objective = recommendation.best.metrics or {}, recommendation.task.objective
    longer = recommendation.longer_load_of(recommendation.best)
    if longer and lasts_only(objective, metrics, longer):
        warm = ", once prefix caches are warm" if finds_others(recommendation.task.trace) else ""
        raise InfeasibleError(
            f"none of {recommendation.trials} configurations meets the targets on this trace; the recommended settings "
            f"do if the same traffic lasts {longer.label}{warm}"
        )
    if any(slo.ratio(metrics) > 1 for slo in objective.slos):
        raise InfeasibleError(_nearest_miss(recommendation))
    if objective.good_ratio(metrics):
        raise InfeasibleError(
            f"none of {recommendation.trials} configurations meets the targets; with the nearest overall, "
            f"{share_text(good_share(metrics))} of the requests are good where {GOOD_SHARE:.0%} are needed"
        )


def _nearest_miss(recommendation: Recommendation) -> str:
    """What the best configuration misses by most, on the trace or where its traffic lasts longer."""
    longer = recommendation.longer_load_of(recommendation.best)
    runs = [(recommendation.best.metrics or {}, "")]
    runs += [(longer.metrics, f" if the same traffic lasts {longer.label}")] if longer else []
    misses = [(slo, run, where) for run, where in runs for slo in recommendation.task.objective.slos]
    worst, run, where = max(misses, key=lambda miss: miss[0].ratio(miss[1]))
    told = f"none of {recommendation.trials} configurations meets the targets"
    if math.isinf(worst.ratio(run)):
        return f"{told}; with the nearest overall{where}, {unanswered(run)[0]}: `slotune simulate` tells why"
    return (
        f"{told}; the nearest overall has {worst.key} {milliseconds(worst.value_ms(run))}{where}, where the limit is "
        f"{digits(worst.limit_ms)}: {_mend(recommendation.task, worst, run)}"
    )


def _mend(task: Task, worst: Slo, run: Metrics) -> str:
    """What would meet a target that is missed in a run."""
    overlapping = np.diff(task.trace.arrival_s) < run.get("p99_e2el_ms", math.inf) / 1e3
    if np.count_nonzero(overlapping) < (1 - worst.percentile / 100) * len(task.trace):
        return "raise it, as requests are alone in the engine so far: fewer of them or more replicas change little"
    return f"raise it, lower {_load_option(task)}, or plan for more replicas"


def _load_option(task: Task) -> str:
    """What makes the load smaller."""
    return "--max-concurrency" if is_closed_loop(task) else "--rate"


def after_measuring(recommendation: Recommendation, measured: Validation) -> Recommendation:
    """The recommendation that the measurements make of it; they decide where any run succeeded."""
    if measured.verdict is None:
        return replace(recommendation, measured=measured)
    one, default = measured.verdict.recommended, recommendation.default
    best = default if one.key == default.key else Trial(one.settings, one.predicted)
    return replace(recommendation, measured=measured, best=best)


def called(recommendation: Recommendation) -> str:
    """What the best configuration is: recommended, unless it was measured to miss a target or, where nothing was, is
    predicted to, also on the longer load."""
    measured, meets = recommendation.measured, recommendation.task.objective.meets
    if measured and measured.verdict:
        return validation.called(measured.verdict)
    return RECOMMENDED if any(map(meets, recommendation.runs_of(recommendation.best))) else NEAREST


def best_yaml_of(recommendation: Recommendation) -> str:
    """best.yaml, headed by what was measured where anything was, and otherwise by what was predicted."""
    measured, task = recommendation.measured, recommendation.task
    if measured and measured.verdict:
        return validation.measured_yaml(measured, measured.verdict)
    best = recommendation.best
    by = f"{task.asked.versions.slotune} after {recommendation.trials} simulated configurations"
    found = [
        head_line(called(recommendation), by),
        task.profile.provenance,
        *_target_lines(recommendation),
        *cautions(recommendation),
        *trust_lines(recommendation.trust())[1:],
        *(validation.failure_lines(measured.found) if measured else []),
    ]
    return best_yaml(task, recommendation.settings, found, best.metrics)


def cautions(recommendation: Recommendation) -> list[str]:
    """What is to be known beside the numbers before the settings are used, a sentence each."""
    kinds = lost_lines, luck_lines, fallen_lines, unlimited_lines, edge_lines
    told = [line for kind in kinds for line in kind(recommendation)]
    few = few_requests(recommendation.task.trace, recommendation.task.objective.percentiles)
    return [*told, *([few] if few else []), *([BURSTS] if in_bursts(recommendation.task.trace) else [])]


def default_lasts(recommendation: Recommendation) -> bool:
    """Whether the default meets the targets, also on the longer load where that is known."""
    return all(map(recommendation.task.objective.meets, recommendation.runs_of(recommendation.default)))


def lost_lines(recommendation: Recommendation) -> list[str]:
    """That the recommended settings miss targets on the longer load which they meet on the trace, where they do."""
    best, longer = recommendation.best, recommendation.longer_load_of(recommendation.best)
    return lost_targets(
        recommendation.task.objective, best.metrics or {}, longer, called(recommendation), _advice(recommendation.task)
    )


def _advice(task: Task) -> str:
    return FEWER_IN_FLIGHT if is_closed_loop(task) else SUSTAINED_RATE


def fallen_lines(recommendation: Recommendation) -> list[str]:
    """Goals that the recommended settings reach on the trace and not where its traffic goes on, by MUCH."""
    best, longer = recommendation.best, recommendation.longer_load_of(recommendation.best)
    if longer is None:
        return []
    was, becomes = best.metrics or {}, longer.metrics
    return [
        f"{goal.metric} goes from {figure(was[goal.metric])} to {figure(becomes[goal.metric])} if the same traffic "
        f"lasts {longer.label}: do not count on it {_advice(recommendation.task)}"
        for goal in recommendation.task.objective.effective_goals
        if math.isfinite(was[goal.metric]) and goal.loss(becomes, was) > math.log(MUCH)
    ]


def luck_lines(recommendation: Recommendation) -> list[str]:
    """Targets that the recommended settings meet on the trace and in no more than half of its other orders."""
    best, orders = recommendation.best, recommendation.orders_of(recommendation.best)
    if orders is None:
        return []
    total, option = len(orders.runs), _load_option(recommendation.task)
    met = [
        (word.name, orders.meeting(word.is_met))
        for word in of_targets(recommendation.task.objective)
        if word.is_met(best.metrics or {})
    ]
    return [
        f"{name} is met {f'only in {count}' if count else 'in none'} of {total} other orders of the requests: similar "
        f"traffic may miss it {total - count} times in {total}; lower {option} or raise the limit to be sure of it"
        for name, count in met
        if 2 * count <= total
    ]


def edge_lines(recommendation: Recommendation) -> list[str]:
    """Limits of a step that are recommended as large as any that was tried: a larger one may be better still."""
    settings, asked = recommendation.best.settings, recommendation.task.asked.engine
    return [
        f"the {called(recommendation)} {knob.name}={knob.values[-1]} is the largest that was tried: "
        f"`--engine {knob.name}=N` in another study tells of a larger one"
        for knob in recommendation.task.space.knobs
        if knob.name in ("max_num_batched_tokens", "max_num_seqs")
        and knob.name not in asked
        and settings.get(knob.name) == knob.values[-1]
    ]


def unlimited_lines(recommendation: Recommendation) -> list[str]:
    """Latencies that nobody named and that what is recommended makes much longer: what the rest is bought with."""
    objective = recommendation.task.objective
    goals = " ".join(goal.metric for goal in objective.goals)
    named = {slo.metric for slo in objective.slos} | objective.goodput.keys()
    told = []
    for metric in ("ttft", "tpot"):
        key = f"mean_{metric}_ms"
        was, becomes = (
            (trial.metrics or {}).get(key, math.nan) for trial in (recommendation.default, recommendation.best)
        )
        if metric not in named and metric not in goals and becomes > MUCH * was:
            told.append(
                f"mean {metric.upper()} goes from {milliseconds(was)} to {milliseconds(becomes)}: no target limits it; "
                "set one if it matters"
            )
    return told


def _target_lines(recommendation: Recommendation) -> list[str]:
    objective, best = recommendation.task.objective, recommendation.best
    values = best.metrics or {}
    lines = [
        f"{goal.metric}: {figure(values.get(goal.metric, math.nan))} in simulation"
        f"{_varied(recommendation, of_metric(goal.metric))}"
        for goal in objective.effective_goals
    ]
    lines += [
        f"{word.name}: {word.of(best)} in simulation{_varied(recommendation, word)}" for word in of_limits(objective)
    ]
    return lines


def _varied(recommendation: Recommendation, word: Wording) -> str:
    """What the recommended settings gave under other circumstances, where that is known."""
    best = recommendation.best
    orders, longer = recommendation.orders_of(best), recommendation.longer_load_of(best)
    steps = recommendation.sensitivity_of(best)
    told = [f"{orders.label} of the requests {word.orders(orders)}"] if orders else []
    told += [f"{longer.label} {word.run(longer.metrics)}"] if longer else []
    told += [f"with {steps.label} {word.steps(steps)}"] if steps else []
    return "".join(f"; {text}" for text in told)
