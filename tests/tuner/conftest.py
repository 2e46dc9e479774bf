"""A profile and a trace so small that a simulation takes no time, a small study that was searched, and an engine that
is none to validate it on."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slotune.errors import EngineError
from slotune.profiler.profile import EngineFacts, Profile, linear_profile
from slotune.profiler.profile_folder import write_profile
from slotune.simulator.slo import parse_slo
from slotune.traces.generate import make_trace
from slotune.traces.lengths import lognormal
from slotune.traces.mooncake import write_trace
from slotune.traces.trace import Trace
from slotune.tuner.hardware.engine_run import Measured
from slotune.tuner.study.study import Study, Trial
from slotune.tuner.study.task import Task, ask, load_task

SIMULATED: tuple[dict[str, Any], ...] = (
    {},
    {"block_size": 32},  # behaves as the default: nothing is short of blocks
    *({"max_num_batched_tokens": budget, "max_num_seqs": 128} for budget in (160, 256, 320, 448, 640, 768, 896, 1280)),
    *({"max_num_batched_tokens": budget, "max_num_seqs": 16} for budget in (320, 640, 1280)),
    {"max_num_seqs": 16},
    {"long_prefill_token_threshold": 256},
    {"enable_prefix_caching": False, "max_num_batched_tokens": 512, "max_num_seqs": 256},
)
"""What the study has simulated, the default first."""


@pytest.fixture(scope="session")
def small_profile() -> Profile:
    """5 ms a step, 20 us a prefill token, 50 us a decode row."""
    return linear_profile(0.005, 2e-5, 5e-5, 2e-8)


@pytest.fixture(scope="session")
def small_trace() -> Callable[..., Trace]:
    """Makes traces: `small_trace(60, rate=10.0, seed=0, shared=0)`."""

    def trace(count: int = 60, rate: float = 10.0, seed: int = 0, shared: int = 0) -> Trace:
        """Poisson arrivals, prompts of 100 to 600 tokens and outputs of 5 to 40; with `shared`, one common prefix."""
        rng = np.random.default_rng(seed)
        return Trace(
            arrival_s=np.cumsum(rng.exponential(1 / rate, count)),
            input_tokens=rng.integers(100 + shared, 600 + shared, count).astype(np.int32),
            output_tokens=rng.integers(5, 40, count).astype(np.int32),
            priority=np.zeros(count, np.int32),
            run_offsets=np.arange(count + 1) if shared else np.zeros(count + 1, np.int64),
            run_name=np.zeros(count if shared else 0, np.int64),
            run_tokens=np.full(count if shared else 0, shared, np.int32),
        )

    return trace


@pytest.fixture(scope="session")
def small_files(
    tmp_path_factory: pytest.TempPathFactory, small_profile: Profile, small_trace: Callable[..., Trace]
) -> tuple[str, str]:
    """A profile and a trace on disk; prompts of up to 600 tokens make a large budget stall the decodes."""
    folder = tmp_path_factory.mktemp("files")
    write_profile(replace(small_profile, defaults={"max_model_len": 2048}), folder / "profile")
    write_trace(small_trace(80, rate=30.0), folder / "trace.jsonl")
    return str(folder / "profile"), str(folder / "trace.jsonl")


@dataclass
class FakeEngine:
    """The simulator, 10 % slower than the profile says; the machine drifts by 10 % a round and recovers every third."""

    task: Task
    slower: float = 1.1
    fails: Callable[[Mapping[str, Any]], str | None] = lambda settings: None
    """The reason for which settings cannot run."""
    ttft_slower: float = 1.0
    """How much more still it takes to the first token."""
    throughput: float = 1.0
    """Of what is predicted."""
    stop_after: int | None = None
    """KeyboardInterrupt comes in place of the run after so many."""
    model: str = "org/model"
    speed: float = 1.0
    """Of the machine, against the one that the other numbers are for."""
    unanswered: int = 0
    """Requests of each run."""
    calls: list[tuple[dict[str, Any], int]] = field(default_factory=list)
    """Settings and round of each run."""

    def __call__(self, settings: Mapping[str, Any], folder: Path) -> Measured:
        if self.stop_after is not None and len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        number = int(folder.name.split("-")[1])
        self.calls.append((dict(settings), number))
        if reason := self.fails(settings):
            raise EngineError(f"it said {reason}", reason)
        noise = np.random.default_rng(len(self.calls)).normal(1, 0.002)
        factor = self.slower / self.speed * (1 + 0.1 * ((number - 1) % 3)) * noise
        metrics = dict(self.task.simulated()(dict(settings)).metrics or {})
        for key in metrics:
            if key.endswith("_ms"):
                metrics[key] *= factor * (self.ttft_slower if "ttft" in key else 1.0)
        for key in ("request_throughput", "output_throughput", "total_token_throughput"):
            metrics[key] *= self.throughput
        metrics["failed"] += self.unanswered
        metrics["completed"] -= self.unanswered
        return Measured(metrics, self.identity() | ({"first_error": "400 no"} if self.unanswered else {}))

    def identity(self) -> dict[str, Any]:
        return {"model": self.model, "vllm_version": "0.32.0"}


@pytest.fixture(scope="session")
def fake_engine() -> type[FakeEngine]:
    return FakeEngine


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose default misses a target that others meet. Not to be written to.

    Its configurations are fixed, so that what is tested with it does not hang on what a search happens to find.
    """
    folder = tmp_path_factory.mktemp("searched")
    facts = EngineFacts(model="org/model", device="a formula", version="0.32.0")
    profile = replace(linear_profile(0.008, 1e-4, 3e-4, 0), engine=facts, defaults={"max_model_len": 8192})
    write_profile(profile, folder / "profile")
    lengths = (lognormal(800, 3000), lognormal(60, 200))
    write_trace(make_trace(80, 5.0, lengths, seed=1), folder / "trace.jsonl")
    question = ask(
        str(folder / "profile"),
        str(folder / "trace.jsonl"),
        slos=[parse_slo("p99:ttft:2500"), parse_slo("p99:itl:150")],
        engine={"num_gpu_blocks_override": 20000},
        trials=len(SIMULATED),
    )
    task = load_task(question)
    with Study.create(folder / "study", question) as study:
        for changes in SIMULATED:
            settings = changes | question.engine
            study.add(Trial(settings, task.simulated()(settings).metrics, origin="sobol" if changes else "default"))
    return folder / "study"


@pytest.fixture
def study(searched: Path, tmp_path: Path) -> Path:
    """A copy of the searched study."""
    return shutil.copytree(searched, tmp_path / "study")
