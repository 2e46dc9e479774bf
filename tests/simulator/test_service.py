"""Replicas that something couples run as those that nothing couples, where the coupling changes nothing."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from slotune.simulator.request_table import RequestTable
from slotune.simulator.service import Service
from slotune.simulator.timing import Overhead
from slotune.tests.simulator.runs import Run, Setup, make_trace, plain_engine, run, setups


def columns(table: RequestTable) -> list[npt.NDArray[np.generic]]:
    return [table.first_token_s, table.finish_s, table.cached_tokens, table.preemptions, table.replica, table.status]


def rows_by_replica(made: Run) -> list[object]:
    return [[step.rows for step in made.steps_of(replica)] for replica in range(made.setup.replicas)]


@given(setups(("vllm-v1",)))
def test_a_client_that_never_waits_for_a_place(drawn: Setup) -> None:
    apart = run(replace(drawn, router="round-robin", replicas=3, max_concurrency=None))
    coupled = run(replace(apart.setup, max_concurrency=len(drawn.trace)))
    assert rows_by_replica(coupled) == rows_by_replica(apart)
    for one, other in zip(columns(apart.result.requests), columns(coupled.result.requests), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_sent_at_one_moment_stays_together() -> None:
    """From 0.149867, a sleep of the difference to 0.484477 ends one bit before it."""
    moment_s, sent_s = 0.149867, 0.484477
    assert moment_s + (sent_s - moment_s) < sent_s
    alone = Setup(make_trace([moment_s, *[sent_s] * 4], [64] * 5, [4] * 5), plain_engine())
    waiting = run(replace(alone, max_concurrency=100)).result.requests
    assert len(set(waiting.ttft_s[1:].tolist())) == 1
    np.testing.assert_array_equal(waiting.ttft_s, run(alone).result.requests.ttft_s)


@pytest.mark.parametrize("count", [6, 1 << 21])
def test_ranks_are_by_priority_then_sending_then_plan_however_many_there_are(count: int) -> None:
    """Of two million requests, each of a priority of its own, they still are 64-bit integers."""
    priority = np.arange(count)[::-1] if count > 6 else np.array([1, 0, 1, 0, 1, 0])
    planned = np.lexsort((np.arange(count), priority)).argsort()
    times = np.zeros(count)
    table = SimpleNamespace(ready_s=times, rank=planned, priority=priority)
    replica = SimpleNamespace(engine=SimpleNamespace(requests=table), never_served=lambda: times > 0)
    fleet: Any = [replica]
    service = Service(fleet, lambda *_: 0, Overhead(), times, planned, math.inf, {})
    sent = [0, 1, 2] * 2 if count == 6 else [0, count - 1]
    ranks = []
    for request in sent:
        if request == 2:
            service._environment.run(until=service._environment.now + 1.0)
        ranks.append(service._rank(request))
    table.rank[sent] = ranks  # as 64-bit integers
    order = [(priority[request], place // 3 + (request == 2), planned[request]) for place, request in enumerate(sent)]
    if count == 6:  # 0 and 2 are of one class, 1 of the first; 2 comes a moment later, and so does what comes after it
        assert np.argsort(ranks).tolist() == sorted(range(6), key=lambda place: order[place])
    else:
        assert ranks[1] < ranks[0]


@given(setups(("vllm-v1",)))
def test_load_is_shed_alike_whether_anything_waits_or_not(drawn: Setup) -> None:
    """What arrives during a step is judged by what was under way, also where it is sent while the step runs."""
    shedding = replace(drawn.engine, max_num_queued_reqs=2)
    apart = run(replace(drawn, engine=shedding, router="round-robin", replicas=2, max_concurrency=None))
    coupled = run(replace(apart.setup, max_concurrency=len(drawn.trace)))
    assert rows_by_replica(coupled) == rows_by_replica(apart)
    assert coupled.result.requests.status.tolist() == apart.result.requests.status.tolist()


def test_blocks_of_what_ends_in_the_running_step_are_not_free_yet() -> None:
    """The third is sent while the first, of five blocks, makes its last token, and the second holds three."""
    trace = make_trace([0.0, 0.001, 0.009], [64, 32, 16], [2, 20, 2])
    made = run(Setup(trace, plain_engine(), replicas=2, router="least-kv"))
    assert made.result.requests.finish_s[0] > 0.009
    assert made.result.requests.replica.tolist() == [0, 1, 1]
