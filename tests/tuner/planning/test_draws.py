"""Draws of a trace lie as far apart as other samples of its traffic do, and the interval says so."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from slotune.traces.generate import make_trace, parse_lengths
from slotune.traces.lengths import constant
from slotune.traces.transform import head
from slotune.tuner.planning.draws import APART, CONFIDENCE, DRAWS, drawable, drawn, rate_interval

LENGTHS = parse_lengths("1155/1020/4142"), parse_lengths("211/129/601")


def chat(seed):
    return make_trace(1000, 5.0, LENGTHS, seed=seed)


def test_draws_differ_by_as_much_as_samples_of_the_traffic_do():
    """In the mean work of a request, which is what a rate hangs on."""
    traffic = make_trace(100_000, 5.0, LENGTHS, seed=0)
    samples = [traffic.taken(np.arange(first, first + 1000)) for first in range(0, len(traffic), 1000)]
    draws = [drawn(samples[0], number) for number in range(200)]
    lengths = [[trace.output_tokens.mean() for trace in traces] for traces in (samples, draws)]
    assert np.std(lengths[1]) == pytest.approx(np.std(lengths[0]), rel=0.25)
    assert np.mean(lengths[1]) == pytest.approx(samples[0].output_tokens.mean(), rel=0.01)


def test_a_draw_is_as_many_of_the_requests_at_one_a_second_and_the_same_each_time():
    trace = chat(1)
    one, again, other = drawn(trace, 1), drawn(trace, 1), drawn(trace, 2)
    assert len(one) == len(trace)
    assert set(one.output_tokens) <= set(trace.output_tokens)
    assert one.arrival_s[-1] == pytest.approx(len(trace), rel=0.01)
    assert np.array_equal(one.input_tokens, again.input_tokens) and np.array_equal(one.arrival_s, again.arrival_s)
    assert not np.array_equal(one.input_tokens, other.input_tokens)


def test_a_single_request_can_be_drawn():
    assert len(drawn(head(chat(1), 1), 1)) == 1


def test_a_draw_of_requests_that_come_at_once_is_one_of_them():
    """Which gets its Poisson arrivals for as long as each load lasts."""
    at_once = replace(chat(1), arrival_s=np.zeros(len(chat(1))))
    one = drawn(at_once, 1)
    assert not one.arrival_s.any() and not np.array_equal(one.input_tokens, at_once.input_tokens)


def test_conversations_are_not_drawn():
    turns = make_trace(200, 5.0, (constant(100), constant(20)), seed=0, turns=4, users=5)
    assert not drawable(turns)
    assert drawable(chat(1))


def test_the_interval_is_students_on_logarithms():
    rates = [10.0, 10.5, 11.0, 9.5]
    factor = math.exp(t.ppf(0.5 + CONFIDENCE / 2, 3) * APART * np.std(np.log(rates), ddof=1))
    assert rate_interval(20.0, rates) == pytest.approx((20.0 / factor, 20.0 * factor))


def test_nine_in_ten_intervals_hold_the_rate_that_samples_scatter_about():
    """Of a rate that scatters by 5 % from sample to sample, and less from draw to draw."""
    rng = np.random.default_rng(0)
    intervals = [
        rate_interval(sample := math.exp(0.05 * rng.normal()), sample * np.exp(0.05 / APART * rng.normal(size=DRAWS)))
        for _ in range(4000)
    ]
    assert np.mean([low <= 1.0 <= high for low, high in intervals]) == pytest.approx(CONFIDENCE, abs=0.02)


@pytest.mark.parametrize(
    ("drawn_rates", "interval"),
    [((), (5.0, 5.0)), ((5.0, 5.0), (5.0, 5.0)), ((0.0, 0.0), (0.0, 5.0)), ((0.0, 4.0, 6.0), (0.0, 6.0))],
)
def test_draws_that_tell_nothing_or_take_no_rate(drawn_rates, interval):
    assert rate_interval(5.0, drawn_rates) == pytest.approx(interval)
