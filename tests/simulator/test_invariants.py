"""What holds in every simulation, whatever the engine, the policy, the fleet and the workload."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from slotune.simulator.policy_names import STATIC_ROUTERS
from slotune.simulator.request_table import FAILED, FINISHED, REJECTED
from slotune.tests.simulator.runs import Run, Setup, run, setups, token_times

MANY = settings(
    max_examples=120,
    derandomize=True,  # the same examples every time
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@MANY
@given(setups())
def test_every_simulation(setup: Setup) -> None:
    made = run(setup)
    every_request_ends_once(made)
    answers_are_complete(made)
    tokens_are_conserved(made)
    no_row_beyond_the_limits(made)
    blocks_are_neither_negative_nor_leaked(made)
    time_goes_forward(made)
    no_decode_begins_before_its_token_is_sampled(made)
    first_come_is_first_admitted(made)


def every_request_ends_once(made: Run) -> None:
    ended = Counter(r.ended_request(place) for r in made.replicas.values() for place in range(r.ended))
    status = made.result.requests.status.tolist()
    turned_away = {request for request in range(len(status)) if request not in ended}
    assert max(ended.values(), default=1) == 1
    never = set(np.flatnonzero(made.replicas[0].never_served()).tolist()) if is_coupled(made.setup) else set()
    assert turned_away == never, "by an API server, before any engine sees it"
    assert {status[request] for request in turned_away} <= {REJECTED}
    assert set(status) <= {FINISHED, REJECTED, FAILED}


def is_coupled(setup: Setup) -> bool:
    """Whether a client or a router waits for what the replicas do."""
    return setup.max_concurrency is not None or (setup.replicas > 1 and setup.router not in STATIC_ROUTERS)


def answers_are_complete(made: Run) -> None:
    table, trace = made.result.requests, made.setup.trace
    times = token_times(made)
    for i in range(len(table)):
        if table.status[i] == FINISHED:
            room = made.setup.engine.max_model_len - trace.input_tokens[i]
            assert table.output_tokens[i] == len(times[i]) == min(trace.output_tokens[i], room)
            assert table.first_token_s[i] == pytest.approx(times[i][0], abs=1e-9)
            assert table.finish_s[i] == pytest.approx(times[i][-1], abs=1e-9)
        if table.status[i] == REJECTED:
            assert not times[i]


def tokens_are_conserved(made: Run) -> None:
    """A row goes on where the request's last one ended, or after admission where its cached blocks end; a finished
    request has computed its prompt and all outputs but the last. A preemption in a step without rows is not
    in the records."""
    table, block_size = made.result.requests, made.setup.engine.block_size
    computed: dict[int, int] = {}
    preemptions: Counter[int] = Counter()
    admitted: set[int] = set()
    for step in made.steps:
        for name in step.preempted:
            computed.pop(int(name), None)
            preemptions[int(name)] += 1
        for name, tokens, context in step.rows:
            request = int(name)
            if context != computed.get(request):
                assert context % block_size == 0
                assert request in admitted or context == table.cached_tokens[request]
                preemptions[request] += request in computed
            admitted.add(request)
            computed[request] = context + tokens
    for request in range(len(table)):
        assert preemptions[request] <= table.preemptions[request]
        if table.status[request] == FINISHED and request not in computed:
            # Preempted while its last token was in flight, which was delivered all the same.
            assert made.setup.engine.async_scheduling
            assert preemptions[request] > 0
        elif table.status[request] == FINISHED:
            in_vain = computed[request] - (table.prompt_tokens[request] + table.output_tokens[request] - 1)
            # vLLM before 0.23 may schedule further rows of a request while its last token passes the stages.
            scheduled_ahead = made.setup.engine.async_scheduling and made.setup.engine.pipeline_parallel_size > 1
            assert in_vain == 0 or (scheduled_ahead and 0 < in_vain < made.setup.engine.pipeline_parallel_size)


def no_row_beyond_the_limits(made: Run) -> None:
    engine = made.setup.engine
    budget = min(engine.max_num_scheduled_tokens or engine.max_num_batched_tokens, engine.max_num_batched_tokens)
    for step in made.steps:
        names = [name for name, _, _ in step.rows]
        assert len(set(names)) == len(names) <= min(engine.max_num_seqs, engine.max_num_active_seqs or 10**9)
        assert all(tokens >= 1 and context + tokens < engine.max_model_len + 1 for _, tokens, context in step.rows)
        if made.setup.policy == "vllm-v1":
            assert sum(tokens for _, tokens, _ in step.rows) <= budget
        if made.setup.policy == "sarathi":
            prefill = sum(tokens for _, tokens, context in step.rows if tokens > 1 or context == 0)
            assert prefill <= budget


def blocks_are_neither_negative_nor_leaked(made: Run) -> None:
    usable = made.setup.engine.num_gpu_blocks - 1
    assert all(0 <= step.free_blocks <= usable for step in made.steps)
    assert all(replica.free_at(math.inf) == usable for replica in made.replicas.values())


def time_goes_forward(made: Run) -> None:
    arrival_s = made.result.requests.arrival_s
    one_at_a_time = made.setup.engine.pipeline_parallel_size == 1 or made.setup.policy != "vllm-v1"
    for index in range(made.setup.replicas):
        steps = made.steps_of(index)
        assert [step.step for step in steps] == list(range(1, len(steps) + 1))
        for one, following in pairwise(steps):
            assert following.start_s >= (one.end_s if one_at_a_time else one.start_s) - 1e-12
        for step in steps:
            assert step.end_s > step.start_s
            assert all(arrival_s[int(name)] <= step.start_s + 1e-12 for name, _, _ in step.rows)


def no_decode_begins_before_its_token_is_sampled(made: Run) -> None:
    requests = made.result.requests
    for index in range(made.setup.replicas):
        ends: dict[str, float] = {}
        for step in made.steps_of(index):
            for name, _, context in step.rows:
                if context >= requests.prompt_tokens[int(name)] and not requests.preemptions[int(name)]:
                    assert step.start_s >= ends[name] - 1e-12
                ends[name] = step.end_s


def first_come_is_first_admitted(made: Run) -> None:
    if made.setup.engine.scheduling_policy == "priority":
        return
    arrival_s = made.result.requests.arrival_s
    for index in range(made.setup.replicas):
        admitted = list(dict.fromkeys(int(name) for step in made.steps_of(index) for name, _, _ in step.rows))
        assert admitted == sorted(admitted, key=lambda request: (arrival_s[request], request))


@settings(MANY, max_examples=30)
@given(setup=setups())
def test_same_seed_same_bytes(setup: Setup, tmp_path: Path) -> None:
    one, again = run(setup), run(setup)
    assert one.text == again.text
    assert one.requests_csv(tmp_path) == again.requests_csv(tmp_path)
