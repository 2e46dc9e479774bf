"""Latency against rate is told of loads that last: a queue that a short trace hides shows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slotune.traces.stats import request_rate
from slotune.traces.transform import rescaled
from slotune.tuner.study import read_asked
from slotune.tuner.sweep import LASTING_REQUESTS, RATE_FACTORS, over_rates
from slotune.tuner.task import Task, load_task


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


def test_a_trace_without_a_rate_has_no_rates(task: Task):
    assert over_rates(replace(task, trace=replace(task.trace, arrival_s=np.zeros(len(task.trace)))), {}) == []
