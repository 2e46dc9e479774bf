"""The best few of a search on the same traffic for many times as long: whether the targets hold where a load goes on.

A trace begins with an empty engine and ends soon, and so does each of its orders: a load that the engine does not
sustain still looks fine on all of them. So the best few and the default also run on a load that lasts: where any of
them meets the targets there, one that does not is not recommended (choice.py), and what it gives is told.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan
from typing import Any

from ..profiler.trust import MOST_PILED_UP
from ..simulator.slo import milliseconds
from ..traces.stats import request_rate
from .capacity import MOST_REQUESTS
from .finalists import finalists
from .objective import GOOD_SHARE, Metrics, Objective, good_share, share_text
from .study import Study, Trial
from .task import Task
from .variation import RunVariations, Variation, run_variations

TIMES = 10
"""As long as the trace, where that is no more than MOST_REQUESTS: what piles up by a percent is a tenth of a trace."""
ORIGIN = "longer load"


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


def run_longer_load(
    study: Study,
    task: Task,
    run_all: RunVariations,
    on_trial: Callable[[Trial], None],
) -> None:
    """Run the default and the finalists on the longer load (`run_variations`)."""
    times = longer_by(task)
    if times == 1:
        return
    wanted = [(times, Variation(settings, times=times)) for settings in finalists(study, task).values()]
    run_variations(study, "longer load", ORIGIN, wanted, run_all, on_trial)


def longer_by(task: Task) -> int:
    """How many times as long the longer load is; 1 where the trace is long enough, has no rate, or waits for answers:
    a closed loop sends no more than is answered, however long."""
    if task.asked.max_concurrency is not None or isnan(request_rate(task.trace)):
        return 1
    return max(1, min(TIMES, MOST_REQUESTS // len(task.trace)))


def without_chance(metrics: Metrics, longer: LongerLoad | None) -> Metrics:
    """The metrics, with no requests that pile up towards the end of the trace where it was chance: where they do not on
    the longer load."""
    by_chance = longer is not None and longer.metrics.get("piled_up_share", 0.0) <= MOST_PILED_UP
    return {**metrics, "piled_up_share": 0.0} if by_chance else metrics


def lost_targets(objective: Objective, metrics: Metrics, longer: LongerLoad | None) -> list[str]:
    """That targets which the trace meets are missed where its traffic lasts longer; nothing where none is."""
    if longer is None:
        return []
    lost = [
        f"{slo} ({milliseconds(slo.value_ms(longer.metrics))})"
        for slo in objective.slos
        if slo.is_met(metrics) and not slo.is_met(longer.metrics)
    ]
    if objective.good_ratio(longer.metrics) and not objective.good_ratio(metrics):
        lost.append(f"{GOOD_SHARE:.0%} of requests good ({share_text(good_share(longer.metrics))})")
    if not lost:
        return []
    return [
        f"the recommended settings miss {' and '.join(lost)} where the same traffic lasts {longer.label}: do not count "
        "on them at this rate; `slotune plan` finds the rate that lasts"
    ]
