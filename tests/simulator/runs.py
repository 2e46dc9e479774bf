"""Small random simulations for the property tests, and what is replayed from their steps."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from slotune.simulator.engine_config import EngineConfig
from slotune.simulator.policy_names import POLICIES, ROUTERS
from slotune.simulator.replica import Replica
from slotune.simulator.request_table import write_requests
from slotune.simulator.simulation import SimulationResult, simulate
from slotune.simulator.step_time import linear_model
from slotune.simulator.step_writer import StepWriter
from slotune.simulator.steps import StepRecord, parse_step
from slotune.simulator.timing import Timing
from slotune.traces.trace import Trace

TIMING = Timing(linear_model(0.004137, 41e-6, 113e-6, 0.21e-6))


@dataclass(frozen=True, slots=True)
class Setup:
    """The arguments of a simulation."""

    trace: Trace
    engine: EngineConfig
    policy: str = "vllm-v1"
    replicas: int = 1
    router: str = "round-robin"
    max_concurrency: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """A simulation, its steps, and its replicas as they were left."""

    setup: Setup
    result: SimulationResult
    text: str
    """The steps as --steps-out writes them."""
    replicas: dict[int, Replica]

    @property
    def steps(self) -> list[StepRecord]:
        """All steps, replica by replica in order of time."""
        return [parse_step(line, "steps") for line in self.text.splitlines()]

    def steps_of(self, replica: int) -> list[StepRecord]:
        """The steps of one replica."""
        return [step for step in self.steps if step.replica == replica]

    def requests_csv(self, folder: Any) -> str:
        """The requests as --requests-out writes them."""
        write_requests(self.result.requests, folder / "requests.csv")
        text: str = (folder / "requests.csv").read_text()
        return text


def run(setup: Setup, timing: Timing = TIMING) -> Run:
    """Simulate and record."""
    out, replicas = io.BytesIO(), {}
    writer = StepWriter(out, setup.trace, setup.replicas)

    def sink(replica: Replica) -> None:
        replicas[replica.index] = replica
        writer(replica)

    result = simulate(
        setup.trace,
        setup.engine,
        timing,
        policy=setup.policy,
        replicas=setup.replicas,
        router=setup.router,
        seed=setup.seed,
        max_concurrency=setup.max_concurrency,
        steps_out=sink,
    )
    return Run(setup, result, out.getvalue().decode(), replicas)


def make_trace(
    arrival_s: list[float],
    prompt: list[int],
    output: list[int],
    priority: list[int] | None = None,
    runs: list[list[tuple[int, int]]] | None = None,
) -> Trace:
    """A trace from lists; `runs` are (name, tokens) pairs a request."""
    flat = [pair for pairs in runs or [] for pair in pairs]
    offsets = np.concatenate(([0], np.cumsum([len(pairs) for pairs in runs or [[]] * len(prompt)])))
    return Trace(
        arrival_s=np.array(arrival_s),
        input_tokens=np.array(prompt, np.int32),
        output_tokens=np.array(output, np.int32),
        priority=np.array(priority or [0] * len(prompt), np.int32),
        run_offsets=offsets.astype(np.int64),
        run_name=np.array([name for name, _ in flat], np.int64),
        run_tokens=np.array([tokens for _, tokens in flat], np.int32),
    )


def setups(policies: Sequence[str] = ("vllm-v1", "vllm-v1", *POLICIES)) -> st.SearchStrategy[Setup]:
    """Any engine, fleet, router and client under one of the policies.

    Drawn from a seed: values drawn one by one lean to the simplest, with which nothing gets tight. The number of
    requests is drawn apart, so that a failing example shrinks to few.
    """
    return st.builds(_random_setup, st.integers(0, 10**12), st.integers(4, 14), st.sampled_from(policies))


def _random_setup(seed: int, requests: int, policy: str) -> Setup:
    rng = Random(seed)
    engine = _random_engine(rng)
    return Setup(
        engine=engine if policy == "vllm-v1" else replace(engine, pipeline_parallel_size=1),
        trace=_random_trace(rng, requests),
        policy=policy,
        replicas=rng.choice([1, 1, 2, 3]),
        router=rng.choice(ROUTERS),
        max_concurrency=rng.choice([None, None, 1, 3]),
        seed=rng.randrange(4),
    )


def _random_trace(rng: Random, number: int) -> Trace:
    """Bursts, ties, shared prefixes, a few requests too long for some engines."""
    gaps_ms = rng.choices([0, 0, 0, 3, 17, 200], k=number)
    prompt = rng.choices([1, 7, 16, 31, 32, 33, 60, 100, 119, 130], k=number)
    output = rng.choices([1, 2, 5, 17, 40, 90], k=number)
    priority = rng.choices(range(3), k=number)
    return make_trace(list(np.cumsum(gaps_ms) / 1e3), prompt, output, priority, [_runs(rng, p) for p in prompt])


def _runs(rng: Random, prompt: int) -> list[tuple[int, int]]:
    runs, left = [], prompt
    for _ in range(rng.randrange(3)):
        tokens = min(left, rng.choice([8, 20, 64, prompt]))
        if tokens:
            runs.append((rng.randrange(3), tokens))
            left -= tokens
    return runs


def _random_engine(rng: Random) -> EngineConfig:
    """Any configuration that a vLLM accepts, with small limits so that they bind; some that their version lacks."""
    max_model_len = rng.choice([120, 160, 400])
    chunked = rng.random() < 0.7
    max_num_seqs = rng.randint(1, 8)
    batched = rng.choice([8, 17, 64, 256])
    block_size = rng.choice([4, 8, 16])
    return EngineConfig(
        num_gpu_blocks=rng.choice([100, 140, 200, 300, 3000]) // block_size + 1,
        block_size=block_size,
        max_model_len=max_model_len,
        max_num_batched_tokens=batched if chunked else max(batched, max_model_len),
        max_num_scheduled_tokens=rng.choice([None, None, min(11, batched), min(50, batched)]),
        max_num_seqs=max_num_seqs,
        max_num_active_seqs=rng.choice([None, None, max(1, max_num_seqs - 2)]),
        long_prefill_token_threshold=rng.choice([0, 0, 3, 30]),
        long_prefill_token_threshold_adaptive=rng.random() < 0.5,
        enable_chunked_prefill=chunked,
        enable_prefix_caching=rng.random() < 0.6,
        scheduling_policy=rng.choice(["fcfs", "priority"]),
        scheduler_reserve_full_isl=rng.random() < 0.5,
        watermark=rng.choice([0.0, 0.05, 0.3]),
        async_scheduling=rng.random() < 0.5,
        stream_interval=rng.choice([1, 1, 3]),
        max_num_queued_reqs=rng.choice([None, None, None, None, 5]),
        max_num_queued_tokens=rng.choice([None, None, None, None, 300]),
        pipeline_parallel_size=rng.choice([1, 1, 1, 2, 3]),
        vllm_version=rng.choice([None, "0.33.0", "0.20.2", "0.25.1", "0.28.0"]),
        prefill_schedule_interval=rng.choice([1, 1, 2, 7]),
    )


def plain_engine(**settings: Any) -> EngineConfig:
    """A roomy engine without prefix caching, one step at a time."""
    roomy = EngineConfig(num_gpu_blocks=1000, enable_prefix_caching=False, async_scheduling=False)
    return replace(roomy, **settings)


def token_times(run: Run) -> dict[int, list[float]]:
    """When each output token of each request was made, replayed from the steps alone.

    A row makes a token if with it the request has computed all its tokens, prompt and outputs so far; not beyond the
    last, since steps that are scheduled ahead may hold a row of a request that turns out to be done.
    """
    limits = run.setup.trace.output_tokens
    known = dict(enumerate(run.setup.trace.input_tokens.tolist()))
    times: dict[int, list[float]] = {request: [] for request in known}
    for step in run.steps:
        for name, tokens, context in step.rows:
            request = int(name)
            if context + tokens == known[request] and len(times[request]) < limits[request]:
                known[request] += 1
                times[request].append(step.end_s)
    return times


def read_csv(text: str) -> list[dict[str, str]]:
    """The rows of a CSV with a header."""
    return list(csv.DictReader(io.StringIO(text)))
