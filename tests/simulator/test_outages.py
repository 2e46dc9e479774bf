"""Replicas that start late, die and come back: no request vanishes."""

import math
from typing import Any

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.simulator.engine_config import EngineConfig
from slotune.simulator.misses import reasons
from slotune.simulator.outage import Outage, planned
from slotune.simulator.replica import Replica, StepSink
from slotune.simulator.request_table import FAILED, FINISHED, NOWHERE
from slotune.simulator.simulation import SimulationResult, simulate
from slotune.simulator.step_time import linear_model
from slotune.simulator.timing import Timing
from slotune.traces.trace import Trace

STEP_S = 0.1
TOKENS = 10
"""Of every answer: a request alone takes TOKENS steps."""


def served(
    arrivals_s: list[float],
    *outages: Outage,
    replicas: int = 2,
    async_scheduling: bool = False,
    sink: StepSink | None = None,
    tokens: int = TOKENS,
    engine: EngineConfig | None = None,
    **others: Any,
) -> SimulationResult:
    n = len(arrivals_s)
    trace = Trace(
        np.array(arrivals_s),
        np.full(n, 8, np.int32),
        np.full(n, tokens, np.int32),
        np.zeros(n, np.int32),
        np.zeros(n + 1, np.int64),
        np.zeros(0, np.int64),
        np.zeros(0, np.int32),
    )
    engine = engine or EngineConfig(num_gpu_blocks=1000, async_scheduling=async_scheduling)
    timing = Timing(linear_model(STEP_S, 0.0, 0.0, 0.0))
    return simulate(trace, engine, timing, replicas=replicas, outages=outages, steps_out=sink, **others)


def test_what_a_dying_replica_had_is_answered_by_another() -> None:
    requests = served([0.0, 0.0], Outage(1, 0.55)).requests
    assert requests.status.tolist() == [FINISHED, FINISHED]
    assert requests.replica.tolist() == [0, 0]
    # The second starts again on replica 0 at the next step boundary after 0.55 s, with nothing kept.
    assert requests.first_token_s == pytest.approx([0.1, 0.7])
    assert requests.finish_s == pytest.approx([1.0, 0.7 + (TOKENS - 1) * STEP_S])
    assert requests.output_tokens.tolist() == [TOKENS, TOKENS]


@pytest.mark.parametrize("start_s", [0.0, 0.7, 100.3])
def test_an_answer_that_ends_as_its_replica_dies_is_one(start_s: float) -> None:
    result = served([start_s], Outage(0, start_s + 1.0, start_s + 3.0), Outage(1, 0.0, 1000.0))
    assert result.requests.status.tolist() == [FINISHED]
    assert result.requests.finish_s == pytest.approx([start_s + 1.0])


def test_what_loses_both_replicas_at_once_has_failed() -> None:
    """Sent again at the moment at which the other replica, which is idle, dies as well."""
    result = served([0.0, 0.65], Outage(0, 0.55, 0.6), Outage(1, 0.55, 0.6))
    assert result.requests.status.tolist() == [FAILED, FINISHED]
    assert result.requests.output_tokens.tolist() == [0, TOKENS]


def test_what_reaches_a_replica_in_the_step_it_dies_in_waits_and_is_answered_by_another() -> None:
    """No step is free for it: one is under way, and with asynchronous scheduling the next one is scheduled too."""
    last: dict[int, Replica] = {}
    arrivals_s = [0.0, 0.0, 0.51, 0.52, 0.53, 0.54]
    result = served(arrivals_s, Outage(1, 0.55), async_scheduling=True, sink=lambda r: last.update({r.index: r}))
    assert result.requests.status.tolist() == [FINISHED] * 6
    assert result.requests.replica.tolist() == [0] * 6
    assert int(last[1].engine.state[0].num_in_flight) == 2


def test_a_step_that_ends_at_the_moment_of_death_still_counts() -> None:
    requests = served([0.0, 0.0], Outage(1, TOKENS * STEP_S + 1e-9)).requests
    assert requests.finish_s == pytest.approx([1.0, 1.0])
    assert requests.replica.tolist() == [0, 1]


def test_a_request_lost_twice_has_failed() -> None:
    requests = served([0.0, 0.0], Outage(1, 0.25), Outage(0, 0.55, 0.6)).requests
    assert requests.status.tolist() == [FAILED, FAILED]
    assert np.isnan(requests.finish_s).all()


@pytest.mark.parametrize(
    "outages",
    [
        (Outage(1, 0.55),),
        (Outage(1, 0.55), Outage(0, 0.75, 0.8)),
        (Outage(1, 0.25), Outage(0, 0.55, 0.6)),
        (Outage(0, 0.45, 0.5), Outage(1, 0.95, 1.0), Outage(0, 1.35, 1.4)),
    ],
)
def test_latencies_between_tokens_are_those_of_answers_that_came_whole(outages: tuple[Outage, ...]) -> None:
    arrivals_s = [0.0, 0.0, 0.3, 0.31, 0.9]
    result = served(arrivals_s, *outages)
    requests, gaps = result.requests, result.gaps
    done = requests.finished
    assert gaps.count.sum() == done.sum() * (TOKENS - 1)
    between_s = (requests.finish_s - requests.first_token_s)[done].sum()
    assert (gaps.gap_s * gaps.count).sum() == pytest.approx(between_s)


def test_with_every_replica_away_a_request_fails_and_the_next_after_it_does_not() -> None:
    requests = served([0.0, 1.0, 5.0], Outage(0, 0.5, 4.0), replicas=1).requests
    assert requests.status.tolist() == [FAILED, FAILED, FINISHED]
    assert requests.finish_s[2] == pytest.approx(6.0)


def test_a_late_start_is_an_outage_from_the_beginning() -> None:
    requests = served([0.0, 0.1, 3.0, 3.0], Outage(1, 0.0, 2.0)).requests
    assert requests.replica.tolist() == [0, 0, 0, 1]
    assert (requests.status == FINISHED).all()


def test_outages_must_be_spans_of_replicas_that_exist() -> None:
    with pytest.raises(InputError, match="no time span"):
        Outage(0, 5.0, 4.0)
    with pytest.raises(InputError, match="there are 2, counted from 0"):
        planned([Outage(2, 1.0)], 2)
    with pytest.raises(InputError, match="overlaps"):
        planned([Outage(0, 1.0), Outage(0, 2.0, math.inf)], 2)


@pytest.mark.parametrize("router", ["round-robin", "least-outstanding"])
def test_replicas_that_die_at_one_moment_hand_nothing_to_each_other(router: str) -> None:
    """Twice lost, it would have failed; the third and fourth take turns with what is left."""
    result = served([0.1 * k for k in range(12)], Outage(0, 0.75), Outage(2, 0.75), replicas=4, router=router)
    requests = result.requests
    assert (requests.status == FINISHED).all()
    late = requests.replica[requests.finish_s > 0.75]
    assert set(late.tolist()) == {1, 3} and abs(int((late == 1).sum()) - int((late == 3).sum())) <= 2


def test_what_comes_while_no_replica_is_up_was_on_none() -> None:
    result = served([0.0, 1.0, 5.0], Outage(0, 0.5, 4.0), replicas=1)
    requests = result.requests
    assert requests.replica.tolist() == [0, NOWHERE, 0]
    told = reasons(requests, np.full(3, TOKENS), EngineConfig(num_gpu_blocks=1000), "vllm-v1")
    assert told == ["1 came while no replica was up", "1 were lost with their replica"]


def test_what_is_sent_again_and_outgrows_the_cache_of_another_replica_was_not_lost() -> None:
    """Its replica dies before the cache is full; on the other one it fails as it would have there."""
    small = EngineConfig(num_gpu_blocks=3, block_size=16, async_scheduling=False)
    requests = served([0.0, 0.0], Outage(1, 0.15), engine=small, tokens=40).requests
    assert requests.status.tolist() == [FAILED, FAILED] and requests.lost.tolist() == [False, False]
    (told,) = reasons(requests, np.full(2, 40), small, "vllm-v1")
    assert told.startswith("2 outgrew the KV cache") and "replica" not in told


@pytest.mark.parametrize("sizes", [{"replicas": 0}, {"replicas": -1}, {"max_concurrency": 0}])
def test_a_fleet_of_none_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"must be at least 1"):
        served([0.0], **sizes)


def test_outages_are_planned_in_order_of_time_whichever_is_named_first() -> None:
    later, sooner, other = Outage(0, 5.0, 6.0), Outage(0, 1.0, 2.0), Outage(1, 0.0)
    assert planned([later, other, sooner], 2) == {0: [sooner, later], 1: [other]}


@pytest.mark.parametrize(("replica", "start_s"), [(0, -0.5), (-1, 0.5), (2, 0.5)])
def test_outages_before_the_start_or_of_no_replica_are_refused(replica: int, start_s: float) -> None:
    with pytest.raises(InputError, match=f"outage of replica {replica}: "):
        planned([Outage(replica, start_s, 1.0)], 2)
