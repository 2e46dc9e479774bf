"""Whether the engine keeps up with a load: a rate counts only where neither the queue nor the number of requests in the
engine grows with the load."""

import numpy as np

from ...arrays import F64
from ...simulator.request_table import RequestTable
from ...simulator.simulation import SimulationResult

LARGEST_GROWTH = 0.02
"""Of the requests that arrive, the share that may pile up in the queue: the tolerance of the rate itself."""
STEADY_GROWTH = 0.01
"""And in the batch, which takes longer to tell, so that a load is made longer until it does."""


def queue_growth(result: SimulationResult) -> float:
    """Requests that piled up without a first token, of those that are answered: `_growth`."""
    return _growth(result.requests, result.requests.first_token_s)


def engine_growth(result: SimulationResult) -> float:
    """Requests that piled up in the queue and in the batch, of those that are answered: `_growth`."""
    return _growth(result.requests, result.requests.finish_s)


def _growth(requests: RequestTable, until_s: F64) -> float:
    """What piled up between the second and the last quarter of the arrivals, as a share of those that arrived
    meanwhile. Near 0 in a steady state, the overload where there is one.
    """
    answered = requests.finished
    arrival_s = requests.arrival_s
    quarter_s = (arrival_s[-1] - arrival_s[0]) / 4
    if quarter_s == 0:
        return 0.0
    piles = [
        _mean_number(arrival_s[answered], until_s[answered], arrival_s[0] + i * quarter_s, quarter_s) for i in (1, 3)
    ]
    return (piles[1] - piles[0]) / (len(arrival_s) / 2)


def _mean_number(arrival_s: F64, until_s: F64, from_s: float, span_s: float) -> float:
    """Mean number of requests over a window, each from its arrival to its end."""
    overlap = np.minimum(until_s, from_s + span_s) - np.maximum(arrival_s, from_s)
    return float(np.maximum(overlap, 0.0).sum() / span_s)


def queue_is_steady(result: SimulationResult) -> bool:
    """Whether the queue is steady: what piles up is less than the tolerance of the rate."""
    return queue_growth(result) <= LARGEST_GROWTH


def is_steady(result: SimulationResult) -> bool:
    """Whether queue and batch are; while the batch grows towards its limit, the load was too short to judge by."""
    return queue_is_steady(result) and engine_growth(result) <= STEADY_GROWTH
