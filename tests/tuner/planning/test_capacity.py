"""The highest rate is found within its tolerance, luck does not count, and hopeless targets are told."""

import math
from dataclasses import replace

import numpy as np
import pytest

from slotune.errors import InfeasibleError, InputError
from slotune.profiler.profile import linear_profile
from slotune.simulator.slo import Slo
from slotune.simulator.timing import Pace
from slotune.traces.generate import make_trace, parse_lengths, plain
from slotune.traces.lengths import constant
from slotune.tuner.objective import Objective
from slotune.tuner.planning.capacity import (
    TOLERANCE,
    Capacity,
    Probe,
    Scenario,
    _binding,
    confirmed,
    find_capacity,
    highest_rate,
    probe,
    saturated_rate,
    unloaded,
)

NOTHING = Probe(0.0, {}, True, "queue")


def limited(passes, calls=None):
    def at(rate):
        if calls is not None:
            calls.append(rate)
        return Probe(rate, {}, passes(rate), "p99:ttft:500")

    return at


@pytest.mark.parametrize("limit", [0.013, 1.0, 7.7, 5000.0])
def test_the_limit_is_found_from_either_side(limit):
    calls = []
    found = highest_rate(limited(lambda rate: rate <= limit, calls), NOTHING, 1.0)
    assert limit * (1 - TOLERANCE) <= found.best.rate <= limit < found.failed.rate <= found.best.rate / (1 - TOLERANCE)
    assert len(calls) < 32
    assert TOLERANCE == 0.02, "as the pages say"


def test_a_lucky_rate_does_not_count():
    found = highest_rate(limited(lambda rate: rate <= 10 or 15.5 <= rate <= 16.2), NOTHING, 1.0)
    assert 10 * (1 - TOLERANCE) <= found.best.rate <= 10


def test_targets_that_bind_nothing():
    with pytest.raises(InputError, match="do not limit it"):
        highest_rate(limited(lambda rate: True), NOTHING, 1.0)


def test_goodput_needs_99_of_100_good():
    objective = Objective(goodput={"ttft": 500.0})
    run = {"completed": 1000.0, "failed": 0.0, "request_throughput": 10.0, "request_goodput": 9.9}
    assert objective.fulfilled(run)
    assert not objective.fulfilled(run | {"request_goodput": 9.89})
    assert not objective.fulfilled(run | {"completed": 990.0, "failed": 10.0})
    assert not objective.fulfilled(run | {"request_throughput": math.nan, "request_goodput": math.nan})


@pytest.fixture
def scenario(small_profile, small_trace):
    def make(*slos, **settings):
        return Scenario("base", small_profile, small_trace(shared=64), Objective(slos), settings)

    return make


def capacity_of(scenario, seed):
    return find_capacity(scenario, seed, *unloaded(scenario))


def test_a_limit_of_days_does_not_make_a_load_of_days(scenario, monkeypatch):
    monkeypatch.setattr("slotune.tuner.planning.capacity.MOST_LOAD_REQUESTS", 2000)
    tried = probe(scenario(Slo(99.0, "ttft", 1e9), max_num_seqs=4), 1000.0, 1.0, 0)
    assert tried.metrics["completed"] == 2040  # whole copies of the trace
    assert (tried.ok, tried.binding) == (False, "queue")


def test_a_saturated_engine_is_not_capacity_although_its_target_is_met(scenario):
    """With four places, time per token stays low however long the queue is: only the queue tells."""
    tpot_only = scenario(Slo(99.0, "tpot", 100.0), max_num_seqs=4)
    found = capacity_of(tpot_only, 0)
    assert found.failed.binding == "queue"
    # Four places, each held for a request's stay: no more can pass than that.
    stay_s = found.best.metrics["mean_e2el_ms"] - found.best.metrics["mean_ttft_ms"]
    assert found.best.rate < 4 / (stay_s / 1000)
    assert probe(tpot_only, found.best.rate * 1.1, 0.2, 1).ok is False


def test_capacity_depends_on_the_target(scenario):
    rates = [capacity_of(scenario(Slo(99.0, "ttft", ms)), 1).best.rate for ms in (60, 500)]
    assert rates[0] < rates[1]


def test_a_target_that_a_lone_request_misses(scenario):
    with pytest.raises(InfeasibleError, match="p99:tpot:2 is missed by requests that are alone"):
        capacity_of(scenario(Slo(99.0, "tpot", 2.0)), 0)


@pytest.mark.parametrize("slo", [Slo(99.0, "ttft", 500.0), Slo(99.0, "tpot", 60.0)])
def test_no_more_than_the_engine_can_make_is_capacity(slo):
    """1024 places and steps of 5 + 0.05 ms a row: 200-token answers at 1024 / 200 / 0.0562 s, however short the trace.

    The batch takes minutes to fill: until then no queue grows and every target is met.
    """
    profile = linear_profile(0.005, 1e-6, 5e-5, 0.0)
    trace = make_trace(1000, 10.0, (constant(16), constant(200)), seed=0)
    found = capacity_of(Scenario("base", profile, trace, Objective((slo,)), {"max_num_seqs": 1024}), 0)
    assert found.best.rate == pytest.approx(1024 / 200 / 0.0562, rel=0.03)


def test_requests_that_are_turned_away_are_no_queue(small_profile, small_trace):
    trace = small_trace(400)
    longest = int(np.percentile(trace.input_tokens + trace.output_tokens, 90))
    scenario = Scenario(
        "base", small_profile, trace, Objective((Slo(50.0, "ttft", 500.0),)), {"max_model_len": longest}
    )
    found = capacity_of(scenario, 0)
    assert found.best.metrics["failed"] > 0 and found.best.rate > 10


def test_a_target_that_some_requests_miss_by_themselves_is_told(small_profile, small_trace):
    trace = small_trace(1000)
    lengths = trace.input_tokens.copy()
    lengths[300::10] = 20_000
    scenario = Scenario(
        "base", small_profile, replace(trace, input_tokens=lengths), Objective((Slo(99.0, "ttft", 200.0),))
    )
    with pytest.raises(
        InfeasibleError, match="base: no rate meets the targets: p99:ttft:200 is missed by requests that are alone"
    ):
        capacity_of(scenario, 0)


def test_a_few_long_prompts_do_not_stop_every_rate_wherever_they_are(small_profile, small_trace):
    """One in 200 requests is above the limit by itself: no 99th percentile."""
    limit = Objective((Slo(99.0, "ttft", 200.0),))
    found = []
    for first in (0, 1500):
        trace = small_trace(2000)
        lengths = trace.input_tokens.copy()
        lengths[first : first + 100 : 10] = 20_000
        found.append(
            capacity_of(Scenario("base", small_profile, replace(trace, input_tokens=lengths), limit), 0).best.rate
        )
    assert found[0] == pytest.approx(found[1], rel=0.25) and found[0] > 1


def test_requests_that_stay_for_minutes_do_not_meet_where_each_is_alone():
    profile = linear_profile(0.03, 2e-5, 5e-5, 2e-8)
    trace = make_trace(1000, 1.0, (constant(500), constant(8000)), seed=0)
    scenario = Scenario("base", profile, trace, Objective((Slo(99.0, "ttft", 100.0),)), {"max_num_seqs": 1})
    alone, stay_s = unloaded(scenario)
    assert alone.ok and stay_s == pytest.approx(240, rel=0.05)


def test_the_system_prompts_of_a_short_trace_are_warm_in_the_next_copy(small_profile):
    """100 requests make each of five system prompts five per cent of them cold; the service goes on."""
    lengths = (constant(100), constant(20))
    rates = []
    for count in (100, 10_000):
        trace = make_trace(count, 5.0, lengths, system_prompts=5, system_prompt_tokens=4000, seed=0)
        scenario = Scenario("base", small_profile, trace, Objective((Slo(99.0, "ttft", 100.0),)))
        rates.append(capacity_of(scenario, 0).best.rate)
    assert rates[0] == pytest.approx(rates[1], rel=0.15)


def test_what_binds_is_named(small_profile, small_trace):
    objective = Objective((Slo(99.0, "ttft", 5000.0),), (), {"tpot": 6.0})
    scenario = Scenario("base", small_profile, small_trace(), objective)
    assert capacity_of(scenario, 0).failed.binding == "goodput"
    hopeless = replace(scenario, objective=replace(objective, goodput={"tpot": 1.0}))
    with pytest.raises(InfeasibleError, match="fewer than 99% of the requests are good even alone"):
        unloaded(hopeless)


def test_a_load_has_the_requests_on_which_a_percentile_stands(scenario):
    for percentile, least in ((50.0, 1000), (99.0, 1000), (99.9, 10_000), (100.0, 1000)):
        tried = probe(scenario(Slo(percentile, "ttft", 1e4)), 0.5, 0.01, 0)
        assert least <= tried.metrics["completed"] < 1.1 * least


def test_a_longer_load_lowers_a_rate_that_fails_on_it_and_raises_one_above_which_none_does():
    found = Capacity(Probe(100.0, {}, True, "queue"), Probe(102.0, {}, False, "queue"))
    kept = confirmed(limited(lambda rate: rate <= 100), found)
    assert (kept.best.rate, kept.failed.rate) == (100.0, 102.0)
    lowered = confirmed(limited(lambda rate: rate <= 93), found)
    assert 93 * (1 - TOLERANCE) <= lowered.best.rate <= 93 < lowered.failed.rate <= 93 / (1 - TOLERANCE)
    raised = confirmed(limited(lambda rate: rate <= 180), found)
    assert 180 * (1 - TOLERANCE) <= raised.best.rate <= 180 < raised.failed.rate <= 180 / (1 - TOLERANCE)
    calls = []
    far_below = confirmed(limited(lambda rate: rate <= 7, calls), found)
    assert 7 * (1 - TOLERANCE) <= far_below.best.rate <= 7 < far_below.failed.rate <= 7 / (1 - TOLERANCE)
    with pytest.raises(InfeasibleError, match="p99:ttft:500 stops even"):
        confirmed(limited(lambda rate: False, calls), found)
    assert len(calls) < 40, "each is a simulation of 10,000 requests"


def test_a_few_seats_take_on_a_short_trace_what_they_take_on_a_long_one():
    """Long waits come in bursts, which a thousand requests may lack."""
    profile = linear_profile(0.008, 2e-5, 1e-4, 2e-8)
    lengths = (parse_lengths("1155/1020/4142"), parse_lengths("211/129/601"))
    found = [
        capacity_of(
            Scenario(
                "base",
                profile,
                make_trace(count, 5.0, lengths, seed=seed),
                Objective((Slo(99.0, "ttft", 2000.0),)),
                {"max_num_seqs": 16},
            ),
            1,
        ).best.rate
        for count, seed in ((20_000, 1), (1000, 1), (1000, 2), (1000, 3), (1000, 4))
    ]
    assert max(found[1:]) < 1.06 * found[0]


def test_answers_that_max_model_len_cuts_are_counted(scenario):
    tried = probe(scenario(Slo(99.0, "ttft", 500.0), max_model_len=200), 5.0, 1.0, 0)
    assert tried.metrics["answers_cut"] > 0
    assert probe(scenario(Slo(99.0, "ttft", 500.0)), 5.0, 1.0, 0).metrics["answers_cut"] == 0


def test_targets_missed_for_want_of_answers_name_that(scenario):
    with pytest.raises(InfeasibleError, match=r"no rate .*: 969 of 1,020 requests are not answered, each a miss: `slo"):
        capacity_of(scenario(Slo(99.0, "ttft", 500.0), max_model_len=200), 0)


def test_with_goodput_alone_goodput_binds(scenario):
    only = replace(scenario(Slo(99.0, "ttft", 60.0)), objective=Objective(goodput={"ttft": 60.0}))
    assert capacity_of(only, 0).failed.binding == "goodput"


def test_a_load_is_twenty_times_as_long_as_a_request_stays_or_as_the_largest_limit(scenario):
    """In whole copies of 60 requests, behind those that warm the caches."""
    short, long = Slo(99.0, "ttft", 500.0), Slo(99.0, "e2el", 30_000.0)
    for slos, rate, stay_s, least in (((short,), 10.0, 10.0, 2000), ((short, long), 5.0, 10.0, 3000)):
        tried = probe(scenario(*slos), rate, stay_s, 0)
        assert tried.ok and least <= tried.metrics["completed"] < least + 60


def test_what_an_engine_answers_one_at_a_time_follows_from_its_steps():
    """A prompt of 100 tokens takes 5 + 2 ms, each of nine more tokens 5.05 ms: 52.45 ms in all."""
    profile = linear_profile(0.005, 2e-5, 5e-5, 0.0)
    trace = make_trace(1000, 1.0, (constant(100), constant(10)), seed=0)
    one = Scenario("base", profile, trace, Objective((Slo(99.0, "e2el", 100.0),)), {"max_num_seqs": 1})
    alone, stay_s = unloaded(one)
    assert stay_s == pytest.approx(0.05245, rel=1e-3) and alone.rate == 1e-4
    assert alone.metrics["p99_ttft_ms"] == pytest.approx(7, rel=1e-3)
    assert saturated_rate(one) == pytest.approx(1 / 0.05245, rel=1e-3)
    two = replace(one, settings={"max_num_seqs": 2})
    # Both prompts in one step of 5 + 4 ms, nine steps of 5.1 ms.
    assert saturated_rate(two) == pytest.approx(2 / 0.0549, rel=1e-2)


@pytest.mark.parametrize(
    ("ok", "certain", "stay_ms", "loads"),
    [
        (True, True, 20_000.0, [1020]),
        (True, False, 10_000.0, [1020]),  # 10 a second for ten times as long as one stays
        (True, False, 15_000.0, [1020, 2040]),  # 1,500 are needed, and no less than twice as many are tried
        (True, False, 30_000.0, [1020, 3000]),
        (False, False, 1000.0, [1020, 2040, 4020, 5040]),  # up to the most
        (False, True, 30_000.0, [1020]),
    ],
)
def test_a_load_is_longer_where_a_longer_one_may_say_otherwise(scenario, monkeypatch, ok, certain, stay_ms, loads):
    """In whole copies of the trace's 60 requests."""
    lengths = []

    def run(scenario, load, rate, seed, replicas, router, cold):
        lengths.append(len(load) - cold)
        return Probe(rate, {"mean_e2el_ms": stay_ms}, ok, "queue", certain)

    monkeypatch.setattr("slotune.tuner.planning.capacity._run", run)
    monkeypatch.setattr("slotune.tuner.planning.capacity.MOST_LOAD_REQUESTS", 5000)
    assert probe(scenario(Slo(99.0, "ttft", 500.0)), 10.0, 0.1, 0).ok is ok
    assert lengths == loads


@pytest.mark.parametrize(("replicas", "most"), [(1, 5000), (2, 10_000), (3, 12_000)])
def test_replicas_share_the_requests_up_to_the_most_of_a_fleet(scenario, monkeypatch, replicas, most):
    lengths = []

    def run(scenario, load, rate, seed, replicas, router, cold):
        lengths.append(len(load) - cold)
        return Probe(rate, {"mean_e2el_ms": 1.0}, False, "queue", certain=False)

    monkeypatch.setattr("slotune.tuner.planning.capacity._run", run)
    monkeypatch.setattr("slotune.tuner.planning.capacity.MOST_LOAD_REQUESTS", 5000)
    monkeypatch.setattr("slotune.tuner.planning.capacity.MOST_FLEET_REQUESTS", 12_000)
    probe(scenario(Slo(99.0, "ttft", 500.0)), 10.0, 0.1, 0, replicas)
    assert 1000 * replicas <= lengths[0] < 1000 * replicas + 60 and most <= lengths[-1] < most + 60


def test_what_binds_is_what_has_the_least_headroom():
    slos = (Slo(99.0, "ttft", 500.0), Slo(99.0, "tpot", 50.0))
    run = {"completed": 100.0, "failed": 0.0, "request_throughput": 10.0, "request_goodput": 10.0}
    met, missed = (
        {**run, "p99_ttft_ms": 250.0, "p99_tpot_ms": 45.0},
        {**run, "p99_ttft_ms": 1500.0, "p99_tpot_ms": 60.0},
    )
    plain, beside = Objective(slos), Objective(slos, goodput={"e2el": 1000.0})
    assert [_binding(plain, met, steady) for steady in (True, False)] == ["p99:tpot:50", "queue"]
    assert [_binding(plain, missed, steady) for steady in (True, False)] == ["p99:ttft:500", "p99:ttft:500"]
    few = {"request_goodput": 9.8}
    assert _binding(beside, met | few, True) == "goodput" == _binding(beside, met | few, False)
    assert _binding(beside, missed | few, True) == "p99:ttft:500"
    assert _binding(Objective(goodput={"ttft": 500.0}), met, True) == "goodput"


def test_what_an_engine_answers_depends_on_its_policy_and_its_pace():
    """Two seats, steps of 5 ms, answers of 2 and of 100 tokens in turn: 51 steps a request on the average. Where a
    batch stays together until all of it is done, each pair takes 100."""
    lengths = np.where(np.arange(1000) % 2, 100, 2).astype(np.int32)
    trace = plain(np.arange(1000.0), np.full(1000, 10, np.int32), lengths)
    profile = linear_profile(0.005, 0.0, 0.0, 0.0)
    one = Scenario("base", profile, trace, Objective((Slo(99.0, "ttft", 500.0),)), {"max_num_seqs": 2})
    assert saturated_rate(one) == pytest.approx(2 / (51 * 0.005), rel=0.02)
    assert saturated_rate(replace(one, policy="request-level")) == pytest.approx(2 / (100 * 0.005), rel=0.02)
    assert saturated_rate(replace(one, pace=Pace(2.0))) == pytest.approx(2 / (51 * 0.01), rel=0.02)


@pytest.mark.parametrize(
    ("ttft_ms", "tpot_ms", "told"),
    [(2.0, 4.0, r"p99:ttft:2 .*\(3.5 times"), (6.0, 2.5, r"p99:tpot:2.5 .*\(2.02 times")],
)
def test_of_what_lone_requests_miss_the_worst_is_told(ttft_ms, tpot_ms, told):
    """The first token takes 5 + 2 ms, each other one 5.05 ms."""
    profile = linear_profile(0.005, 2e-5, 5e-5, 0.0)
    trace = make_trace(1000, 1.0, (constant(100), constant(10)), seed=0)
    slos = (Slo(99.0, "ttft", ttft_ms), Slo(99.0, "tpot", tpot_ms))
    with pytest.raises(InfeasibleError, match=told):
        unloaded(Scenario("base", profile, trace, Objective(slos)))
