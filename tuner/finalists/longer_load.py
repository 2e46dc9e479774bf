"""Configurations on the same traffic for many times as long: whether the targets hold where a load goes on.

A trace begins with an empty engine and ends soon, and so does each of its orders: a load that the engine does not
sustain still looks fine on all of them. So the best few and the default also run on a load that lasts (contenders.py):
where any of them meets the targets there, one that does not is not recommended (choice.py), and what it gives is told.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...profiler.trust import MOST_PILED_UP
from ...simulator.slo import milliseconds
from ...traces.stats import request_rate
from ...traces.trace import Trace
from ..objective import ENOUGH_GOOD, Metrics, Objective, good_share, share_text
from ..study.comparison import quantities
from ..study.ranking import alike
from ..study.study import Study, Trial, settings_key
from ..study.task import Task
from ..traffic.growth import STEADY_GROWTH
from ..traffic.steady_load import MOST_LOAD_REQUESTS, drifts
from ..traffic.warm import finds_others

TIMES = 30
"""As long as the trace, where that is no more than MOST_LOAD_REQUESTS: what chance does to a p99 of a thousand requests
is large on ten times as many still."""
SUSTAINED_RATE = "at this rate; `slotune plan` finds a rate that the engine sustains"
FEWER_IN_FLIGHT = "with so many requests in flight; lower --max-concurrency"
"""What is to be done about targets that do not last, where requests come at a rate and where answers bring them."""
LIKE_ONE_THAT_FAILED = 0.02
"""Predictions so near to those of one that does not last are not tried."""


@dataclass(frozen=True, slots=True)
class LongerLoad:
    """What a configuration gave on the traffic for `times` as long."""

    times: int
    metrics: Metrics

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"{self.times} times as long"

    def as_dict(self, targets: Callable[[Metrics], dict[str, bool]]) -> dict[str, Any]:
        """As JSON has it; `targets` tells which are met."""
        return {"times": self.times, "metrics": dict(self.metrics), "targets": targets(self.metrics)}


def longer_loads_of(study: Study) -> dict[str, LongerLoad]:
    """What the study knows of longer loads, by `settings_key`."""
    return {
        trial.key: LongerLoad(trial.repeat, trial.metrics)
        for trial in study.trials("longer load")
        if trial.metrics is not None
    }


def holding_up(trials: Iterable[Trial], task: Task, longer: Mapping[str, LongerLoad]) -> list[Trial]:
    """Those that meet the targets on the longer load, and under which no queue grows there that does not under the
    default."""
    default = longer.get(settings_key(task.asked.engine))
    most = STEADY_GROWTH + _piled_up(default) if default else math.inf
    known = [trial for trial in trials if trial.key in longer]
    return [
        trial
        for trial in known
        if task.objective.meets(longer[trial.key].metrics) and _piled_up(longer[trial.key]) <= most
    ]


def lost_there(trials: Iterable[Trial], task: Task, longer: Mapping[str, LongerLoad]) -> set[str]:
    """By `settings_key`, those that do not last on the longer load (`short_lived`); none where nothing lasts."""
    trials = list(trials)
    return short_lived(trials, task, longer) if holding_up(trials, task, longer) else set()


def short_lived(trials: Iterable[Trial], task: Task, longer: Mapping[str, LongerLoad]) -> set[str]:
    """By `settings_key`, those that ran on the longer load and do not last there, and those that are predicted as one
    of these."""
    trials, shown = list(trials), quantities(task.objective)
    held = {trial.key for trial in holding_up(trials, task, longer)}
    failed = [trial for trial in trials if trial.key in longer and trial.key not in held]
    return {
        trial.key
        for trial in trials
        if trial.key not in held and any(alike(trial, one, shown, LIKE_ONE_THAT_FAILED) for one in failed)
    }


def decided_by(trials: list[Trial], task: Task, longer: Mapping[str, LongerLoad]) -> list[Trial]:
    """Those between which the longer load decides: that last there or, where none does, all that ran there if the
    trace decides nothing: because it begins with empty prefix caches, or because none meets the targets on it either,
    where the nearest to them may be one that is overloaded."""
    if held := holding_up(trials, task, longer):
        return held
    met = any(trial.metrics and task.objective.meets(trial.metrics) for trial in trials)
    undecided = finds_others(task.trace) or not met
    return [trial for trial in trials if trial.key in longer] if undecided else []


def _piled_up(longer: LongerLoad) -> float:
    return longer.metrics.get("piled_up_share", 0.0)


def is_closed_loop(task: Task) -> bool:
    """Whether all requests are ready, and answers alone decide when they are sent."""
    limit = task.asked.max_concurrency
    return limit is not None and limit < len(task.trace) and math.isnan(request_rate(task.trace))


def longer_by(task: Task) -> int:
    """How many times as long the longer load is; 1 where the trace is long enough, or has no rate and no request that
    waits for an answer to another: so many times as many at once would be another load."""
    if math.isnan(request_rate(task.trace)) and not is_closed_loop(task):
        return 1
    return max(1, min(TIMES, MOST_LOAD_REQUESTS // len(task.trace)))


def without_chance(metrics: Metrics, longer: LongerLoad | None, trace: Trace) -> Metrics:
    """The metrics, with no requests that pile up towards the end of the trace where it was chance: where they do not on
    the longer load, and the trace does not end at another rate than it begins."""
    by_chance = longer is not None and _piled_up(longer) <= MOST_PILED_UP and not drifts(trace)
    return {**metrics, "piled_up_share": 0.0} if by_chance else metrics


def lasts_only(objective: Objective, metrics: Metrics, longer: LongerLoad | None) -> bool:
    """Whether the targets are missed on the trace and met where its traffic lasts longer, as where first prefills are
    much of the trace and little of a day."""
    return longer is not None and objective.meets(longer.metrics) and not objective.meets(metrics)


def lost_targets(
    objective: Objective,
    metrics: Metrics,
    longer: LongerLoad | None,
    called: str = "recommended",
    advice: str = SUSTAINED_RATE,
) -> list[str]:
    """That targets which the trace meets are missed where its traffic lasts longer, by settings that are `called` so,
    with `advice`; nothing where none is."""
    if longer is None:
        return []
    lost = [
        f"{slo} ({milliseconds(slo.value_ms(longer.metrics))})"
        for slo in objective.slos
        if slo.is_met(metrics) and not slo.is_met(longer.metrics)
    ]
    if objective.good_ratio(longer.metrics) and not objective.good_ratio(metrics):
        lost.append(f"{ENOUGH_GOOD} ({share_text(good_share(longer.metrics))})")
    if not lost:
        return []
    return [
        f"the {called} settings miss {' and '.join(lost)} if the same traffic lasts {longer.label}: do not count on "
        f"them {advice}"
    ]
