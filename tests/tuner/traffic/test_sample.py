"""How many requests a percentile needs."""

import pytest

from slotune.traces.generate import make_trace
from slotune.traces.lengths import constant
from slotune.tuner.traffic.sample import enough_requests, few_requests, least_requests


def test_a_percentile_stands_on_ten_requests_beyond_it() -> None:
    assert [least_requests(percentile) for percentile in (50, 90, 99, 99.9, 99.99)] == [20, 100, 1000, 10_000, 100_000]


@pytest.mark.parametrize(("percentiles", "enough"), [((), 100), ((50.0,), 100), ((90.0, 99.0), 1000), ((100.0,), 100)])
def test_the_largest_percentile_decides_and_a_hundred_are_the_least(
    percentiles: tuple[float, ...], enough: int
) -> None:
    assert enough_requests(percentiles) == enough


def test_a_trace_is_too_short_below_what_its_percentiles_need() -> None:
    trace = make_trace(150, 5.0, (constant(100), constant(10)), seed=1)
    assert few_requests(trace, (90.0,)) is None and few_requests(trace, ()) is None
    assert "only 150 requests, fewer than the 200 that" in (few_requests(trace, (95.0,)) or "")
