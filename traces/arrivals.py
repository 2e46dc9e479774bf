"""Arrival times as load generators make them: gaps from a distribution, then the total scaled to requests / rate.

The scaling is vLLM's (vllm/benchmarks/serve.py, get_request): without it the rate of a short run is off by a few per
cent, and differently for each seed.
"""

import numpy as np

from ..arrays import F64
from ..errors import InputError

LONGEST_S = 1e9
"""Of a trace: 30 years, still in whole microseconds as a float."""

LEAST_CV = 1e-9
"""Below it gaps are even, and above its inverse there are none."""

IDLE_GAPS, IDLE_LONGEST_GAPS, IDLE_FEW = 12.0, 3.0, 300.0
"""A load hardly begins with more mean gaps and more of its own longest gap; with more still, where the gaps are fewer
than IDLE_FEW / IDLE_GAPS, since few gaps say little of their mean."""


def arrival_times(count: int, rate: float, cv: float, rng: np.random.Generator, group: int = 1) -> F64:
    """(count,) seconds, never decreasing, the last one at `count` / `rate`, in whole microseconds (as files hold them).

    Gaps are gamma distributed with coefficient of variation `cv`: 1 is Poisson, 0 even, above 1 bursts; vLLM's
    --burstiness is 1 / cv**2. With `group` above 1, that many requests arrive at once and the gaps lie between groups.
    """
    groups = -(-count // group)
    gaps = rng.standard_gamma(1 / cv**2, groups) if LEAST_CV <= cv <= 1 / LEAST_CV else np.ones(groups)
    moments = np.cumsum(gaps)
    if not (0 < moments[-1] < np.inf and 0 < count / rate <= LONGEST_S and 0 <= cv <= 1 / LEAST_CV):
        raise InputError(
            f"{count} requests at {rate:g} per second with cv {cv:g} have no arrival times that a file could hold: "
            f"give a cv that leaves gaps, and a rate at which they come within {LONGEST_S:.0e} s"
        )
    scaled: F64 = np.round(moments[np.arange(count) // group] * (count / rate / moments[-1]), 6)
    return scaled


def span_s(arrival_s: F64) -> float:
    """(requests,) arrivals: seconds from where the load begins to the last of them."""
    return float(arrival_s[-1]) - idle_s(arrival_s)


def idle_s(arrival_s: F64) -> float:
    """Seconds before the first request if they are too many for a load (IDLE_GAPS, IDLE_LONGEST_GAPS), else 0: a piece
    that was cut out of a longer trace begins so."""
    gaps_s = np.diff(np.unique(arrival_s))  # groups that come at once say nothing of how long one waits for the next
    start_s = float(arrival_s.min())
    mean_s = float(gaps_s.sum()) / max(len(gaps_s), 1)
    least = max(IDLE_GAPS, IDLE_FEW / max(len(gaps_s), 1))
    longest_s = max(least * mean_s, IDLE_LONGEST_GAPS * float(gaps_s.max(initial=0.0)))
    return start_s if start_s > longest_s else 0.0
