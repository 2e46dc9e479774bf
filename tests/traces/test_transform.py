"""One trace from another."""

import math
from dataclasses import replace

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.traces.arrivals import arrival_times, idle_s
from slotune.traces.generate import make_trace, plain
from slotune.traces.lengths import constant
from slotune.traces.mooncake import read_mooncake
from slotune.traces.stats import interarrival_cv, trace_stats
from slotune.traces.trace import Trace
from slotune.traces.transform import (
    APART_S,
    at_rate,
    converted,
    first,
    head,
    rescaled,
    spread,
    superposed,
    with_arrivals,
)


def arriving(*arrival_s: float) -> Trace:
    count = len(arrival_s)
    return plain(np.array(arrival_s), np.arange(1, count + 1, dtype=np.int32), np.ones(count, np.int32))


def test_rescaled_stretches_all_gaps_alike() -> None:
    trace = arriving(0.0, 1.0, 4.0)
    assert rescaled(trace, 0.5).arrival_s.tolist() == [0.0, 1.5, 6.0]
    assert trace.arrival_s.tolist() == [0.0, 1.0, 4.0]
    assert trace_stats(rescaled(trace, 7.0))["request_rate"] == pytest.approx(7.0)


def test_requests_that_all_arrive_at_once_cannot_be_rescaled_but_get_poisson_arrivals() -> None:
    trace = arriving(*[0.0] * 5000)
    with pytest.raises(InputError, match="no arrival times to rescale"):
        rescaled(trace, 2.0)
    stats = trace_stats(at_rate(trace, 2.0, seed=1))
    assert stats["request_rate"] == pytest.approx(2.0)
    assert stats["interarrival_cv"] == pytest.approx(1.0, abs=0.04)
    assert at_rate(arriving(0.0, 1.0), 4.0, seed=1).arrival_s.tolist() == [0.0, 0.5]


def test_new_arrivals_keep_the_order_of_the_requests() -> None:
    trace = with_arrivals(arriving(*range(4000)), 10.0, 2.5, np.random.default_rng(3))
    assert trace.input_tokens.tolist() == list(range(1, 4001))
    assert trace.arrival_s[-1] == 400.0
    assert trace_stats(trace)["interarrival_cv"] == pytest.approx(2.5, rel=0.1)


def test_head_and_first_keep_what_belongs_to_a_request() -> None:
    text = '{"timestamp": %d, "input_length": 9, "output_length": 1, "id": "r%d", "prefix": [["a", %d], ["b", 1]]}'
    trace = read_mooncake([(text % (1000 * i, i, i + 1)).encode() for i in range(4)], "t")
    for part in (head(trace, 2), first(trace, 2.0)):
        assert part.request_id == ("r0", "r1")
        assert part.run_offsets.tolist() == [0, 2, 4]
        assert part.run_tokens.tolist() == [1, 1, 2, 1]
    assert len(head(trace, 99)) == 4
    with pytest.raises(InputError, match=r"no request arrives in the first 0\.5 s; the first one at 1 s"):
        first(arriving(1.0, 2.0), 0.5)


def test_spread_fills_each_bin_and_no_empty_one_and_keeps_the_order() -> None:
    times = np.repeat([0.0, 3.0, 9.0, 12.0], 500)
    trace = spread(arriving(*times), np.random.default_rng(0))
    assert trace.input_tokens.tolist() == list(range(1, 2001))
    for group, (low, high) in enumerate([(0, 3), (3, 6), (9, 12), (12, 15)]):
        inside = trace.arrival_s[500 * group : 500 * (group + 1)]
        assert low <= inside.min() < low + 0.05
        assert high - 0.05 < inside.max() <= high
        assert inside.mean() == pytest.approx((low + high) / 2, abs=0.06 * (high - low))
    with pytest.raises(InputError, match="all requests have one arrival time"):
        spread(arriving(1.0, 1.0), np.random.default_rng(0))


def test_converted_does_one_after_the_other_and_the_same_for_a_seed() -> None:
    trace = arriving(*np.repeat(np.arange(0.0, 100.0, 3.0), 4))
    result = converted(trace, 5, requests=40, duration_s=15.0, spread_bins=True, rate=2.0)
    assert len(result) == 20
    assert len(np.unique(result.arrival_s)) == 20
    assert result.arrival_s[-1] == pytest.approx(10.0)
    again = converted(trace, 5, requests=40, duration_s=15.0, spread_bins=True, rate=2.0)
    assert again.arrival_s.tolist() == result.arrival_s.tolist()
    even = converted(trace, 5, requests=4, rate=2.0, cv=0)
    assert even.arrival_s.tolist() == [0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize("late_s", [0.0, 55.0, 5000.0])
def test_a_rate_is_that_of_the_requests_and_not_of_the_time_before_them(late_s: float) -> None:
    """A piece cut out of a longer trace: 200 requests at 20 a second, asked for at 40."""
    made = plain(np.arange(1, 201) / 20, np.full(200, 9, np.int32), np.full(200, 9, np.int32))
    late = replace(made, arrival_s=made.arrival_s + late_s)
    assert trace_stats(late)["request_rate"] == pytest.approx(20, rel=0.01)
    paced = at_rate(late, 40.0, 0).arrival_s
    assert np.diff(paced) == pytest.approx(1 / 40, rel=0.01) and paced[-1] == pytest.approx(5)


def test_requests_that_all_come_at_once_get_arrivals_of_their_own_wherever_they_stand() -> None:
    burst = plain(np.full(50, 5.0), np.full(50, 9, np.int32), np.full(50, 9, np.int32))
    assert len(np.unique(at_rate(burst, 10.0, 0).arrival_s)) > 40


@pytest.mark.parametrize(("count", "late_s"), [(20, 4.5), (20, 2.0), (50, 4.5), (100, 4.9), (100, 1.5)])
def test_a_short_piece_that_begins_late_has_the_rate_of_its_requests(count: int, late_s: float) -> None:
    lengths = np.full(count, 9, np.int32)
    late = plain(np.arange(1, count + 1) / 10 + late_s, lengths, lengths)
    assert trace_stats(late)["request_rate"] == pytest.approx(10, rel=0.06)


@pytest.mark.parametrize("cv", [1.0, 3.0])
def test_a_load_hardly_ever_begins_with_what_is_taken_for_a_late_beginning(cv: float) -> None:
    for count, most in ((10, 0.02), (50, 0.005), (1000, 0.0)):
        starts = [idle_s(arrival_times(count, 10.0, cv, np.random.default_rng(seed))) for seed in range(1000)]
        assert sum(start > 0 for start in starts) <= 1000 * most


def test_groups_that_arrive_at_once_are_no_late_beginning() -> None:
    """Ten groups of a hundred: the gaps within a group say nothing of how long one waits for the next."""
    for seed in range(300):
        assert idle_s(arrival_times(1000, 10.0, 1.0, np.random.default_rng(seed), group=100)) == 0.0


def test_arrivals_over_centuries_are_refused() -> None:
    made = plain(np.arange(1, 11) / 10, np.full(10, 9, np.int32), np.full(10, 9, np.int32))
    with pytest.raises(InputError, match="10 requests at 1e-12 per second take longer than"):
        at_rate(made, 1e-12, 0)


def busy(rates: dict[int, float]) -> Trace:
    """A minute at each rate, evenly spaced."""
    return arriving(*np.concatenate([60 * minute + np.arange(0, 60, 1 / rate) for minute, rate in rates.items()]))


def test_more_users_keep_the_length_of_a_busy_minute() -> None:
    trace = busy({0: 2, 1: 2, 2: 20, 3: 2, 4: 2, 5: 2})
    dense = superposed(trace, 10 * len(trace) / trace.arrival_s[-1], np.random.default_rng(0))
    assert (len(dense), trace_stats(dense)["request_rate"]) == (10 * len(trace), pytest.approx(50.0, rel=0.01))
    per_minute = np.histogram(dense.arrival_s, 6, (0, 360))[0] / 600
    assert per_minute[[0, 4, 5]] == pytest.approx(2.0, rel=0.15)
    assert 20.0 * (1 - APART_S / 120) < per_minute[2] < 20.0
    times_each = np.bincount(dense.input_tokens)[1:]
    assert (times_each == 10).all(), "every request comes once in every copy"


@pytest.mark.parametrize("length_s", [60, 300, 1200])
def test_a_busy_tenth_stays_one_however_short_the_trace_is(length_s: float) -> None:
    rates = np.ones(10)
    rates[4] = 10
    moments = np.cumsum(np.append(0, rates)) / rates.sum()
    trace = arriving(*np.interp((np.arange(2000) + 0.5) / 2000, moments, np.linspace(0, length_s, 11)))
    dense = superposed(trace, 10 * len(trace) / length_s, np.random.default_rng(0))
    peaks = [np.histogram(one.arrival_s, 10)[0].max() / len(one) for one in (trace, dense)]
    assert peaks[1] > 0.85 * peaks[0]


def test_bursts_shorter_than_the_copies_lie_apart_fall_where_they_may() -> None:
    trace = arriving(*np.repeat(np.arange(1.0, 301.0), 8))
    dense = superposed(trace, 200.0, np.random.default_rng(0))
    at_once = np.unique(dense.arrival_s, return_counts=True)[1]
    assert at_once.max() == 8, "bursts of the trace come in every copy, but not at the same moment"
    assert len(at_once) == 300 * 25


@pytest.mark.parametrize("share", [1.2, 1.49, 2.51, 7.3])
def test_a_busy_minute_is_as_long_at_any_rate(share: float) -> None:
    trace = busy({0: 2, 1: 2, 2: 20, 3: 2, 4: 2, 5: 2})
    dense = superposed(trace, share * len(trace) / trace.arrival_s[-1], np.random.default_rng(0))
    assert len(dense) == round(share * len(trace))
    assert dense.arrival_s[-1] == pytest.approx(trace.arrival_s[-1], rel=0.005)
    per_minute = np.histogram(dense.arrival_s, 6, (0, 360))[0] / 60 / share
    assert per_minute[[0, 4, 5]] == pytest.approx(2.0, rel=0.2) and per_minute[2] > 15.0
    assert np.bincount(dense.input_tokens)[1:].max() == math.ceil(share), "at most once in every copy"


def test_conversations_stay_whole_and_time_gives_way() -> None:
    trace = make_trace(300, 2.0, (constant(50), constant(20)), turns=4, users=10, seed=0)
    own = len(trace) / trace.arrival_s[-1]
    dense = superposed(trace, 2.3 * own, np.random.default_rng(0))
    assert len(dense) == 2 * len(trace)
    assert dense.arrival_s[-1] == pytest.approx(trace.arrival_s[-1] * 2 / 2.3, rel=0.01)
    less = superposed(trace, 1.4 * own, np.random.default_rng(0))
    assert np.array_equal(less.arrival_s, rescaled(trace, 1.4 * own).arrival_s)


@pytest.mark.parametrize("gap_s", [0.05, 1.0, 5.0, 60.0])
def test_copies_of_steady_traffic_are_as_steady_however_rare_its_requests_are(gap_s: float) -> None:
    """Superposed Poisson processes are one: were all copies of a rare request sent within 30 s, each were a burst."""
    lengths = np.full(2000, 9, np.int32)
    trace = plain(arrival_times(2000, 1 / gap_s, 1.0, np.random.default_rng(1)), lengths, lengths)
    dense = superposed(trace, 20 / gap_s, np.random.default_rng(0))
    assert interarrival_cv(dense.arrival_s) == pytest.approx(1.0, abs=0.12)


def test_fewer_users_or_too_many_are_no_copies() -> None:
    trace = busy({0: 2, 1: 6})
    assert superposed(trace, 0.5, np.random.default_rng(0)).arrival_s[-1] == pytest.approx(len(trace) / 0.5)
    with pytest.raises(InputError, match="no arrival times to rescale"):
        superposed(arriving(0.0, 0.0), 4.0, np.random.default_rng(0))
    with pytest.raises(InputError, match=r"at 1e\+308 requests per second"):
        superposed(trace, 1e308, np.random.default_rng(0))
    with pytest.raises(InputError, match=r"at 1e\+09 requests per second for 119\.8.* more than 100,000,000"):
        superposed(trace, 1e9, np.random.default_rng(0))


def test_pieces_of_a_trace_have_every_request_once() -> None:
    """0.3 - 0.1 is less than 0.2: the request at 0.3 s was in two pieces."""
    trace = arriving(*(tenth / 10 for tenth in range(30)))
    pieces = [converted(trace, 0, from_s=n / 10, duration_s=0.2) for n in range(0, 30, 2)]
    assert [piece.input_tokens.tolist() for piece in pieces] == [[n + 1, n + 2] for n in range(0, 30, 2)]


def test_an_hour_within_a_trace_begins_at_0() -> None:
    trace = arriving(0.0, 5.0, 10.0, 12.5, 19.9, 20.0, 30.0)
    cut = converted(trace, 0, from_s=10.0, requests=5, duration_s=10.0)
    assert cut.arrival_s.tolist() == pytest.approx([0.0, 2.5, 9.9])
    assert cut.input_tokens.tolist() == [3, 4, 5]
    assert converted(trace, 0, from_s=11.0).arrival_s.tolist() == pytest.approx([1.5, 8.9, 9.0, 19.0])
    assert converted(trace, 0, from_s=10.0, requests=2).input_tokens.tolist() == [3, 4]
    with pytest.raises(InputError, match="no request arrives after the first 31 s; the last one at 30 s"):
        converted(trace, 0, from_s=31.0)


def test_one_stray_time_does_not_make_the_bins_of_the_others_narrow() -> None:
    times = np.repeat(np.arange(80.0), 2)
    times[81] += 0.001
    spread_s = spread(arriving(*times), np.random.default_rng(0)).arrival_s
    assert len(np.unique(np.floor(10 * spread_s))) > 120
