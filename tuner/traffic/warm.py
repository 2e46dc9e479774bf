"""Loads that are judged once prefix caches are warm: a service begins once, a short load is not to be judged by it.

While nothing is cached yet, hundreds of requests may wait for the first prefills of a few system prompts. Of a load of
thousands they are per cents, of a service's day nothing.
"""

from dataclasses import replace

import numpy as np

from ...simulator.request_table import RequestTable
from ...traces.lasting_prefixes import lasting, lasting_prompts, passing_on
from ...traces.trace import Trace
from .steady_load import ordered

WARMING_SHARE = 1 / 3
"""Of the requests that are judged, as many come before them."""
WARMING = 5
"""Requests before them for each lasting prompt and replica: drawn evenly, one prompt in 150 has not come then."""


def finds_others(trace: Trace) -> bool:
    """Whether its requests find text of others in the prefix cache."""
    return bool(lasting(trace).any()) or passing_on(trace)


def warmed(trace: Trace, requests: int, rate: float, seed: int, replicas: int = 1) -> tuple[Trace, int]:
    """The whole copies of `trace` that hold `requests`, as in `ordered`, behind others that warm the caches; and how
    many these others are: none where requests find nothing of each other."""
    if not finds_others(trace):
        return ordered(trace, requests, rate, seed, replicas), 0
    judged = -(-requests // len(trace)) * len(trace)
    cold = round(max(WARMING_SHARE * judged, WARMING * lasting_prompts(trace) * replicas))
    load = ordered(trace, judged + cold, rate, seed, replicas)
    left_out = len(load) - judged - cold
    before_s = load.arrival_s[left_out - 1] if left_out else 0.0
    taken = load.taken(np.arange(left_out, len(load)))
    return replace(taken, arrival_s=load.arrival_s[left_out:] - before_s), cold


def judged_requests(cold: int, table: RequestTable) -> RequestTable:
    """The requests after the first `cold`, timed from the arrival of the last of those where there are any."""
    begins_s = table.arrival_s[cold - 1] if cold else 0.0
    judged = table[cold:]
    return replace(
        judged,
        arrival_s=judged.arrival_s - begins_s,
        first_token_s=judged.first_token_s - begins_s,
        finish_s=judged.finish_s - begins_s,
        failed_s=None if judged.failed_s is None else judged.failed_s - begins_s,
    )
