"""A profile and a trace so small that a simulation takes no time."""

from collections.abc import Callable

import numpy as np
import pytest

from slotune.profiler.profile import Profile, linear_profile
from slotune.traces.trace import Trace


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
