"""How many requests a trace must have for what its percentiles say to hold of similar traffic."""

import math
from collections.abc import Sequence

from ...simulator.slo import ROUNDING
from ...traces.trace import Trace

BEYOND = 10
"""Requests beyond a percentile on which it can stand."""
FEW = 100
"""Requests of a trace, of which fewer are no sample of a service's traffic, whatever the percentile."""


def least_requests(percentile: float) -> int:
    """Requests of which BEYOND lie beyond a percentile."""
    return math.ceil(100 * BEYOND / (100 - percentile) * (1 - ROUNDING)) if percentile < 100 else 0


def enough_requests(percentiles: Sequence[float]) -> int:
    """Requests on which all of these percentiles can stand."""
    return max([FEW, *map(least_requests, percentiles)])


def few_requests(trace: Trace, percentiles: Sequence[float]) -> str | None:
    """That a trace is too short for the percentiles that targets and goals name; None where it is not."""
    enough = enough_requests(percentiles)
    if not percentiles or len(trace) >= enough:
        return None
    return (
        f"the trace has only {len(trace):,} requests, fewer than the {enough:,} that the percentiles asked for stand "
        "on: those of similar traffic may well be others"
    )
