"""Simulations around a configuration: the same settings at other rates, and one setting changed at a time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...simulator.settings import Settings
from ...traces.stats import request_rate
from ...traces.transform import head
from ..objective import Metrics
from ..study.task import Task
from ..traffic.steady_load import lasting_seed
from ..traffic.warm import warmed
from ..workers import workers

RATE_FACTORS = (0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.7, 2.0)
SWEEP_REQUESTS = 10_000  # of the trace: enough for a p99, little enough for a report to be a matter of seconds
LASTING_REQUESTS = 10_000  # a queue that grows by a percent of them shows
MOST_VALUES = 7  # of a setting that is varied


@dataclass(frozen=True, slots=True)
class RatePoint:
    """What a configuration gives at a request rate; None where it cannot run."""

    rate: float
    metrics: Metrics | None


@dataclass(frozen=True, slots=True)
class OneChange:
    """A configuration with one setting changed; its metrics are None where it cannot run."""

    name: str
    value: Any
    metrics: Metrics | None


def over_rates(task: Task, settings: Mapping[str, Any]) -> list[RatePoint]:
    """The settings at RATE_FACTORS times the task's own rate, each on a load that lasts, once prefix caches are warm.

    On the trace itself, which is the sooner over the higher the rate, rates would pass at which a queue grows. Empty
    where the trace has none.
    """
    trace = head(task.trace, SWEEP_REQUESTS)
    rate = request_rate(task.trace)
    if math.isnan(rate):
        return []
    points = []
    for factor in RATE_FACTORS:
        load, cold = warmed(trace, LASTING_REQUESTS, factor * rate, lasting_seed(trace))
        run = replace(task.simulated(), trace=load, cold=cold)
        points.append(RatePoint(factor * rate, run(dict(settings)).metrics))
    return points


def one_at_a_time(task: Task, settings: Mapping[str, Any], jobs: int | None = None) -> list[OneChange]:
    """The settings with each searched one at each of its values (MOST_VALUES of them), that being legal or not."""
    varied = [
        (knob.name, value)
        for knob in task.space.knobs
        if len(knob.values) > 1
        for value in _spread_over(knob.values, settings.get(knob.name, knob.default))
    ]
    many: list[Settings] = [dict(settings) | {name: value} for name, value in varied]
    evaluate = replace(task.simulated(), trace=head(task.trace, SWEEP_REQUESTS))
    with workers(evaluate, jobs) as run_all:
        outcomes = list(run_all(many))
    return [OneChange(*pair, outcome.metrics) for pair, outcome in zip(varied, outcomes, strict=True)]


def _spread_over(values: Sequence[Any], current: Any) -> list[Any]:
    """At most MOST_VALUES of the values, first, last and current among them."""
    places = set(np.linspace(0, len(values) - 1, min(MOST_VALUES, len(values))).round().astype(int).tolist())
    if current in values:
        places.add(values.index(current))
    return [values[place] for place in sorted(places)]
