"""A plan's numbers belong together: capacity, replicas, GPUs, cost, and what changes with a change."""

import json
from dataclasses import replace

import numpy as np
import pytest

from slotune.errors import InfeasibleError, InputError
from slotune.profiler.profile import EngineFacts
from slotune.simulator.slo import Slo
from slotune.traces.generate import constant, make_trace, plain
from slotune.traces.transform import head
from slotune.tuner.objective import Objective
from slotune.tuner.pages.plan_page import described, document, is_confident, replicas_text, warnings, without_turns
from slotune.tuner.planning.capacity import Capacity, Probe, Scenario, unloaded
from slotune.tuner.planning.draws import DRAWS
from slotune.tuner.planning.fleet import OTHERS_TEXT, Fleet, FleetTrial, find_fleet
from slotune.tuner.planning.plan import ORDERINGS, Plan, plan, require_targets, steps_of, what_if
from slotune.tuner.traffic.overlay import peak


@pytest.fixture(scope="module")
def base(small_profile, small_trace):
    return Scenario("base", small_profile, small_trace(), Objective((Slo(99.0, "ttft", 200.0),)), {"max_num_seqs": 8})


@pytest.fixture(scope="module")
def planned(base):
    changes = [
        what_if(base, "max_num_seqs=2"),
        what_if(base, "output_tokens=x0.001"),
        what_if(base, "input_tokens=x99"),
    ]
    return plan([base, *changes], 200.0, jobs=1)


def test_capacity_lies_within_its_interval(planned):
    low, high = planned[0].interval
    assert low <= planned[0].max_request_rate <= high
    assert len(planned[0].capacities) == ORDERINGS


def test_one_engine_takes_the_median_of_the_orderings_and_what_stops_most_of_them_stops_it(base):
    """Passed at 4, 10, 5, 7 and 6 requests a second, and failed at half a request more."""
    binding = ("queue", "p99:ttft:200", "p99:ttft:200", "queue", "p99:ttft:200")
    orderings = [
        Capacity(Probe(rate, {"rate": rate}, True, "queue"), Probe(rate + 0.5, {}, False, what))
        for rate, what in zip((4.0, 10.0, 5.0, 7.0, 6.0), binding, strict=True)
    ]
    one = Plan(base, tuple(orderings), None)
    assert (one.max_request_rate, one.spanned, one.binding) == (6.0, (4.0, 10.5), "p99:ttft:200")
    assert one.interval == (4.0, 10.5), "nothing else is known"
    assert replace(one, drawn_rates=(0.0, 12.0)).interval == (0.0, 12.0)
    low, high = replace(one, drawn_rates=(2.0, 18.0)).interval  # APART = 1.5 times t(0.95, 1) = 6.3137515
    factor = 9 ** (1.5 * 6.3137515 / 2**0.5)
    assert (low, high) == pytest.approx((6 / factor, 6 * factor))
    assert replace(one, drawn_rates=(6.0,) * DRAWS).interval == (4.0, 10.5), "no less than the orderings span"
    assert one.shown is orderings[0].best and [run["rate"] for run in one.runs] == [4, 10, 5, 7, 6]
    served = replace(one, fleet=Fleet(3, Probe(20.0, {"rate": 20.0}, True, "queue"), None, 12))
    assert served.shown is served.fleet.worst and [run["rate"] for run in served.runs] == [20, 4, 10, 5, 7, 6]
    cut = replace(base, profile=replace(base.profile, engine=EngineFacts(tensor_parallel_size=4)))
    assert [replace(one, scenario=cut).gpus, replace(served, scenario=cut).gpus] == [4, 12]
    staged = replace(cut, settings={"pipeline_parallel_size": 2})
    assert replace(served, scenario=staged).gpus == 24


def test_steps_of_progress(base):
    talk = replace(base, trace=make_trace(100, 4.0, (constant(300), constant(20)), turns=5, users=10, seed=3))
    assert [steps_of([base], rate) for rate in (None, 10.0)] == [5 + 8, 5 + 8 + 1]
    assert steps_of([base, talk], 10.0) == 14 + 6, "pieces of conversations are not drawn"


def test_replicas_carry_the_forecast_and_one_less_could_not(planned):
    one = planned[0]
    assert one.fleet.worst.ok
    assert one.fleet.replicas * one.spanned[1] >= one.rate
    assert (one.fleet.replicas - 2) * one.spanned[1] < one.rate


def test_replicas_are_told_with_those_of_other_samples(planned):
    fleet = planned[0].fleet
    least, most = fleet.interval
    assert least <= fleet.replicas <= most
    assert document(planned, None)["replicas_interval"] == [least, most]
    assert replicas_text(planned[0]) == f"{fleet.replicas} ({least} to {most})"
    assert replicas_text(replace(planned[0], fleet=replace(fleet, interval=(2, None)))).endswith("(2 or more)")
    unknown = replace(planned[0], fleet=replace(fleet, interval=None))
    assert replicas_text(unknown) == str(fleet.replicas)
    assert document([unknown], None)["replicas_interval"] is None


def test_costs_follow_from_gpus(planned):
    told = document(planned, 3.0)
    trace = planned[0].scenario.trace
    assert told["cost_per_hour"] == 3.0 * told["gpus"] == 3.0 * told["replicas"]
    per_token = told["cost_per_hour"] / 3600 / (200.0 * (trace.input_tokens.mean() + trace.output_tokens.mean()))
    assert told["cost_per_million_tokens"] == pytest.approx(per_token * 1e6)
    assert document(planned, None)["cost_per_hour"] is None
    json.dumps(told)


def test_gpus_are_those_of_the_profiled_engine(base):
    """A profile of two GPUs does not say so in its defaults: only its engine's facts do."""
    cut = replace(base.profile, engine=EngineFacts(tensor_parallel_size=2))
    told = document(plan([replace(base, profile=cut)], 200.0, jobs=1), 3.0)
    assert told["gpus"] == 2 * told["replicas"]
    assert told["cost_per_hour"] == 3.0 * told["gpus"]


def test_replicas_where_requests_go_at_random(planned):
    fleet = planned[0].fleet
    more, far_more, as_many = (
        replace(planned[0], fleet=replace(fleet, replicas=3, replicas_at_random=number, most_at_random=12))
        for number in (5, None, 3)
    )
    assert without_turns([as_many, replace(as_many, rate=None, fleet=None)]) is None
    assert without_turns([more, as_many, far_more]) == (
        "these replicas are enough with round-robin routing; with random routing, expect 5 (base), more than 12 (base)"
    )
    assert document([more], None)["replicas_at_random"] == 5


def test_progress_names_the_replicas_that_are_tried(base):
    told = []
    one = plan([base, base], 200.0, jobs=1, on_done=lambda done, note: told.append((done, note)))[0]
    done = [step for step, _ in told]
    assert done == sorted(done) and (done[0], done[-1]) == (0, steps_of([base, base], 200.0))
    assert (ORDERINGS + DRAWS, f"base on {one.fleet.replicas} replicas") in told


def test_what_if(planned):
    base, fewer, shorter, hopeless = document(planned, None)["what_if"][0], *document(planned, None)["what_if"]
    assert [fewer["scenario"], shorter["scenario"]] == ["max_num_seqs=2", "output_tokens=x0.001"]
    assert fewer["max_request_rate"] < planned[0].max_request_rate < shorter["max_request_rate"]
    assert hopeless["max_request_rate"] == 0.0
    assert document(planned, None)["warnings"] == warnings(planned)
    assert base["engine"] == {"max_num_seqs": 2}


@pytest.mark.parametrize(
    "text",
    [
        "rate=x2",
        "max_num_seq=2",
        "max_num_seqs",
        "input_tokens=1.5",
        "input_tokens=xx",
        "input_tokens=x1e12",
        "max_num_seqs=few",
    ],
)
def test_a_change_that_is_none(base, text):
    with pytest.raises(InputError):
        what_if(base, text)


@pytest.mark.parametrize(
    ("text", "settings"),
    [("tp=2", {"tensor_parallel_size": 2}), ("no-enable-prefix-caching", {"enable_prefix_caching": False})],
)
def test_a_change_may_be_spelled_as_a_setting_may(base, text, settings):
    changed = what_if(base, text)
    assert changed.name == text and changed.settings == base.settings | settings


def test_a_change_of_lengths_is_one_of_prompts_or_of_answers(base):
    prompts, answers = what_if(base, "input_tokens=x2").trace, what_if(base, "output_tokens=x3").trace
    assert (prompts.input_tokens == 2 * base.trace.input_tokens).all()
    assert (prompts.output_tokens == base.trace.output_tokens).all()
    assert (answers.output_tokens == 3 * base.trace.output_tokens).all()
    assert (answers.input_tokens == base.trace.input_tokens).all()
    slower = what_if(what_if(base, "step_time=x1.5"), "step_time=x2")
    assert (slower.pace.step_factor, slower.trace) == (3.0, base.trace)


def test_of_a_change_that_is_refused_nothing_is_known(base):
    """0 requests/s with two GPUs would be an answer; there is none."""
    two_gpus = what_if(base, "tensor_parallel_size=2")
    told = document(plan([base, two_gpus], jobs=1), None)["what_if"][0]
    assert (told["max_request_rate"], told["interval"], told["metrics"]) == (None, None, None)
    assert "tensor_parallel_size" in told["reason"]


def test_a_base_without_targets_or_without_hope(base, small_profile, small_trace):
    hopeless = Scenario("base", small_profile, small_trace(), Objective((Slo(99.0, "tpot", 1.0),)))
    plans = plan([hopeless], jobs=1)
    assert document(plans, 3.0)["max_request_rate"] == 0.0
    with pytest.raises(InfeasibleError, match="no rate meets the targets"):
        require_targets(plans)


def test_a_forecast_beyond_what_is_simulated_leaves_the_other_plans_alone(base):
    plans = plan([base, what_if(base, "max_num_seqs=1")], 1e6, jobs=1)
    told = document(plans, 3.0)
    assert "2,000" in told["reason"]
    assert told["max_request_rate"] > told["what_if"][0]["max_request_rate"] > 0
    for nothing in ("replicas", "replicas_interval", "gpus", "cost_per_hour", "cost_per_million_tokens"):
        assert told[nothing] is told["what_if"][0][nothing] is None
    with pytest.raises(InfeasibleError, match="plan for a part"):
        require_targets(plans)


def test_costs_are_of_the_tokens_that_are_made(base):
    half = replace(base, objective=Objective((Slo(50.0, "ttft", 200.0),)))
    cut = plan([half, what_if(half, "max_model_len=420")], jobs=1)
    told = document(cut, 3.0)["what_if"][0]
    made = told["metrics"]["output_throughput"] / told["metrics"]["request_throughput"]
    served = told["metrics"]["completed"] / (told["metrics"]["completed"] + told["metrics"]["failed"])
    expected = 3.0 / 3600 / (told["max_request_rate"] * made * served) * 1e6
    assert served < 1
    assert told["cost_per_million_output_tokens"] == pytest.approx(expected, rel=0.2)


def test_costs_and_utilisation_in_numbers(base):
    """Of a hundred requests ten get nothing; 5 tokens are made and 15 read a request that is sent."""
    run = {"completed": 90.0, "failed": 10.0, "total_output_tokens": 500.0, "total_input_tokens": 1500.0}
    one = Plan(base, (Capacity(Probe(8.0, run, True, "queue"), Probe(8.1, {}, False, "queue")),), None)
    served = replace(one, rate=20.0, fleet=Fleet(3, Probe(20.0, {}, True, "queue"), 4, 12, (2, None)))
    names = ("gpus", "utilisation", "cost_per_hour", "cost_per_million_output_tokens", "cost_per_million_tokens")
    alone, fleet = described(one, 2.0), described(served, 2.0)
    per_million = 1e6 / 3600
    assert [alone[name] for name in names] == [1, None, 2.0, *(pytest.approx(2 / 8 / n * per_million) for n in (5, 20))]
    assert [fleet[name] for name in names[:3]] == [3, pytest.approx(20 / 24), 6.0]
    assert [fleet[name] for name in names[3:]] == [pytest.approx(6 / 20 / n * per_million) for n in (5, 20)]
    assert (fleet["metrics_rate"], alone["metrics_rate"], fleet["replicas_interval"]) == (20.0, 8.0, [2, None])


def test_what_is_wrong_with_the_answers_is_told_beside_the_plans(base):
    longest = int(base.trace.input_tokens.max()) + 2
    found = plan([replace(base, settings=base.settings | {"max_model_len": longest}), base], jobs=1)
    line = warnings(found)[-1]
    assert line.startswith("base: ") and line.endswith("the numbers are for answers shorter than the trace's")
    told = document(found, None)
    assert told["metrics"]["answers_cut"] > 0
    assert told["metrics_rate"] == found[0].capacities[0].best.rate


@pytest.mark.parametrize(("requests", "told"), [(99, ["the trace has only 99 requests"]), (100, [])])
def test_a_trace_of_few_requests_is_said_to_be_no_sample(base, small_trace, requests, told):
    few = replace(base, trace=head(small_trace(100), requests), objective=Objective((Slo(90.0, "ttft", 200.0),)))
    (one,) = plan([few], jobs=1)
    assert [line.partition(",")[0] for line in warnings([one])] == told
    assert document([one], None)["interval_confidence"] == (None if told else 0.9)
    rare = replace(one, scenario=replace(few, objective=Objective((Slo(99.0, "ttft", 200.0),))))
    assert "fewer than the 1,000 that" in warnings([rare])[0] and not is_confident(rare)


def test_a_rate_that_changes_is_told_to_be_levelled(base, small_trace):
    trace = small_trace(1000)
    rising = replace(trace, arrival_s=np.sqrt(trace.arrival_s))
    (one,) = plan([replace(base, trace=rising)], jobs=1)
    assert any(f"at its busiest it is {peak(rising):.1f} times the mean" in line for line in warnings([one]))
    assert 1.5 < peak(rising) < 2.5 and peak(trace) < 1.5
    assert not is_confident(one)
    at_once = replace(one, scenario=replace(base, trace=replace(trace, arrival_s=np.zeros(1000))))
    assert any("Poisson arrivals were assumed" in line for line in warnings([at_once])) and not is_confident(at_once)
    bursts = replace(trace, arrival_s=np.repeat(trace.arrival_s[::20], 20))
    assert not is_confident(replace(one, scenario=replace(base, trace=bursts)))
    even = replace(one, scenario=replace(base, trace=trace))
    assert is_confident(even)
    assert not any("Poisson" in line for line in warnings([even]))
    assert not any("the trace's rate varies" in line for line in warnings([even]))


def test_replicas_serve_a_busy_minute_that_lasts_a_minute(base, small_trace):
    """Squeezed to the forecast, the minute of eight times the requests is over in seconds."""
    trace = small_trace(1000)
    busy = np.append(np.linspace(0, 600, 500, endpoint=False), np.linspace(600, 660, 500))
    trace = replace(trace, arrival_s=busy)
    rate = 20 * len(trace) / busy[-1]
    patient = replace(base, trace=trace, objective=Objective((Slo(99.0, "ttft", 3000.0),)))
    (one,) = plan([patient], rate, jobs=1)
    assert one.fleet is not None
    squeezed = FleetTrial(one.scenario, unloaded(one.scenario)[1], lambda ask: [each(one.scenario) for each in ask])
    few = find_fleet(squeezed, rate, one.spanned[1]).replicas
    assert one.fleet.replicas > 1.5 * few
    assert replace(squeezed, overlaid_at=rate).serve(few, rate) is None
    told = [line for line in warnings([one]) if "the trace's rate varies" in line]
    assert len(told) == 1 and "replicas serve copies of it laid over each other" in told[0]
    assert not is_confident(one)


def test_conversations_are_said_to_have_too_narrow_an_interval(base):
    talk = make_trace(100, 4.0, (constant(300), constant(20)), turns=5, users=10, seed=3)
    (one,) = plan([replace(base, trace=talk, objective=Objective((Slo(99.0, "ttft", 5000.0),)))], jobs=1)
    assert any("requests build on the text of others" in line for line in warnings([one]))
    fleet = Fleet(2, one.capacities[0].best, 2, 8)
    assert OTHERS_TEXT in warnings([replace(one, fleet=fleet)]) and OTHERS_TEXT not in warnings([one])


def test_bursts_are_said_to_be_few(base):
    trace = base.trace
    bursts = replace(base, trace=replace(trace, arrival_s=trace.arrival_s[np.arange(len(trace)) // 10 * 10]))
    (one, even) = plan([bursts, base], jobs=1)
    assert [any("come in bursts" in line for line in warnings([told])) for told in (one, even)] == [True, False]


def test_a_plan_without_an_answer_has_the_keys_of_one_with(base):
    hopeless = replace(base, objective=Objective((Slo(99.0, "tpot", 1.0),)))
    (none,), (one,) = plan([hopeless], 10.0, jobs=1), plan([base], 10.0, jobs=1)
    assert described(none, 3.0).keys() == described(one, 3.0).keys()
    assert described(none, 3.0)["replicas"] is None


def test_draws_that_meet_the_targets_at_no_rate_are_told(base):
    """Two slow prompts of 200 are within a 98.5th percentile; some draws have four."""
    prompts = np.where(np.arange(200) % 100 == 50, 2000, 50).astype(np.int32)
    few_slow = plain(np.arange(200, dtype=np.float64), prompts, np.full(200, 4, np.int32))
    (one,) = plan([replace(base, trace=few_slow, objective=Objective((Slo(98.5, "ttft", 40.0),)))], jobs=1)
    hopeless = one.drawn_rates.count(0.0)
    assert 0 < hopeless < DRAWS
    assert one.interval[0] == 0.0 < one.max_request_rate < one.interval[1]
    assert any(f"base: {hopeless} of {DRAWS} traces" in line for line in warnings([one]))
    assert document([one], None)["draws_without_rate"] == hopeless
    certain = replace(one, drawn_rates=(one.max_request_rate,) * DRAWS)
    slower = replace(one, scenario=replace(one.scenario, name="steps slower"))
    assert any(line.startswith(f"steps slower: {hopeless} of") for line in warnings([certain], [slower]))


def test_a_change_of_drafts_is_planned_with_the_acceptance_that_was_said(base):
    drafting = what_if(base, "spec_tokens=2", "0.5")  # of no method
    with pytest.raises(InputError, match="has no method"):
        base.profile.engine_config(drafting.settings)
    ngram = 'speculative_config={"method": "ngram", "num_speculative_tokens": 1}'
    known = replace(base, settings=what_if(base, ngram, "1").settings)
    two = what_if(known, "spec_tokens=2", "0.5")
    assert base.profile.engine_config(two.settings).speculative_config.acceptance_rates == (0.5, 0.25)
