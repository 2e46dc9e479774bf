"""Settings on other orders of the requests and with other step times: what moves and what stays."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from slotune.simulator.timing import Pace
from slotune.tuner.evaluate import SimulatedRun
from slotune.tuner.finalists.variation import ORDERS, Variation, VariedRun, how_many_orders, rotated


def test_an_order_moves_the_requests_and_leaves_the_arrivals(small_trace: Any):
    trace = small_trace(70, shared=50)
    for number in range(1, ORDERS + 1):
        other = rotated(trace, number)
        assert (other.arrival_s == trace.arrival_s).all()
        assert (other.input_tokens == np.roll(trace.input_tokens, -10 * number)).all()
        assert (other.output_tokens == np.roll(trace.output_tokens, -10 * number)).all()
        assert (other.run_tokens == 50).all()


@pytest.mark.parametrize("requests", [2, 3, 6])
def test_orders_of_few_requests_are_all_other_ones(small_trace: Any, requests: int):
    trace = replace(small_trace(requests), input_tokens=np.arange(1, requests + 1, dtype=np.int32))
    orders = [rotated(trace, number).input_tokens.tolist() for number in range(1, how_many_orders(trace) + 1)]
    assert len({tuple(order) for order in [*orders, trace.input_tokens.tolist()]}) == requests == len(orders) + 1


def test_nothing_varied_is_the_run_as_it_is(small_profile: Any, small_trace: Any):
    simulated = SimulatedRun(small_profile, small_trace(70))
    settings = {"max_num_seqs": 8}
    assert VariedRun(simulated)(Variation(settings)).metrics == simulated(settings).metrics
    assert VariedRun(simulated)(Variation(settings, 1)).metrics != simulated(settings).metrics


def test_a_step_factor_lengthens_every_step_and_nothing_else(small_profile: Any, small_trace: Any):
    alone = SimulatedRun(small_profile, small_trace(1))
    once, twice = (VariedRun(alone)(Variation({}, pace=Pace(factor))).metrics for factor in (1.0, 2.0))
    assert twice["mean_e2el_ms"] == pytest.approx(2 * once["mean_e2el_ms"])
    assert twice["total_output_tokens"] == once["total_output_tokens"]


def test_a_closed_loop_that_lasts_is_not_its_first_wave(small_profile: Any, small_trace: Any):
    """Eight at a time: at the beginning they wait for each other's prefills of 0.1 s, and then hardly."""
    prompts, answers = np.full(40, 5000, np.int32), (100 + 70 * np.arange(40) % 230).astype(np.int32)
    at_once = replace(small_trace(40), arrival_s=np.zeros(40), input_tokens=prompts, output_tokens=answers)
    simulated = SimulatedRun(small_profile, at_once, max_concurrency=8)
    short, longer = (VariedRun(simulated)(Variation({}, times=times)).metrics for times in (1, 10))
    assert longer["completed"] == 400
    assert longer["request_throughput"] == pytest.approx(short["request_throughput"], rel=0.2)
    assert longer["mean_ttft_ms"] < 0.8 * short["mean_ttft_ms"]


@pytest.mark.parametrize("requests", [2, 3, 5])
def test_a_few_requests_go_on_with_the_gaps_that_they_have(small_profile: Any, small_trace: Any, requests: int):
    """A third more a second, as the requests over their time would have it, could not be served."""
    service_s = SimulatedRun(small_profile, small_trace(1))({}).metrics["mean_e2el_ms"] / 1e3
    trace = replace(small_trace(requests), arrival_s=1.05 * service_s * np.arange(requests))
    alike = replace(trace, input_tokens=np.full(requests, 500, np.int32), output_tokens=np.full(requests, 9, np.int32))
    simulated = SimulatedRun(small_profile, alike)
    short, longer = (VariedRun(simulated)(Variation({}, times=times)).metrics for times in (1, 30))

    assert longer["p99_ttft_ms"] == pytest.approx(short["p99_ttft_ms"], rel=1e-6)


def test_a_longer_load_is_judged_once_caches_are_warm(small_profile: Any, small_trace: Any):
    """The first requests wait for the system prompt's prefill, which the longer load has behind it."""
    trace = small_trace(70, shared=6000)
    simulated = SimulatedRun(small_profile, trace)
    short, longer = (VariedRun(simulated)(Variation({}, times=times)).metrics for times in (1, 10))
    assert longer["completed"] == 10 * len(trace)
    assert longer["p99_ttft_ms"] < 0.5 * short["p99_ttft_ms"]
