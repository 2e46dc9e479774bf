"""When a forecast is made of copies of a trace, and that a fleet needs more replicas for them."""

from dataclasses import replace

import numpy as np
import pytest

from slotune.traces.generate import make_trace
from slotune.traces.lengths import constant
from slotune.traces.trace import Trace
from slotune.tuner.traffic.overlay import MOST_OVERLAY_REQUESTS, busy_times, is_overlaid, overlaid, peak

LENGTHS = (constant(100), constant(10))


def with_rates(*rates: float, seed: int = 0) -> Trace:
    """A Poisson minute at each rate."""
    rng = np.random.default_rng(seed)
    arrival_s = [np.sort(60 * (minute + rng.random(round(60 * rate)))) for minute, rate in enumerate(rates)]
    together = np.concatenate(arrival_s)
    return replace(make_trace(len(together), 1.0, LENGTHS, seed=seed), arrival_s=together)


@pytest.mark.parametrize("cv", [0.0, 1.0, 3.0])
def test_chance_makes_no_busy_times(cv: float) -> None:
    traces = [make_trace(3000, 2.0, LENGTHS, cv=cv, seed=seed) for seed in range(20)]
    assert sum(map(busy_times, traces)) <= 1


@pytest.mark.parametrize("rates", [(1, 1, 1, 8, *[1] * 16), (1, 5) * 10, tuple(np.linspace(1, 4, 20))])
def test_minutes_and_hours_are_busy_times(rates: tuple[float, ...]) -> None:
    trace = with_rates(*rates)
    assert busy_times(trace)
    own = len(trace) / trace.arrival_s[-1]
    assert [is_overlaid(trace, share * own) for share in (0.5, 1.4, 1.6, 30)] == [False, False, True, True]
    assert not is_overlaid(trace, own * (MOST_OVERLAY_REQUESTS / len(trace) + 1))
    assert not is_overlaid(make_trace(3000, 2.0, LENGTHS, seed=3), 60.0), "it is as steady at any rate"


def test_a_trace_of_few_minutes_has_busy_times_too() -> None:
    """Its tenths tell them: a minute of five is two of these."""
    assert busy_times(with_rates(1, 1, 5, 1, 1))
    seconds = make_trace(100, 5.0, LENGTHS, seed=1)
    assert not busy_times(seconds), "less than a minute"


def test_a_peak_is_that_of_the_busiest_minute_where_a_trace_has_more_of_them_than_ten() -> None:
    """Of 21 minutes a tenth would hide half of it, and so would minutes whose edges cut it in two."""
    long = with_rates(*[1] * 9, 8, *[1] * 11)
    assert peak(long) == pytest.approx(8 / (28 / 21), rel=0.05)
    assert peak(with_rates(1, 1, 1, 1, 6)) == pytest.approx(6 / (10 / 5), rel=0.1)


def test_an_overlay_is_kept() -> None:
    trace = with_rates(1, 5, 1)
    assert overlaid(trace, 20.0, 1) is overlaid(trace, 20.0, 1)
    assert not np.array_equal(overlaid(trace, 20.0, 1).arrival_s, overlaid(trace, 20.0, 2).arrival_s)
