"""Replicas are simulated: the fewest that do are found from anywhere, in turn and at random, without simulating more
than it takes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotune.errors import InfeasibleError
from slotune.simulator.slo import Slo
from slotune.tuner.objective import Objective
from slotune.tuner.planning.capacity import Probe, Scenario, probe, saturated_rate, unloaded
from slotune.tuner.planning.fleet import (
    FAR,
    MOST_AT_RANDOM,
    MOST_REPLICAS,
    MOST_SATURATED,
    ORDERINGS,
    FleetTrial,
    fewest_that_do,
    find_fleet,
    fleet_interval,
)

RATE = 200.0


@pytest.fixture(scope="module")
def scenario(small_profile, small_trace):
    return Scenario("base", small_profile, small_trace(), Objective((Slo(99.0, "ttft", 200.0),)), {"max_num_seqs": 8})


def here(scenario):
    return lambda questions: [question(scenario) for question in questions]


def serve(scenario, replicas, router, rate=RATE):
    """Whether so many replicas serve the rate on every ordering."""
    _, stay_s = unloaded(scenario)
    return all(probe(scenario, rate, stay_s, seed, replicas, router=router).ok for seed in range(ORDERINGS))


def engines(scenario):
    return FleetTrial(scenario, unloaded(scenario)[1], here(scenario))


def fleet_of(scenario, one_takes, rate=RATE):
    return find_fleet(engines(scenario), rate, one_takes)


class Doing:
    """Numbers from `least` on do; keeps those that were asked."""

    def __init__(self, least):
        self.least, self.asked = least, []

    def __call__(self, number):
        self.asked.append(number)
        return f"{number} do" if number >= self.least else None


@pytest.mark.parametrize("least", [1, 2, 3, 6, 9, 10, 11, 14, 30])
@pytest.mark.parametrize("start", [1, 3, 10])
def test_the_fewest_that_do_are_found_from_either_side(least, start):
    does = Doing(least)
    found = fewest_that_do(does, start, start + 8)
    assert found == ((least, f"{least} do") if least <= start + 8 else None)
    assert len(does.asked) == len(set(does.asked)), "nothing is simulated twice"


@given(st.integers(1, 2000), st.integers(0, 2000), st.integers(0, 200), st.integers(0, 40))
def test_the_fewest_that_do_are_found_from_anywhere(start, least, most_added, failing):
    failing = min(failing, start - 1)
    does = Doing(max(least, failing + 1))
    found = fewest_that_do(does, start, start + most_added, failing)
    assert found == ((does.least, f"{does.least} do") if does.least <= start + most_added else None)
    assert len(does.asked) == len(set(does.asked))
    assert all(failing < number <= start + most_added for number in does.asked)


@given(st.integers(FAR, 2000), st.data())
def test_few_that_do_are_found_for_less_than_many_cost_once(start, data):
    """A load on a thousand replicas takes as long as one on each of ten times a hundred."""
    does = Doing(data.draw(st.integers(1, start // FAR)))
    assert fewest_that_do(does, start, 2 * start) == (does.least, f"{does.least} do")
    assert sum(does.asked) <= start


@pytest.fixture(scope="module")
def fleet(scenario):
    return fleet_of(scenario, 60.0)


def test_replicas_are_the_fewest_that_serve_the_forecast(scenario, fleet):
    assert fleet.replicas > 1 and fleet.worst.ok
    assert serve(scenario, fleet.replicas, "round-robin") and not serve(scenario, fleet.replicas - 1, "round-robin")


@pytest.mark.parametrize("one_takes", [1.0, 10.0, 150.0])
def test_what_division_says_is_only_where_the_search_begins(scenario, fleet, one_takes):
    assert fleet_of(scenario, one_takes) == fleet


@pytest.mark.parametrize("shares", [(0.5, 2.0), (0.8, 1.1), (1.0, 1.0)])
def test_replicas_for_traffic_of_which_an_engine_takes_less_or_more(scenario, fleet, shares):
    """Half as much of it is as much work as twice the rate of this trace."""
    least, most = fleet_interval(engines(scenario), RATE, fleet.replicas, shares)
    assert least <= fleet.replicas <= most
    for replicas, rate in ((least, RATE / shares[1]), (most, RATE / shares[0])):
        assert serve(scenario, replicas, "round-robin", rate)
        assert replicas == 1 or not serve(scenario, replicas - 1, "round-robin", rate)


@pytest.mark.parametrize("hardly", [0.0, 0.5 / MOST_REPLICAS])
def test_no_number_of_replicas_serves_traffic_of_which_an_engine_takes_nothing(scenario, fleet, hardly):
    assert fleet_interval(engines(scenario), RATE, fleet.replicas, (hardly, 1.0)) == (fleet.replicas, None)


def bursts(scenario):
    """The same requests, ten at a time."""
    trace = scenario.trace
    return replace(scenario, trace=replace(trace, arrival_s=trace.arrival_s[np.arange(len(trace)) // 10 * 10]))


def metronome(scenario):
    """The same requests, one every second."""
    return replace(scenario, trace=replace(scenario.trace, arrival_s=np.arange(len(scenario.trace), dtype=np.float64)))


@pytest.mark.parametrize("arrivals", [bursts, metronome])
def test_replicas_at_random_are_simulated(scenario, arrivals):
    """Many engines share bursts, unevenly; and what comes evenly comes to each unevenly. Division knows neither."""
    scenario = arrivals(scenario)
    fleet = fleet_of(scenario, 60.0)
    assert 1 < fleet.replicas < fleet.replicas_at_random
    assert serve(scenario, fleet.replicas_at_random, "random")
    assert not serve(scenario, fleet.replicas_at_random - 1, "random")


def test_one_replica_gets_every_request_either_way(scenario):
    fleet = fleet_of(scenario, 60.0, rate=1.0)
    assert fleet.replicas == fleet.replicas_at_random == 1


def test_no_number_of_replicas_at_random_is_told_as_none(scenario):
    """Requests that come evenly to as many replicas never meet there in turn; some do at random on any number."""
    loose = replace(metronome(scenario), objective=Objective((Slo(100.0, "ttft", 1e6),)))
    alone_ms = unloaded(loose)[0].metrics["p100_ttft_ms"]
    strict = replace(loose, objective=Objective((Slo(100.0, "ttft", 1.01 * alone_ms),)))
    fleet = fleet_of(strict, 1.0, rate=20.0)
    assert fleet.replicas_at_random is None and fleet.most_at_random == 4 * fleet.replicas
    assert not serve(strict, MOST_AT_RANDOM * fleet.replicas, "random", rate=20.0)


def test_a_forecast_that_needs_too_many_is_refused_before_it_is_simulated(scenario):
    answered = saturated_rate(scenario)
    with pytest.raises(
        InfeasibleError, match=r"need 3,000 replicas or more, and at most 2,000 are simulated: plan for"
    ):
        find_fleet(FleetTrial(scenario, 1.0, lambda questions: pytest.fail("simulated")), 5999.5 * answered, answered)


def test_an_engine_under_load_answers_less_than_twice_what_it_does_of_a_short_one(scenario):
    _, stay_s = unloaded(scenario)
    flooded = probe(scenario, 1e4, stay_s, 0, least=10_000).metrics["request_throughput"]
    assert saturated_rate(scenario) <= flooded < MOST_SATURATED * saturated_rate(scenario)


def test_where_division_says_too_many_few_may_do(scenario, fleet):
    """One engine takes next to nothing of some traffic in bursts, and many engines share these."""
    assert fleet_of(scenario, 1e-3) == fleet


def test_where_a_like_fleet_was_larger_than_division_says_the_search_begins_there(scenario, fleet):
    tried = []
    like = replace(engines(scenario), beyond=fleet.replicas / 2, on_tried=tried.append)
    assert find_fleet(like, RATE, RATE / 2) == fleet
    assert tried[0] == fleet.replicas


def test_what_came_of_replicas_is_that_of_the_ordering_that_did_worst(scenario):
    """And where one misses the targets, none of them serves."""
    probes = [Probe(RATE, {"p99_ttft_ms": ttft_ms}, True, "queue") for ttft_ms in (100.0, 190.0, 150.0, 120.0, 110.0)]
    tried = []
    trial = FleetTrial(scenario, 1.0, lambda questions: probes[: len(questions)], tried.append)
    assert trial.serve(3, RATE) is probes[1]
    probes[4] = replace(probes[4], ok=False)
    assert trial.serve(4, RATE) is None
    assert tried == [3, 4]


@pytest.mark.parametrize(("replicas", "least"), [(1, 10_000), (3, 3334), (10, 1000), (500, 1000)])
def test_many_replicas_share_the_requests_that_a_rate_stands_on(scenario, replicas, least):
    asked = []

    def ask_all(questions):
        asked.extend(questions)
        return [Probe(RATE, {}, False, "queue")] * len(questions)

    assert FleetTrial(scenario, 1.0, ask_all).serve(replicas, RATE, "random") is None
    assert [question.keywords["seed"] for question in asked] == [0, 1, 2, 3, 4]
    for question in asked:
        told = {name: question.keywords[name] for name in ("rate", "replicas", "least", "router")}
        assert told == {"rate": RATE, "replicas": replicas, "least": least, "router": "random"}
