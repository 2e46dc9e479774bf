"""Arrival times as load generators make them: gaps from a distribution, then the total scaled to requests / rate.

The scaling is vLLM's (vllm/benchmarks/serve.py, get_request): without it the rate of a short run is off by a few per
cent, and differently for each seed.
"""

import numpy as np

from .trace import F64


def arrival_times(count: int, rate: float, cv: float, rng: np.random.Generator, group: int = 1) -> F64:
    """(count,) seconds, never decreasing, the last one at `count` / `rate`, in whole microseconds (as files hold them).

    Gaps are gamma distributed with coefficient of variation `cv`: 1 is Poisson, 0 even, above 1 bursts; vLLM's
    --burstiness is 1 / cv**2. With `group` above 1, that many requests arrive at once and the gaps lie between groups.
    """
    groups = -(-count // group)
    gaps = rng.standard_gamma(1 / cv**2, groups) if cv > 0 else np.ones(groups)
    moments = np.cumsum(gaps)
    scaled: F64 = np.round(np.repeat(moments, group)[:count] * (count / rate / moments[-1]), 6)
    return scaled
