"""Latency against rate is told of loads that last: a queue that a short trace hides shows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slotune.traces.stats import request_rate
from slotune.traces.transform import rescaled
from slotune.tuner.pages.sweep import LASTING_REQUESTS, RATE_FACTORS, over_rates
from slotune.tuner.study.study import read_asked
from slotune.tuner.study.task import Task, load_task
from slotune.tuner.traffic.steady_load import ordered


@pytest.fixture
def task(searched: Path) -> Task:
    """The searched study's, of 80 requests."""
    return load_task(read_asked(searched))


def test_each_rate_lasts(task: Task):
    points = over_rates(task, {})
    assert [point.rate for point in points] == [factor * request_rate(task.trace) for factor in RATE_FACTORS]
    for point in points:
        assert point.metrics is not None
        assert LASTING_REQUESTS <= point.metrics["completed"] < LASTING_REQUESTS + len(task.trace)


def test_a_rate_that_the_engine_does_not_sustain_looks_like_one(task: Task):
    overloaded = replace(task, trace=rescaled(task.trace, 4.5))
    fastest = over_rates(overloaded, {})[-1]
    short = replace(task.simulated(), trace=rescaled(task.trace, fastest.rate))({}).metrics
    assert short is not None and short["p99_ttft_ms"] < 5000 < (fastest.metrics or {})["p99_ttft_ms"]


def test_rates_are_told_of_warm_caches(task: Task, small_trace: Any):
    """At the lowest rate nothing waits but for the first prefills of ten system prompts."""
    trace = small_trace(80, shared=6000)
    shared = replace(task, trace=replace(trace, run_name=np.arange(80) % 10))
    load = ordered(shared.trace, LASTING_REQUESTS, RATE_FACTORS[0] * request_rate(trace), 1)
    cold, warm = replace(task.simulated(), trace=load)({}).metrics, over_rates(shared, {})[0].metrics
    assert warm is not None and cold is not None
    assert warm["std_ttft_ms"] < 0.8 * cold["std_ttft_ms"]


def test_a_trace_without_a_rate_has_no_rates(task: Task):
    assert over_rates(replace(task, trace=replace(task.trace, arrival_s=np.zeros(len(task.trace)))), {}) == []
