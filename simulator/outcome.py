"""How a request ends. Compiled."""

from numba import njit

from .state import FINISHED_SINCE, NUM_FINISHED


@njit(cache=True)
def end_request(requests, engine, request, status, time_s):
    """`request` ends as FINISHED, REJECTED or FAILED."""
    requests.status[request] = status
    requests.finish_s[request] = time_s
    engine.finished[engine.count[NUM_FINISHED]] = request
    engine.count[NUM_FINISHED] += 1
    engine.count[FINISHED_SINCE] = 1
