"""What is judged comes after what warms the caches: a service begins once."""

import numpy as np
import pytest

from slotune.profiler.profile import linear_profile
from slotune.simulator.metrics import summarise
from slotune.simulator.outage import Outage
from slotune.simulator.simulation import simulate
from slotune.simulator.slo import Slo
from slotune.traces.generate import make_trace, parse_lengths
from slotune.tuner.objective import Objective
from slotune.tuner.planning.capacity import Scenario, find_capacity, unloaded
from slotune.tuner.planning.fleet import FleetTrial, find_fleet
from slotune.tuner.traffic.steady_load import ordered
from slotune.tuner.traffic.warm import WARMING, WARMING_SHARE, judged_requests, warmed

LENGTHS = (parse_lengths("100/400"), parse_lengths("20/80"))


def prompts(count, seed=1, rate=10.0):
    """Short questions behind one of 20 system prompts, whose first prefill takes 0.12 s."""
    return make_trace(count, rate, LENGTHS, seed=seed, system_prompts=20, system_prompt_tokens=6000)


@pytest.fixture(scope="module")
def scenario():
    profile = linear_profile(0.005, 2e-5, 5e-5, 2e-8)
    return Scenario("base", profile, prompts(1000), Objective((Slo(99.0, "ttft", 100.0),)))


def test_nothing_is_left_out_where_requests_find_nothing_of_each_other(small_trace):
    load, cold = warmed(small_trace(), 1000, 5.0, 1, 3)
    assert cold == 0 and np.array_equal(load.arrival_s, ordered(small_trace(), 1000, 5.0, 1).arrival_s)


@pytest.mark.parametrize(("replicas", "cold"), [(1, WARMING_SHARE * 2000), (30, WARMING * 20 * 30)])
def test_whole_copies_are_judged_behind_what_warms_every_replica(replicas, cold):
    trace = prompts(1000)
    load, before = warmed(trace, 1500, 5.0, 0, replicas)
    assert (before, len(load) - before) == (round(cold), 2000)
    copies = np.tile(trace.input_tokens, 2)
    assert np.array_equal(np.sort(load.input_tokens[before:]), np.sort(copies))
    assert replicas > 1 or np.array_equal(load.input_tokens[before:], copies), "one replica gets them as they are"
    assert load.arrival_s[0] >= 0 and (np.diff(load.arrival_s) >= 0).all()


def test_one_replica_is_warmed_unless_more_are_named():
    """80 prompts take 400 requests, more than a third of those that are judged."""
    many = make_trace(1000, 10.0, LENGTHS, seed=1, system_prompts=80, system_prompt_tokens=600)
    assert warmed(many, 1000, 5.0, 1)[1] == warmed(many, 1000, 5.0, 1, 1)[1] == WARMING * 80
    assert warmed(many, 1000, 5.0, 1, 2)[1] == WARMING * 80 * 2


def test_where_nothing_of_a_load_is_left_out_it_comes_as_it_is():
    """1,000 requests warm ten replicas: a whole copy, behind which another is judged."""
    trace = prompts(1000)
    load, cold = warmed(trace, 1000, 5.0, 0, 10)
    assert cold == 1000 and np.array_equal(load.arrival_s, ordered(trace, 2000, 5.0, 0, 10).arrival_s)
    fewer, cold = warmed(trace, 1000, 5.0, 0, 9)
    whole = ordered(trace, 1900, 5.0, 0, 9).arrival_s
    assert cold == 900 and fewer.arrival_s == pytest.approx(whole[100:] - whole[99])


def test_what_is_judged_is_timed_from_the_last_request_before_it(scenario):
    load, cold = warmed(scenario.trace, 1000, 20.0, 1, 1)
    whole = simulate(load, scenario.profile.engine_config({}), scenario.profile.timing({})).requests
    after = judged_requests(cold, whole)
    assert len(after) == 1000 and after.arrival_s[0] == load.arrival_s[cold] - load.arrival_s[cold - 1]
    for latency in ("ttft_s", "tpot_s", "e2el_s"):
        assert np.allclose(getattr(after, latency), getattr(whole, latency)[cold:], equal_nan=True)


def test_gaps_between_tokens_are_those_of_what_is_judged(scenario):
    """First prefills of system prompts hold up the answers under way then, and no later ones."""
    load, cold = warmed(scenario.trace, 1000, 20.0, 1, 1)
    engine, timing = scenario.profile.engine_config({}), scenario.profile.timing({})
    whole, result = simulate(load, engine, timing), simulate(load, engine, timing, cold=cold)
    requests = judged_requests(cold, result.requests)
    between_s = (requests.finish_s - requests.first_token_s).sum()
    assert result.gaps.count.sum() == (requests.output_tokens - 1).sum()
    assert (result.gaps.gap_s * result.gaps.count).sum() == pytest.approx(between_s)
    assert result.gaps.gap_s.max() < whole.gaps.gap_s.max()
    assert np.array_equal(result.requests.finish_s, whole.requests.finish_s)


def test_cold_requests_that_fail_or_are_sent_again_have_no_gaps_either(scenario):
    """Of a replica that is away at times, with what it loses among the cold requests and behind them."""
    load, engine, timing = prompts(200, rate=40.0), scenario.profile.engine_config({}), scenario.profile.timing({})
    outages = [Outage(0, 2.0, 2.5), Outage(1, 3.9, 4.2)]
    cold = int(np.searchsorted(load.arrival_s, 3.0))
    result = simulate(load, engine, timing, replicas=2, outages=outages, cold=cold)
    requests = judged_requests(cold, result.requests)
    assert result.gaps.count.sum() == (requests.output_tokens - 1)[requests.finished].sum()
    between_s = (requests.finish_s - requests.first_token_s)[requests.finished].sum()
    assert (result.gaps.gap_s * result.gaps.count).sum() == pytest.approx(between_s)


@pytest.mark.parametrize("cold", [0, 120])
def test_a_judged_run_lasts_until_its_last_request_is_known_to_fail(scenario, cold):
    """The only replica dies with what it has: the run lasts until then, and not until the last of these came."""
    load, engine, timing = prompts(200, rate=40.0), scenario.profile.engine_config({}), scenario.profile.timing({})
    dies_s = float(load.arrival_s[-1]) + 0.1
    result = simulate(load, engine, timing, outages=[Outage(0, dies_s)], cold=cold)
    lost, failed_s = ~result.requests.finished, result.requests.failed_s
    begins_s = load.arrival_s[cold - 1] if cold else 0.0
    found = summarise(judged_requests(cold, result.requests), result.gaps)
    assert found["failed"] == lost[cold:].sum() > 0 and failed_s[lost] == pytest.approx(dies_s, abs=0.2)
    assert found["duration"] == pytest.approx(failed_s[lost].max() - begins_s, abs=1e-9)
    assert found["request_throughput"] == pytest.approx(found["completed"] / found["duration"])


def test_a_target_that_first_prefills_miss_is_not_hopeless(scenario):
    """20 of 1,000 requests find no system prompt, more than the percentile leaves out; of a day's they are none."""
    alone, stay_s = unloaded(scenario)
    assert alone.ok and alone.metrics["p99_ttft_ms"] < 50
    found = find_capacity(scenario, 1, alone, stay_s)
    assert met_when_warm(scenario, 0.93 * found.best.rate) and not met_when_warm(scenario, 1.1 * found.failed.rate)


def met_when_warm(scenario, rate, replicas=1):
    """By other traffic of the kind, after the first third of it."""
    load = prompts(30_000 * replicas, seed=7, rate=rate)
    engine, timing = scenario.profile.engine_config({}), scenario.profile.timing({})
    ttft_s = simulate(load, engine, timing, replicas=replicas).requests.ttft_s
    return np.percentile(ttft_s[len(load) // 3 :], 99) <= 0.1


def test_every_replica_of_a_fleet_is_warm(scenario):
    alone, stay_s = unloaded(scenario)
    one = find_capacity(scenario, 1, alone, stay_s).failed.rate
    trial = FleetTrial(scenario, stay_s, lambda questions: [question(scenario) for question in questions])
    fleet = find_fleet(trial, 2.5 * one, one)
    assert fleet.replicas == 3
    assert met_when_warm(scenario, 2.5 * one, 3)
