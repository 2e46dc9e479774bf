"""A trace is a sample of traffic: how far from its own rate that of the traffic may lie.

Traces of as many requests are drawn from it, in blocks and with replacement (the block bootstrap: Künsch, The Annals of
Statistics 17, 1989). What one engine takes of them lies as far apart as what it takes of other samples of the traffic,
while orderings of one trace hold the same requests and lie too near to each other. Of traffic that changes from hour to
hour one hour tells nothing more.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...traces.arrivals import span_s
from ...traces.lasting_prefixes import passing_on
from ...traces.trace import Trace
from ..traffic.steady_load import ordered

DRAWS = 8
CONFIDENCE = 0.9
"""How often an interval is to hold the rate of the traffic that the trace is a sample of."""
APART = 1.5
"""Times as far as the draws of one trace samples of the traffic are taken to lie apart: no draw has what the trace
lacks. benchmarks/plan_interval.py counts the intervals that hold the rate."""
FIRST_SEED = 1000
"""Of draws: orderings are drawn too, with the seeds from 0 on."""


def drawable(trace: Trace) -> bool:
    """Whether pieces of it in another order are traffic of its kind. Turns of conversations would find less text in
    the prefix cache."""
    return not passing_on(trace)


def drawn(trace: Trace, number: int) -> Trace:
    """Draw `number` of DRAWS: as many requests, with the gaps between them, at one a second, or all at once as in the
    trace."""
    load = ordered(trace, len(trace), 1.0, FIRST_SEED + number)
    return load if span_s(trace.arrival_s) > 0 else replace(load, arrival_s=np.zeros(len(load)))


def rate_interval(rate: float, drawn_rates: Sequence[float]) -> tuple[float, float]:
    """Where the rate of the traffic lies with CONFIDENCE, given that of a trace and those of its draws: Student's t on
    logarithms, around the trace's, APART times as wide. What the draws span, from 0, where one meets the targets at no
    rate."""
    from scipy.stats import t

    if 0.0 in drawn_rates or len(drawn_rates) < 2:
        return min([rate, *drawn_rates]), max([rate, *drawn_rates])
    spread = float(np.log(drawn_rates).std(ddof=1))
    factor = math.exp(float(t.ppf((1 + CONFIDENCE) / 2, len(drawn_rates) - 1)) * APART * spread)
    return rate / factor, rate * factor
