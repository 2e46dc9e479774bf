"""The traffic of more users: copies of a trace over each other, where squeezing its time would shorten its busy times.

A forecast of ten times the requests is ten times the users. If all of them are busy for a minute, they are so for a
minute and not for six seconds, which a queue would hardly feel.
"""

from functools import lru_cache

import numpy as np

from ...traces.arrivals import span_s
from ...traces.stats import MINUTE_S, busiest_minute_rate
from ...traces.trace import Trace
from ...traces.transform import copies_for, superposed
from .steady_load import SPANS, drifts, varies

MOST_OVERLAY_REQUESTS = 1_000_000
"""Of all copies: more take minutes for each number of replicas that is tried."""
LEAST_COPIES = 1.5
"""Below, squeezing shortens busy times by less than other things are known."""
OVERLAYS = 2
"""On which a number of replicas is tried: each is far longer than an ordering, and there is less to be lucky with."""


def busy_times(trace: Trace) -> bool:
    """Whether its rate changes from tenth to tenth or from minute to minute, and by more than chance."""
    minutes = _minutes(trace)
    return drifts(trace) or (minutes > SPANS and varies(trace, minutes))


def peak(trace: Trace) -> float:
    """Its rate in the busiest tenth or, where it has more of them, in the busiest minute, over the mean."""
    if _minutes(trace) > SPANS:  # wherever it begins: one that is cut by the edges of others would be half as busy
        return busiest_minute_rate(trace.arrival_s) * span_s(trace.arrival_s) / len(trace)
    counts = np.histogram(trace.arrival_s, SPANS)[0]
    return float(counts.max() / counts.mean())


def _minutes(trace: Trace) -> int:
    return int(span_s(trace.arrival_s) / MINUTE_S)


def is_overlaid(trace: Trace, rate: float) -> bool:
    """Whether `rate` requests a second are made of copies: of a trace with busy times, LEAST_COPIES of it, and not too
    many."""
    copies = copies_for(trace, rate)
    return copies >= LEAST_COPIES and copies * len(trace) <= MOST_OVERLAY_REQUESTS and busy_times(trace)


@lru_cache(maxsize=OVERLAYS)
def overlaid(trace: Trace, rate: float, seed: int) -> Trace:
    """The trace at `rate` as `superposed` makes it."""
    return superposed(trace, rate, np.random.default_rng(seed))
