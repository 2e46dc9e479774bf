"""Replicas that something couples run as those that nothing couples, where the coupling changes nothing."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from hypothesis import given

from slotune.simulator.request_table import RequestTable
from slotune.tests.simulator.runs import Run, Setup, make_trace, plain_engine, run, setups


def columns(table: RequestTable) -> list[npt.NDArray[np.generic]]:
    return [table.first_token_s, table.finish_s, table.cached_tokens, table.preemptions, table.replica, table.status]


def rows_by_replica(made: Run) -> list[object]:
    return [[step.rows for step in made.steps_of(replica)] for replica in range(made.setup.replicas)]


@given(setups(("vllm-v1",)))
def test_a_client_that_never_waits_for_a_place(drawn: Setup) -> None:
    """Times are equal but for the last bit: SimPy's clock adds up differences."""
    apart = run(replace(drawn, router="round-robin", replicas=3, max_concurrency=None))
    coupled = run(replace(apart.setup, max_concurrency=len(drawn.trace)))
    assert rows_by_replica(coupled) == rows_by_replica(apart)
    for one, other in zip(columns(apart.result.requests), columns(coupled.result.requests), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


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
