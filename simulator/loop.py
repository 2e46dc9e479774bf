"""The step loop of one engine: arrivals, schedule, time, outputs. Compiled.

The order of events is that of vLLM's EngineCore (vllm/v1/engine/core.py, step and step_with_batch_queue): arrivals join
at a step boundary; with asynchronous scheduling or pipeline stages the next step is scheduled before the last one ends.
"""

from . import kv_cache, policies, queue, scheduler
from .clock import tick
from .compiled import entry, inner
from .features import PREFILL_ROWS, add_row
from .outcome import end_request
from .request_table import FAILED, FINISHED, REJECTED
from .state import RUNNING, VLLM_V0, WAITING
from .step_time import COUNTS_DRAFTS, reach_of, step_time_s

# Why `advance` came back.
IDLE, HORIZON, LOG_FULL, REQUEST_ENDED, DIED = range(5)


@entry
def advance(engine, model, memo, totals, horizon_s, stop_after, record, compared_policy):
    """Run the engine as far as its arrivals are known: those up to `horizon_s`.

    Returns why it stopped (nothing left to do, its next decision lies beyond the horizon, the log must be emptied,
    `stop_after` requests have ended, or the engine dies before its next step ends), and when it decides next. `memo`
    and `totals` are scratch space of the step-time model. `compared_policy` is None for vLLM's V1 scheduler: numba then
    leaves the code of the other policies out, which need not be compiled.
    """
    state = engine.state[0]
    while True:
        if _log_is_full(engine, record):
            return LOG_FULL, state.now_s
        if state.now_s > horizon_s:
            return HORIZON, state.now_s
        if state.num_ended >= stop_after:
            return REQUEST_ENDED, state.now_s
        _admit_arrivals(engine, state.now_s)
        if not _has_work(engine):
            if state.next_arrival == state.num_arrivals:
                return IDLE, state.now_s
            ready_s = engine.requests[engine.arrivals[state.next_arrival]].ready_s
            if ready_s > state.dies_s:
                return DIED, state.now_s
            if ready_s > horizon_s:
                return HORIZON, ready_s
            state.now_s = ready_s
            continue
        has_room = state.num_in_flight < engine.rules[0].depth and state.holds == 0  # none is free before it dies
        if has_room and _has_requests(engine):
            rows = _schedule(engine, compared_policy)
            _launch(engine, model, memo, totals, rows, record)
            if rows == 0 and state.num_preempted == 0:
                _fail_stuck(engine)
            if state.num_in_flight < engine.rules[0].depth and (rows > 0 or _schedules_again(engine)):
                continue
        if engine.flights[state.first_in_flight].end_s > state.dies_s:
            return DIED, state.now_s
        if engine.rules[0].max_queued_reqs > 0 or engine.rules[0].max_queued_tokens > 0:
            end_s = engine.flights[state.first_in_flight].end_s
            state.holds = end_s > horizon_s
            if state.holds:
                return HORIZON, end_s
            _admit_arrivals(engine, end_s)  # shed by what the client knows then
        _end_step(engine)


@entry
def admit_arrivals(engine, until_s):
    """Let in, or refuse, what has reached a busy engine by `until_s`: at once, as its API server does, and not when the
    step in flight ends. An idle one begins with it then (`advance`)."""
    if engine.state[0].holds or engine.state[0].now_s >= until_s:
        _admit_arrivals(engine, until_s)


@entry
def mark_never_served(engine, never):
    """Set in `never` (requests,) which ones the engine will refuse whenever they get there."""
    for index in range(len(never)):
        never[index] = _cannot_run(engine, engine.requests[index])


@inner
def _has_work(engine):
    """Whether anything is queued, running or in flight."""
    return _has_requests(engine) or engine.state[0].num_in_flight > 0


@inner
def _has_requests(engine):
    """Scheduler.has_requests: also true for one more, empty schedule after a request finished."""
    state = engine.state[0]
    return state.num_running > 0 or state.num_waiting > 0 or state.ended_since > 0


@inner
def _schedules_again(engine):
    """Whether the engine schedules ahead after a schedule without rows."""
    return engine.rules[0].schedules_past_empty and _has_requests(engine)


@inner
def _admit_arrivals(engine, until_s):
    state = engine.state[0]
    while state.next_arrival < state.num_arrivals:
        index = engine.arrivals[state.next_arrival]
        request = engine.requests[index]
        if request.ready_s > until_s:
            break
        state.next_arrival += 1
        if _is_refused(engine, request):
            end_request(engine, index, REJECTED, request.ready_s)
        else:
            request.status = WAITING
            queue.append(engine, index)


@inner
def _is_refused(engine, request):
    """Whether the engine refuses the request: it can never run, asks for more than max_model_len, or is too many.

    Sources: InputProcessor (vllm/v1/engine/input_processor.py) and, for the tokens asked for, TokenizeParams
    (vllm/renderers/params.py) for max_model_len; AsyncLLM's admission check (vllm/v1/engine/async_llm.py) for
    max_num_queued_*. A prompt larger than the whole KV cache would block vLLM's queue for ever; here it is refused.
    What may not be chunked and is larger than the budget waits, as in vLLM: a part of it may be in the prefix cache
    when it comes to the front (`_fail_stuck`).
    """
    rules, state = engine.rules[0], engine.state[0]
    if _cannot_run(engine, request):
        return True
    if 0 < rules.max_queued_reqs < state.num_running + state.num_waiting + 1:
        return True
    return 0 < rules.max_queued_tokens <= _prefill_tokens(engine)


@inner
def _cannot_run(engine, request):
    rules = engine.rules[0]
    if request.prompt >= rules.max_model_len or request.max_tokens > rules.max_model_len:
        return True
    if not rules.cuts_long_answers and request.prompt + request.max_tokens > rules.max_model_len:
        return True
    if kv_cache.exceeds_cache(engine, request.prompt):
        return True
    return rules.policy == VLLM_V0 and request.prompt > rules.token_budget


@inner
def _prefill_tokens(engine):
    """Prompt tokens of the requests that have sent nothing yet (AsyncLLM.get_num_queued_tokens)."""
    tokens = 0
    for k in range(engine.state[0].heap_size):
        request = engine.requests[engine.heap[k]]
        tokens += request.prompt * (request.sent == 0)
    for k in range(engine.state[0].num_running):
        request = engine.requests[engine.running[k]]
        tokens += request.prompt * (request.sent == 0)
    return tokens


@inner
def _schedule(engine, compared_policy):
    """Let the policy take the rows of one step; returns their number."""
    state = engine.state[0]
    state.num_rows = state.num_preempted = 0
    if compared_policy is None:
        scheduler.schedule(engine)
    else:
        policies.schedule(engine, compared_policy)
    state.ended_since = 0
    return state.num_rows


@inner
def _launch(engine, model, memo, totals, rows, record):
    """Put the scheduled step in flight: how long it takes, and when it ends."""
    state, flight = engine.state[0], engine.flights[scheduler.next_flight(engine)]
    start_s = max(state.now_s, engine.stage_free_s[0])
    if len(engine.stage_free_s) > 1:
        start_s = max(start_s, _inputs_known_s(engine, rows))
    flight.rows = rows
    flight.end_s = start_s
    if rows > 0:
        _sum_rows(engine, totals, rows, memo[COUNTS_DRAFTS])
        flight.end_s = _run_stages(engine, start_s, step_time_s(model, totals, memo))
        _note_samples(engine, rows, flight.end_s)
        if flight.end_s <= state.dies_s:
            engine.reaches[int(totals[PREFILL_ROWS] > 0), reach_of(model, totals)] += 1
        if record and flight.end_s <= state.dies_s:
            _record_step(engine, rows, start_s, flight.end_s)
    state.num_in_flight += 1


@inner
def _sum_rows(engine, totals, rows, counts_drafts):
    """Sum the step's rows into `totals` and advance the requests (Scheduler._update_after_schedule)."""
    place, rules = scheduler.next_flight(engine), engine.rules[0]
    totals[:] = 0.0
    for k in range(rows):
        row = engine.rows[place, k]
        request = engine.requests[row.request]
        add_row(totals, row.tokens, row.context, row.drafts * counts_drafts)
        request.computed += row.tokens
        request.in_flight += row.tokens
        request.prefilling = not row.samples
        if rules.asynchronous and row.samples:
            request.placeholders += 1 + row.drafts
            request.drafts = rules.draft_tokens
            request.eligible = engine.state[0].schedule + rules.decode_stagger


@inner
def _run_stages(engine, start_s, step_s):
    """Pass a step through the pipeline stages, each taking an equal share and one step at a time; returns its end."""
    stages = len(engine.stage_free_s)
    end_s = start_s
    for stage in range(stages):
        end_s = tick(max(end_s, engine.stage_free_s[stage]) + step_s / stages)
        engine.stage_free_s[stage] = end_s
    return end_s


@inner
def _inputs_known_s(engine, rows):
    """When the tokens from which the step's decodes start are there: the first stage waits for what the last one
    sampled, however early the step was scheduled (get_prev_sampled_outputs in vllm/v1/worker/gpu/pp_utils.py)."""
    place, known_s = scheduler.next_flight(engine), 0.0
    for k in range(rows):
        known_s = max(known_s, engine.requests[engine.rows[place, k].request].sampled_s)
    return known_s


@inner
def _note_samples(engine, rows, end_s):
    place = scheduler.next_flight(engine)
    if len(engine.stage_free_s) > 1:
        for k in range(rows):
            row = engine.rows[place, k]
            if row.samples:
                engine.requests[row.request].sampled_s = end_s


@inner
def _record_step(engine, rows, start_s, end_s):
    state, place = engine.state[0], scheduler.next_flight(engine)
    for k in range(rows):
        engine.row_log[state.logged_rows + k] = engine.rows[place, k]
    for k in range(state.num_preempted):
        engine.preempted_log[state.logged_preempted + k] = engine.preempted[k]
    state.logged_rows += rows
    state.logged_preempted += state.num_preempted
    step = engine.step_log[state.logged_steps]
    step.start_s, step.end_s, step.free_blocks = start_s, end_s, state.free_blocks
    step.row_end, step.preempted_end = state.logged_rows, state.logged_preempted
    state.logged_steps += 1


@inner
def _log_is_full(engine, record):
    """Whether the next step might not fit into what is left of the log."""
    state, seats = engine.state[0], len(engine.running)
    if state.logged_gaps + seats + 1 > len(engine.gap_log):
        return True
    if not record:
        return False
    rows_left = len(engine.row_log) - max(state.logged_rows, state.logged_preempted)
    return state.logged_steps == len(engine.step_log) or rows_left < seats


@inner
def _fail_stuck(engine):
    """Fail the first request in the queue where nothing runs or is in flight: it does not fit into an empty cache."""
    state = engine.state[0]
    for place in range(len(engine.flights)):
        if engine.flights[place].rows > 0:
            return
    index = queue.peek(engine)
    if state.num_running == 0 and index >= 0:
        queue.pop(engine)
        end_request(engine, index, FAILED, state.now_s)


@inner
def _end_step(engine):
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
