"""The best few of a search on other orders of the same requests.

The winner of many trials on one order of requests owes a part of its lead to that order, and its prediction is too good
by as much. So the best few and the default also run on orders that no trial has seen: how far these lie apart is told
beside the prediction, and what they give decides between them where no longer load does (choice.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isnan, nan

import numpy as np

from ...simulator.slo import OF_ALL
from ...traces.lasting_prefixes import passing_on
from ...traces.trace import Trace
from ..objective import Metrics
from ..study.study import Study, Trial
from ..study.task import Task
from .finalists import finalists
from .variation import RunVariations, Variation, how_many_orders, run_variations

ORIGIN = "other order"


@dataclass(frozen=True, slots=True)
class OtherOrders:
    """What a configuration gave on the other orders."""

    runs: Sequence[Metrics]

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"in {len(self.runs)} other order{'s' * (len(self.runs) != 1)}"

    def mean(self) -> dict[str, float]:
        """The mean of each metric; NaN where an order has none."""
        keys = dict.fromkeys(key for metrics in self.runs for key in metrics)
        return {key: float(np.mean([_of(metrics, key) for metrics in self.runs])) for key in keys}

    def range(self, value: Callable[[Metrics], float]) -> tuple[float, float]:
        """Least and greatest of what `value` reads off an order; NaN where one has none."""
        values = list(map(value, self.runs))
        return (min(values), max(values)) if not any(map(isnan, values)) else (np.nan, np.nan)

    def meeting(self, met: Callable[[Metrics], bool]) -> int:
        """On how many orders `met` holds."""
        return sum(map(met, self.runs))


def _of(metrics: Metrics, key: str) -> float:
    """A metric; NaN where there is none.

    A percentile over all requests is kept only where some were not answered, but no more than it leaves out
    (simulator/metrics.py). Where all were it is the plain one, and where too many were not it is infinite.
    """
    if key in metrics or not key.endswith(OF_ALL):
        return metrics.get(key, nan)
    return inf if metrics["failed"] else metrics[key.removesuffix(OF_ALL)]


def _differ(trace: Trace) -> bool:
    """Whether other orders are other than the trace and no worse: requests that are all alike have one order, and
    conversations that an order begins amid find nothing at once."""
    return not _alike(trace) and not passing_on(trace)


def _alike(trace: Trace) -> bool:
    """Whether all requests have the same lengths, priority and runs (one system prompt, say)."""
    runs = np.diff(trace.run_offsets)
    if any(np.ptp(column) for column in (trace.input_tokens, trace.output_tokens, trace.priority, runs)):
        return False
    by_request = (column.reshape(len(trace), runs[0]) for column in (trace.run_name, trace.run_tokens))
    return all(bool((column == column[0]).all()) for column in by_request)


def orders_of(study: Study) -> dict[str, OtherOrders]:
    """What the study knows of other orders, by `settings_key`."""
    runs: dict[str, list[Metrics]] = {}
    for trial in study.trials("other orders"):
        if trial.metrics is not None:
            runs.setdefault(trial.key, []).append(trial.metrics)
    return {key: OtherOrders(metrics) for key, metrics in runs.items()}


def run_other_orders(
    study: Study,
    task: Task,
    run_all: RunVariations,
    on_trial: Callable[[Trial], None],
) -> None:
    """Run the default and the finalists on every order (`run_variations`)."""
    numbers = range(1, how_many_orders(task.trace) + 1) if _differ(task.trace) else ()
    wanted = [
        (number, Variation(settings, number)) for settings in finalists(study, task).values() for number in numbers
    ]
    run_variations(study, "other orders", ORIGIN, wanted, run_all, on_trial)
