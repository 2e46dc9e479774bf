"""How a request ends. Compiled."""

from .compiled import inner


@inner
def end_request(engine, index, status, time_s):
    """The request ends as FINISHED, REJECTED or FAILED."""
    request, state = engine.requests[index], engine.state[0]
    request.status = status
    request.finish_s = time_s
    engine.ended[state.num_ended] = index
    state.num_ended += 1
    state.ended_since = 1
