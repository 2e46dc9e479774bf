"""The step loop of one engine: arrivals (admission.py), schedule, time, outputs (outputs.py). Compiled.

The order of events is that of vLLM's EngineCore (vllm/v1/engine/core.py, step and step_with_batch_queue): arrivals join
at a step boundary; with asynchronous scheduling or pipeline stages the next step is scheduled before the last one ends.
"""

from . import admission, outputs, policies, queue, scheduler
from .clock import tick
from .compiled import entry, inner
from .features import PREFILL_ROWS, add_row
from .outcome import end_request
from .request_table import FAILED
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
        admission.admit(engine, state.now_s)
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
            admission.admit(engine, end_s)  # shed by what the client knows then
        outputs.end_step(engine)


@entry
def admit_arrivals(engine, until_s):
    """Let in, or refuse, what has reached a busy engine by `until_s`: at once, as its API server does, and not when the
    step in flight ends. An idle one begins with it then (`advance`)."""
    if engine.state[0].holds or engine.state[0].now_s >= until_s:
        admission.admit(engine, until_s)


@entry
def mark_never_served(engine, never):
    """Set in `never` (requests,) which ones the engine will refuse whenever they get there."""
    for index in range(len(never)):
        never[index] = admission.cannot_run(engine, engine.requests[index])


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
