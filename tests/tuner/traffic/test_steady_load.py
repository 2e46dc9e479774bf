"""A load is the trace again and again, with nothing lost, nothing shared, and a queue that can be judged."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.simulator.request_table import FAILED, FINISHED, RequestTable
from slotune.simulator.simulation import simulate
from slotune.traces.generate import make_trace, plain
from slotune.traces.lengths import constant, lognormal
from slotune.traces.mooncake import read_mooncake
from slotune.traces.stats import trace_stats
from slotune.tuner.traffic.growth import engine_growth, is_steady, queue_growth, queue_is_steady
from slotune.tuner.traffic.steady_load import (
    drifts,
    in_bursts,
    lasting_rate,
    lasting_seed,
    ordered,
    scaled_lengths,
)


def pairs(trace):
    return sorted(pairs_in_order(trace))


def pairs_in_order(trace):
    return list(zip(trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_load_is_made_of_the_trace_s_requests_and_its_rate_is_exact(small_trace, seed):
    trace = small_trace(60)
    load = ordered(trace, 150, 4.0, seed)
    assert len(load) == 180
    assert load.arrival_s[-1] == pytest.approx(180 / 4.0)
    assert np.all(np.diff(load.arrival_s) >= 0)
    assert set(pairs(load)) <= set(pairs(trace))


def test_the_recorded_order_holds_every_request_in_every_copy(small_trace):
    trace = small_trace(60)
    assert pairs(ordered(trace, 150, 4.0, 0)) == sorted(pairs(trace) * 3)


@pytest.mark.parametrize(("begins_s", "gap_s"), [(4.0, 4.0), (0.0, 1.25)])
def test_a_copy_follows_after_the_trace_s_first_gap_or_one_of_its_mean_where_it_begins_at_once(begins_s, gap_s):
    arrival_s = np.array([0.0, 1.0, 2.0, 3.0, 5.0]) + begins_s
    lengths = np.arange(1, 6, dtype=np.int32)
    load = ordered(plain(arrival_s, lengths, lengths), 10, 1.0, 0)
    gaps = np.diff(load.arrival_s)
    assert gaps[4] / gaps[0] == pytest.approx(gap_s)
    assert gaps[5:] == pytest.approx(gaps[:4])


def test_other_orders_are_heavier_for_longer_than_the_trace_lasts(small_trace):
    """Copies of the same total would hide every swing that is longer than one of them."""
    trace = small_trace(60)
    load = ordered(trace, 6000, 4.0, 1)
    tokens = load.input_tokens.reshape(-1, len(trace)).sum(axis=1)
    apart = np.std([trace.input_tokens[block].sum() for block in np.array_split(np.arange(60), 8)]) * 8**0.5
    assert np.std(tokens) == pytest.approx(apart, rel=0.3)
    assert np.mean(tokens) == pytest.approx(trace.input_tokens.sum(), rel=0.03)


def test_seed_0_keeps_the_order_and_others_do_not(small_trace):
    trace = small_trace(60)
    assert np.array_equal(ordered(trace, 60, 4.0, 0).input_tokens, trace.input_tokens)
    shuffled = ordered(trace, 60, 4.0, 1)
    assert not np.array_equal(shuffled.input_tokens, trace.input_tokens)
    assert np.array_equal(shuffled.input_tokens, ordered(trace, 60, 4.0, 1).input_tokens)


@pytest.mark.parametrize("begins_s", [0.0, 3.0, 1e-4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_burst_is_longer_than_those_of_the_trace(small_trace, seed, begins_s):
    """One that was cut and joined to another would make a service miss targets that it meets, and copies would meet in
    one where the trace begins with it."""
    trace = replace(small_trace(800), arrival_s=begins_s + 4.0 * np.repeat(np.arange(20), 40))
    between = np.diff(np.flatnonzero(np.diff(ordered(trace, 8000, 10.0, seed).arrival_s) > 1e-2))
    assert between.max() == 40


@pytest.mark.parametrize("rate", [0.1, 100.0])
def test_a_burst_is_told_by_its_gaps_against_the_mean_one_at_any_rate(small_trace, rate):
    """Gaps of half a per cent of the mean keep requests together: 0.05 s at one request in ten seconds."""
    trace = replace(small_trace(800), arrival_s=4.0 * np.repeat(np.arange(20), 40) + 5e-4 * (np.arange(800) % 40))
    between = np.diff(np.flatnonzero(np.diff(ordered(trace, 8000, rate, 1).arrival_s) > 0.1 / rate))
    assert between.max() == 40


def test_copies_share_what_all_requests_begin_with(small_trace):
    load = ordered(small_trace(10, shared=64), 30, 4.0, 1)
    assert len(set(load.run_name.tolist())) == 1


def test_copies_share_system_prompts_and_no_conversation():
    """Also where every conversation goes on through the whole trace."""
    lengths = (constant(600), constant(50))
    talk = make_trace(200, 5.0, lengths, turns=20, users=10, system_prompts=2, system_prompt_tokens=300, seed=3)
    load = ordered(talk, 600, 5.0, 0)
    firsts = load.run_name[load.run_offsets[:-1]]
    assert len(set(firsts.tolist())) == 2
    others = set(load.run_name.tolist()) - set(firsts.tolist())
    assert len(others) == 3 * len(set(talk.run_name.tolist()) - set(talk.run_name[talk.run_offsets[:-1]].tolist()))


PREFIXES = {
    "one name": {"prefix": [["system", 1024]]},
    "two names": {"prefix": [["system", 512], ["tools", 512]]},
    "blocks": {"hash_ids": [1, 2]},
}


@pytest.mark.parametrize("spelling", PREFIXES)
def test_a_shared_prompt_lasts_however_it_is_written(spelling):
    lines = []
    for number in range(20):
        more = {key: [*runs] for key, runs in PREFIXES[spelling].items()}
        if "hash_ids" in more:
            more["hash_ids"].append(100 + number)
        row = {"timestamp": 100 * number, "input_length": 1400, "output_length": 9} | more
        lines.append(json.dumps(row).encode())
    load = ordered(read_mooncake(lines, "trace"), 60, 5.0, 0)
    assert trace_stats(load)["prefix_hit_share"] == pytest.approx(59 * 1024 / (60 * 1400))


def test_a_trace_without_arrival_times_gets_some(small_trace):
    at_once = replace(small_trace(40), arrival_s=np.zeros(40))
    load = ordered(at_once, 40, 5.0, 0)
    assert load.arrival_s[-1] == pytest.approx(8.0)
    assert len(np.unique(np.diff(load.arrival_s))) == 39


@pytest.mark.parametrize("requests", [1, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_arrivals_that_it_gets_are_poisson_however_short_it_is(small_trace, requests, seed):
    """Repeated with each copy, those of a single request were evenly spaced: a rate three times too high."""
    at_once = replace(small_trace(requests), arrival_s=np.zeros(requests))
    stats = trace_stats(ordered(at_once, 5000, 5.0, seed))
    assert stats["interarrival_cv"] == pytest.approx(1.0, abs=0.05)
    assert stats["request_rate"] == pytest.approx(5.0)


@pytest.fixture
def served(small_profile, small_trace):
    def at(rate):
        settings = {"max_num_seqs": 4}
        engine, timing = small_profile.engine_config(settings), small_profile.timing(settings)
        return simulate(ordered(small_trace(), 2000, rate, 0), engine, timing)

    return at


def test_growth_is_the_overload(served):
    assert abs(queue_growth(served(5.0))) < 0.005
    assert queue_is_steady(served(5.0))
    most_per_s = 2000 / served(1000.0).requests.finish_s.max()
    overloaded = served(most_per_s * 1.25)
    assert queue_growth(overloaded) == pytest.approx(1 - 1 / 1.25, abs=0.03)
    assert not queue_is_steady(overloaded)


def test_lengths_scale_with_what_they_share(small_trace):
    trace = small_trace(20, shared=64)
    longer = scaled_lengths(trace, inputs=1.5)
    assert longer.input_tokens.tolist() == np.rint(trace.input_tokens * 1.5).astype(int).tolist()
    assert set(longer.run_tokens.tolist()) == {96}
    assert np.array_equal(longer.output_tokens, trace.output_tokens)
    assert scaled_lengths(trace, outputs=0.001).output_tokens.min() == 1
    assert scaled_lengths(trace, inputs=0.001).input_tokens.min() == 1
    for factors, most in (({"inputs": 1e7}, "e+09"), ({"outputs": 1e9}, "e+10")):
        with pytest.raises(InputError, match=r"lengths times 1e\+0.: no request can have \d\.?\d*e\+") as refused:
            scaled_lengths(trace, **factors)
        assert most in str(refused.value)


def test_conversations_stay_as_they_are_in_every_order(small_trace):
    """Shuffled turns would find less in the prefix cache: what follows what stays."""
    talk = make_trace(100, 4.0, (constant(600), constant(50)), turns=5, users=10, seed=3)
    lengths = small_trace(100).input_tokens + talk.input_tokens
    trace = replace(talk, input_tokens=lengths)
    for seed in range(1, 5):
        moved = ordered(trace, 100, 4.0, seed).input_tokens.tolist()
        first = moved.index(trace.input_tokens[0]) if moved.count(trace.input_tokens[0]) == 1 else None
        doubled = trace.input_tokens.tolist() * 2
        starts = [k for k in range(100) if doubled[k : k + 100] == moved]
        assert starts and (first is None or starts[0] != 0)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("runs", ["one for all", "one each", "both"])
def test_a_prompt_that_all_share_changes_no_order(small_trace, runs, seed):
    """Only what passes from one request to the next depends on the order: with a system prompt too, loads swing."""
    plain = small_trace(100)
    common = [["system", 16]]
    lines = []
    for number, (tokens, more) in enumerate(pairs_in_order(plain)):
        mine = [[f"own {number}", 16]]
        prefix = {"one for all": common, "one each": mine, "both": common + mine}[runs]
        row = {"timestamp": plain.arrival_s[number] * 1e3, "input_length": tokens, "output_length": more}
        lines.append(json.dumps(row | {"prefix": prefix}).encode())
    named = read_mooncake(lines, "trace")
    load, expected = ordered(named, 1000, 4.0, seed), ordered(plain, 1000, 4.0, seed)
    assert np.array_equal(load.input_tokens, expected.input_tokens)
    assert load.arrival_s == pytest.approx(expected.arrival_s, abs=1e-3)
    assert len(set(load.run_name.tolist())) == {"one for all": 1, "one each": 1000, "both": 1001}[runs]


@pytest.mark.parametrize(("tokens", "changes"), [(16, False), (600, True)])
def test_one_request_that_was_sent_twice_changes_no_order(tokens, changes):
    """As it did: `plan` told a rate seven per cent higher."""
    plain = make_trace(100, 4.0, (constant(600), constant(50)), seed=3)
    offsets = np.zeros(101, np.int64)
    offsets[51:], offsets[52:] = 1, 2
    twice = replace(plain, run_offsets=offsets, run_name=np.zeros(2, np.int64), run_tokens=np.full(2, tokens, np.int32))
    load, expected = ordered(twice, 1000, 4.0, 1), ordered(plain, 1000, 4.0, 1)
    assert np.array_equal(load.arrival_s, expected.arrival_s) != changes


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_conversations_go_on_where_a_load_that_began_amid_them_begins_anew(seed):
    """They end where the trace does: else all that are under way would find nothing in the prefix cache at once."""
    talk = make_trace(100, 5.0, (constant(600), constant(50)), turns=20, users=10, seed=3)
    load = ordered(talk, 300, 5.0, seed)
    named = [set(load.run_name[a:b]) for a, b in zip(load.run_offsets, load.run_offsets[1:], strict=False)]
    ends = [k for k in range(1, 300) if not set().union(*named[:k]) & set().union(*named[k:])]
    whole = next(k for k in range(100) if np.array_equal(load.input_tokens[k : k + 100], talk.input_tokens))
    assert 0 < whole < 100 and ends == [whole, whole + 100, whole + 200]


def test_copies_of_named_prefixes_share_nothing_either(small_trace):
    """Named runs have negative numbers: a load may find no more in the prefix cache than the trace does."""
    talk = make_trace(200, 5.0, (constant(600), constant(50)), turns=6, users=10, seed=3)
    assert talk.run_name.max() < 0
    load = ordered(talk, 600, 5.0, 0)
    shares = [trace_stats(one)["prefix_hit_share"] for one in (talk, load)]
    assert shares[1] == pytest.approx(shares[0])
    names = [set(load.run_name[i * 200 : (i + 1) * 200].tolist()) for i in range(3)]
    assert len(set.union(*names)) == sum(map(len, names))


@pytest.mark.parametrize(("cv", "bursts"), [(0.0, False), (1.0, False), (4.0, True)])
def test_chance_and_bursts_are_no_drift(cv: float, bursts: bool) -> None:
    traces = [make_trace(1000, 5.0, (constant(100), constant(10)), cv=cv, seed=seed) for seed in range(20)]
    assert sum(map(drifts, traces)) <= 1
    assert all(in_bursts(trace) == bursts for trace in traces)


def test_a_rate_that_rises_is_a_drift_and_keeps_its_order(small_trace) -> None:
    trace = small_trace(1000)
    rising = replace(trace, arrival_s=np.sqrt(trace.arrival_s))
    assert (drifts(trace), drifts(rising)) == (False, True)
    assert (lasting_seed(trace), lasting_seed(rising)) == (1, 0)
    bursts = make_trace(1000, 5.0, (constant(100), constant(10)), cv=4.0, seed=1)
    assert not drifts(bursts) and lasting_seed(bursts) == 0
    assert not drifts(replace(trace, arrival_s=np.zeros(1000))) and not drifts(small_trace(9))
    for number in (11, 15, 63, 105, 1003):
        assert not drifts(replace(small_trace(number), arrival_s=0.05 * np.arange(number))), "a span may hold one more"


@pytest.mark.parametrize("replicas", [2, 3, 8, 10])
@pytest.mark.parametrize("requests", [1, 60, 61, 64])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_request_comes_to_every_replica_in_turn(small_trace, requests, replicas, seed):
    """One that got the same requests in every copy would be overloaded for ever by some long ones."""
    load = ordered(small_trace(requests), 40 * replicas * requests, 4.0, seed, replicas)
    shares = [set(pairs(load.taken(np.arange(first, len(load), replicas)))) for first in range(replicas)]
    assert all(share == set(pairs(load)) for share in shares)
    assert len(shares[0]) == requests


@pytest.mark.parametrize("replicas", [2, 8])
def test_conversations_come_to_every_replica_too(small_trace, replicas):
    talk = make_trace(64, 2.0, (lognormal(100, 400), lognormal(20, 90)), turns=4, users=8, seed=3)
    load = ordered(talk, 40 * replicas * len(talk), 4.0, 1, replicas)
    shares = [set(pairs(load.taken(np.arange(first, len(load), replicas)))) for first in range(replicas)]
    assert all(share == set(pairs(talk)) for share in shares)


def waiting(first_token_s, finish_s, failed=0):
    """A run of 100 requests, one a second, of which the last ones fail; it has no more than they tell."""
    count, none = np.full(100, 3, np.int64), np.zeros(100, np.int64)
    status = np.where(np.arange(100) < 100 - failed, FINISHED, FAILED)
    times_s = [np.where(status == FINISHED, moment_s, np.nan) for moment_s in (first_token_s, finish_s)]
    table = RequestTable(np.arange(100.0), count, count, none, *times_s, none, none, status)
    return SimpleNamespace(requests=table)


def test_growth_is_what_piles_up_of_what_arrives():
    """Of requests that wait for a share of the time passed, 1 - 1 / 1.1 are always behind; any that fail are none."""
    arrival_s = np.arange(100.0)
    steady = waiting(arrival_s + 2, arrival_s + 9)
    assert queue_growth(steady) == pytest.approx(0, abs=1e-9) == engine_growth(steady)
    growing = waiting(arrival_s * 1.1, arrival_s * 1.25 + 2)
    assert queue_growth(growing) == pytest.approx(1 - 1 / 1.1, abs=0.005)
    assert engine_growth(growing) == pytest.approx(1 - 1 / 1.25, abs=0.005)
    assert engine_growth(waiting(arrival_s + 2, arrival_s + 9, failed=34)) == pytest.approx(-9 / 50, abs=1e-9)
    at_once = replace(growing.requests, arrival_s=np.zeros(100))
    assert queue_growth(SimpleNamespace(requests=at_once)) == 0.0


@pytest.mark.parametrize(
    ("queue", "batch", "steady"),
    [(0.0, 0.0, (True, True)), (0.015, 0.0, (True, False)), (0.0, 0.015, (True, False)), (0.025, 0.0, (False, False))],
)
def test_a_batch_that_grows_is_not_steady_where_the_queue_is(queue, batch, steady):
    arrival_s = np.arange(100.0)
    run = waiting(arrival_s * (1 + queue) + 1, arrival_s * (1 + queue + batch) + 5)
    assert (queue_is_steady(run), is_steady(run)) == steady


def test_a_trace_goes_on_at_the_rate_of_its_gaps():
    def rate(*arrival_s):
        ones = np.ones(len(arrival_s), np.int32)
        return lasting_rate(plain(np.array(arrival_s), ones, ones))

    assert rate(0.0, 0.6) == pytest.approx(1 / 0.6)
    assert rate(0.0, 0.6, 1.2) == pytest.approx(1 / 0.6)
    assert rate(0.6, 1.2) == 2 / 1.2, "the first came after a gap"
    assert rate(0.0, 0.0, 5.0, 5.0) == pytest.approx(0.4)
    assert rate(*[0.0] * 8, 1.0, 2.0) == pytest.approx(10 / 3), "of bursts that differ each comes once a gap"
    assert np.isnan(rate(0.0, 0.0)) and np.isnan(rate(0.0))


def test_a_burst_at_the_beginning_is_part_of_what_goes_on(small_trace):
    trace = small_trace(60)
    trace = replace(trace, arrival_s=np.concatenate([np.zeros(30), np.arange(1, 31.0)]))
    load = ordered(trace, 600, lasting_rate(trace), 0)
    assert load.arrival_s[-1] == pytest.approx(10 * (30 + 1)), "ten copies, and a gap before each"
    assert all_at_once(trace, 200) == 240


def all_at_once(trace, requests):
    """Of a trace without a rate a load has none either: how many requests it has, all at 0."""
    load = ordered(replace(trace, arrival_s=np.full(len(trace), 5.0)), requests, np.nan, 1)
    assert (load.arrival_s == 0.0).all()
    return len(load)
