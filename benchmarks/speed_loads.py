"""What the speed of the simulator is measured on."""

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slotune.benchmarks.reference_loop import LinearCost
from slotune.profiler.profile import Profile, linear_profile
from slotune.profiler.profile_folder import load_profile
from slotune.simulator.settings import Settings
from slotune.simulator.simulation import SimulationResult, simulate
from slotune.tests.oracle.make_cases import cases
from slotune.tests.oracle.simulated import write_case_trace
from slotune.traces.read import read_trace
from slotune.traces.trace import Trace
from slotune.traces.transform import head, with_arrivals

REQUESTS = 1000
KV_BLOCKS = 56_614
"""What the bundled H200 profile holds: the linear ones get as many."""
ALL_OFF: Settings = {"enable_prefix_caching": False, "async_scheduling": False}

SLOW_STEPS = LinearCost(base_s=0.031, prefill_token_s=0.00003, decode_row_s=0.0005, context_token_s=1e-8)
"""Some 35 ms a step: at 1 request/s nine rows share one, and 1,000 requests take 27,000 steps, as Vidur's do."""
BUSY_RATE = 5.3
"""Steps of 7 ms at this rate are as many and as wide as steps of 37 ms at 1 request/s: 27,000 of nine rows."""
FAST_STEPS = LinearCost(base_s=0.0065, prefill_token_s=0.00002, decode_row_s=0.00003, context_token_s=1e-8)
"""About the H200's."""


@dataclass(frozen=True, slots=True)
class Load:
    """A simulation to time."""

    name: str
    trace: Trace
    profile: Profile
    settings: Settings

    def run(self) -> SimulationResult:
        """Simulate it."""
        return simulate(self.trace, self.profile.engine_config(self.settings), self.profile.timing(self.settings))


def conversations(source: Path | str, count: int = REQUESTS, rate: float = 1.0) -> Trace:
    """The first requests of `source`, arriving as a Poisson process: only the lengths are the trace's."""
    return with_arrivals(head(read_trace(source), count), rate, 1.0, np.random.default_rng(0))


def linear(cost: LinearCost) -> Profile:
    """The profile of a closed form."""
    return linear_profile(cost.base_s, cost.prefill_token_s, cost.decode_row_s, cost.context_token_s)


def chat_loads(source: Path | str) -> Iterator[Load]:
    """1,000 conversations with the bundled surrogate and with closed forms; all of vLLM's features on, then off."""
    surrogate = load_profile("h200-llama-3.1-8b")
    blocks: Settings = {"num_gpu_blocks_override": KV_BLOCKS}
    kinds: list[tuple[str, Profile, float, Settings]] = [
        ("h200 surrogate, 1 request/s", surrogate, 1.0, {}),
        (f"h200 surrogate, {BUSY_RATE} requests/s", surrogate, BUSY_RATE, {}),
        ("linear as fast, 1 request/s", linear(FAST_STEPS), 1.0, blocks),
        ("linear, 35 ms, 1 request/s", linear(SLOW_STEPS), 1.0, blocks),
    ]
    for name, profile, rate, settings in kinds:
        trace = conversations(source, rate=rate)
        yield Load(f"{name}, all on", trace, profile, settings)
        yield Load(f"{name}, all off", trace, profile, settings | ALL_OFF)


def scenarios(times: int) -> Iterator[Load]:
    """The scenarios of the reference schedules with `times` as many requests."""
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases(1, times):
            path = Path(folder) / f"{name}.jsonl"
            write_case_trace(case, path)
            seconds = (case["cost"][term] / 1e3 for term in ("base", "prefill_token", "decode_seq", "context_token"))
            settings = case["engine"] | {"num_gpu_blocks_override": case["num_kv_blocks"]}
            yield Load(name, read_trace(path), linear(LinearCost(*seconds)), settings)


def write_grid(path: Path, seats: Sequence[int], chunks: Sequence[int] = (0,)) -> int:
    """A grid of configurations to screen; returns how many."""
    grid: dict[str, list[Any]] = {
        "max_num_seqs": list(seats),
        "max_num_batched_tokens": [512, 1024, 2048, 4096, 8192],
        "enable_prefix_caching": [True, False],
        "async_scheduling": [True, False],
        "block_size": [16, 32, 64],
        "long_prefill_token_threshold": list(chunks),
    }
    path.write_text(json.dumps(grid))
    return math.prod(len(values) for values in grid.values())
