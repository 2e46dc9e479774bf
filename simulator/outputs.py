"""What comes of a step that ends: tokens for its requests, gaps between them for the clients. Compiled."""

from . import kv_cache
from .compiled import inner
from .outcome import end_request
from .request_table import FINISHED
from .state import RUNNING


@inner
def end_step(engine):
    """Scheduler.update_from_output for the step that has been in flight longest."""
    state, place = engine.state[0], engine.state[0].first_in_flight
    flight = engine.flights[place]
    rows = flight.rows
    state.free_before = state.free_blocks
    state.now_s = max(state.now_s, flight.end_s)
    state.first_in_flight = (place + 1) % len(engine.flights)
    state.num_in_flight -= 1
    flight.rows = 0
    together = stopped = sampled = 0
    for k in range(rows):
        row = engine.rows[place, k]
        request = engine.requests[row.request]
        request.in_flight -= row.tokens
        is_stale = request.stale > 0
        if is_stale:
            request.stale -= row.tokens
        if row.samples and request.status < FINISHED:
            sampled = 1
            accepted = _verify_drafts(engine, row, is_stale)
            stopped += _add_tokens(engine, row.request, 1 + accepted, is_stale)
            together += _emit(engine, request)
    if together > 0:
        _log_gap(engine, state.now_s - state.last_emission_s, together)
    if rows > 0:
        state.last_emission_s = state.now_s
    if sampled > 0:
        state.fruitless = 0
    if stopped > 0:
        _drop_ended(engine)


@inner
def _verify_drafts(engine, row, is_stale):
    """How many of the row's drafts are accepted; the others were computed in vain."""
    if row.drafts == 0:
        return 0
    request = engine.requests[row.request]
    accepted = 0
    if not row.padded:
        accepted = min(row.drafts, engine.accepted[request.first_accepted + request.known - request.prompt])
    if not is_stale:
        if request.computed > 0:
            request.computed -= row.drafts - accepted
        if request.placeholders > 0:
            request.placeholders -= row.drafts - accepted
    return accepted


@inner
def _add_tokens(engine, index, count, is_stale):
    """Sampled tokens arrive, as many as the request's limits let in (check_stop in sched/utils.py); returns whether a
    running request is done by them."""
    rules, request = engine.rules[0], engine.requests[index]
    count = min(count, rules.max_model_len - request.known, request.max_tokens - (request.known - request.prompt))
    request.known += count
    was_running = request.status == RUNNING
    if rules.asynchronous and not is_stale:
        request.placeholders -= count
    if was_running and (rules.asynchronous or rules.publishes_verified):
        kv_cache.publish(engine, index, min(request.computed - request.placeholders, request.known - 1))
    if request.known < rules.max_model_len and request.known - request.prompt < request.max_tokens:
        if not rules.asynchronous:
            request.drafts = rules.draft_tokens
        return False
    if was_running:
        kv_cache.release(engine, index)
    else:
        engine.state[0].num_waiting -= 1  # it stays in the heap, which drops ended requests at the front
        engine.state[0].num_deferred -= request.deferred
    end_request(engine, index, FINISHED, engine.state[0].now_s)
    return was_running


@inner
def _emit(engine, request):
    """Send new tokens to the client if stream_interval lets them go (OutputProcessor.make_request_output).

    Returns whether the gap since its last chunk is the engine's gap between two steps; any other gap is logged here.
    """
    state = engine.state[0]
    outputs = request.known - request.prompt
    if request.sent == 0:
        request.first_token_s = request.last_emission_s = state.now_s
        request.sent = outputs
        return False
    if request.status != FINISHED and outputs - request.sent < engine.rules[0].stream_interval:
        return False
    last_s = request.last_emission_s
    request.sent = outputs
    request.last_emission_s = state.now_s
    if request.vain > 0:
        return False
    if last_s == state.last_emission_s:
        return True
    _log_gap(engine, state.now_s - last_s, 1)
    return False


@inner
def _log_gap(engine, gap_s, requests):
    gap = engine.gap_log[engine.state[0].logged_gaps]
    gap.gap_s, gap.count = gap_s, requests
    engine.state[0].logged_gaps += 1


@inner
def _drop_ended(engine):
    state = engine.state[0]
    kept = 0
    for place in range(state.num_running):
        index = engine.running[place]
        if engine.requests[index].status == RUNNING:
            engine.running[kept] = index
            kept += 1
    state.num_running = kept
