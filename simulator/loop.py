"""The step loop of one engine: arrivals, schedule, time, outputs. Compiled.

The order of events is that of vLLM's EngineCore (vllm/v1/engine/core.py, step and step_with_batch_queue): arrivals join
at a step boundary; with asynchronous scheduling or pipeline stages the next step is scheduled before the last one ends.
"""

from numba import njit

from . import kv_cache, policies, queue, scheduler
from .features import TOTALS, add_row
from .outcome import end_request
from .state import (
    FAILED,
    FINISHED,
    FINISHED_SINCE,
    FIRST_IN_FLIGHT,
    FREE_BLOCKS,
    HEAP_SIZE,
    LAST_EMISSION,
    NEXT_ARRIVAL,
    NOW,
    NUM_ARRIVALS,
    NUM_EXTRAPOLATED,
    NUM_FINISHED,
    NUM_IN_FLIGHT,
    NUM_PREEMPTED,
    NUM_ROWS,
    NUM_RUNNING,
    NUM_STEPS,
    NUM_WAITING,
    REJECTED,
    RUNNING,
    VLLM_V0,
    VLLM_V1,
    WAITING,
)
from .step_time import is_extrapolated, step_time_s

# Why `advance` came back.
IDLE, HORIZON, LOG_FULL, REQUEST_ENDED = range(4)


@njit(cache=True)
def advance(rules, model, requests, contents, engine, memo, totals, horizon_s, stop_after, record):
    """Run the engine as far as its arrivals are known: those up to `horizon_s`.

    Returns why it stopped: nothing left to do, its next decision lies beyond the horizon, the log must be emptied, or
    `stop_after` requests have ended.
    """
    count, clock = engine.count, engine.clock
    while True:
        if _log_is_full(engine, record):
            return LOG_FULL
        if clock[NOW] > horizon_s:
            return HORIZON
        if count[NUM_FINISHED] >= stop_after:
            return REQUEST_ENDED
        _admit_arrivals(rules, requests, engine)
        if not has_work(engine):
            if count[NEXT_ARRIVAL] == count[NUM_ARRIVALS]:
                return IDLE
            ready_s = requests.ready_s[engine.arrivals[count[NEXT_ARRIVAL]]]
            if ready_s > horizon_s:
                return HORIZON
            clock[NOW] = ready_s
            continue
        if _has_requests(engine):
            rows = _schedule(rules, model, requests, contents, engine, memo, totals, record)
            if rows == 0 and count[NUM_PREEMPTED] == 0:
                _fail_stuck(requests, engine)
            if count[NUM_IN_FLIGHT] < rules.depth and (rows > 0 or _has_requests(engine)):
                continue
        _end_step(rules, requests, contents, engine)


@njit(cache=True)
def has_work(engine):
    """Whether anything is queued, running or in flight."""
    return _has_requests(engine) or engine.count[NUM_IN_FLIGHT] > 0


@njit(cache=True, inline="always")
def _has_requests(engine):
    """Scheduler.has_requests: also true for one more, empty schedule after a request finished."""
    count = engine.count
    return count[NUM_RUNNING] > 0 or count[NUM_WAITING] > 0 or count[FINISHED_SINCE] > 0


@njit(cache=True)
def _admit_arrivals(rules, requests, engine):
    count = engine.count
    while count[NEXT_ARRIVAL] < count[NUM_ARRIVALS]:
        request = engine.arrivals[count[NEXT_ARRIVAL]]
        if requests.ready_s[request] > engine.clock[NOW]:
            break
        count[NEXT_ARRIVAL] += 1
        if _is_refused(rules, requests, engine, request):
            end_request(requests, engine, request, REJECTED, requests.ready_s[request])
        else:
            requests.status[request] = WAITING
            queue.append(rules, requests, engine, request)


@njit(cache=True)
def _is_refused(rules, requests, engine, request):
    """Prompts that can never run, and load shedding.

    Sources: InputProcessor (vllm/v1/engine/input_processor.py) for max_model_len; AsyncLLM's admission check
    (vllm/v1/engine/async_llm.py) for max_num_queued_*. A prompt larger than the whole KV cache, or than the budget
    where prompts are not chunked, would block vLLM's queue for ever; here it is refused.
    """
    prompt = requests.prompt[request]
    whole_prompts = rules.policy == VLLM_V0 or (rules.policy == VLLM_V1 and not rules.chunked_prefill)
    if prompt >= rules.max_model_len or kv_cache.exceeds_cache(rules, prompt):
        return True
    if whole_prompts and prompt > rules.token_budget:
        return True
    unfinished = engine.count[NUM_RUNNING] + engine.count[NUM_WAITING]
    if 0 < rules.max_queued_reqs < unfinished + 1:
        return True
    return 0 < rules.max_queued_tokens <= _prefill_tokens(requests, engine)


@njit(cache=True)
def _prefill_tokens(requests, engine):
    """Prompt tokens of the requests that have sent nothing yet (AsyncLLM.get_num_queued_tokens)."""
    tokens = 0
    for k in range(engine.count[HEAP_SIZE]):
        tokens += requests.prompt[engine.heap[k]] * (requests.sent[engine.heap[k]] == 0)
    for k in range(engine.count[NUM_RUNNING]):
        tokens += requests.prompt[engine.running[k]] * (requests.sent[engine.running[k]] == 0)
    return tokens


@njit(cache=True)
def _schedule(rules, model, requests, contents, engine, memo, totals, record):
    """Schedule one step and put it in flight; returns its number of rows."""
    count, clock = engine.count, engine.clock
    count[NUM_ROWS] = count[NUM_PREEMPTED] = 0
    if rules.policy == VLLM_V1:
        scheduler.schedule(rules, requests, contents, engine)
    else:
        policies.schedule(rules, requests, contents, engine)
    count[FINISHED_SINCE] = 0
    rows, entry = count[NUM_ROWS], scheduler.next_entry(engine)
    start_s = max(clock[NOW], engine.stage_free_s[0])
    end_s = start_s
    if rows > 0:
        _add_rows(rules, requests, engine, totals, entry, rows)
        end_s = _run_stages(engine, start_s, step_time_s(model, totals, memo))
        count[NUM_STEPS] += 1
        count[NUM_EXTRAPOLATED] += is_extrapolated(model, totals)
        if record:
            _record_step(engine, entry, rows, start_s, end_s)
    engine.flight.rows[entry] = rows
    engine.flight.end_s[entry] = end_s
    count[NUM_IN_FLIGHT] += 1
    return rows


@njit(cache=True)
def _add_rows(rules, requests, engine, totals, entry, rows):
    """Sum the step's rows into `totals` and advance the requests (Scheduler._update_after_schedule)."""
    flight = engine.flight
    totals[:TOTALS] = 0.0
    for row in range(rows):
        request, tokens = flight.request[entry, row], flight.tokens[entry, row]
        add_row(totals, tokens, flight.context[entry, row])
        requests.computed[request] += tokens
        requests.in_flight[request] += tokens
        if rules.asynchronous and flight.samples[entry, row]:
            requests.placeholders[request] += 1


@njit(cache=True)
def _run_stages(engine, start_s, step_s):
    """Pass a step through the pipeline stages, each taking an equal share and one step at a time; returns its end."""
    stages = len(engine.stage_free_s)
    end_s = start_s
    for stage in range(stages):
        end_s = max(end_s, engine.stage_free_s[stage]) + step_s / stages
        engine.stage_free_s[stage] = end_s
    return end_s


@njit(cache=True)
def _record_step(engine, entry, rows, start_s, end_s):
    log, flight, count = engine.log, engine.flight, engine.count
    step, first = log.counts[0], log.counts[1]
    log.start_s[step], log.end_s[step] = start_s, end_s
    log.free_blocks[step] = count[FREE_BLOCKS]
    for row in range(rows):
        log.request[first + row] = flight.request[entry, row]
        log.tokens[first + row] = flight.tokens[entry, row]
        log.context[first + row] = flight.context[entry, row]
    for k in range(count[NUM_PREEMPTED]):
        log.preempted[log.counts[2] + k] = engine.preempted[k]
    log.counts[0] += 1
    log.counts[1] += rows
    log.counts[2] += count[NUM_PREEMPTED]
    log.row_end[step], log.preempted_end[step] = log.counts[1], log.counts[2]


@njit(cache=True)
def _log_is_full(engine, record):
    """Whether the next step might not fit into what is left of the log."""
    log, seats = engine.log, len(engine.running)
    if log.counts[3] + seats + 1 > len(log.gap_s):
        return True
    if not record:
        return False
    rows_left = len(log.request) - max(log.counts[1], log.counts[2])
    return log.counts[0] == len(log.start_s) or rows_left < seats


@njit(cache=True)
def _fail_stuck(requests, engine):
    """Nothing runs, nothing is in flight, and the first in the queue does not fit into an empty cache: it never will."""
    for entry in range(len(engine.flight.rows)):
        if engine.flight.rows[entry] > 0:
            return
    request = queue.peek(requests, engine)
    if engine.count[NUM_RUNNING] == 0 and request >= 0:
        queue.pop(requests, engine)
        end_request(requests, engine, request, FAILED, engine.clock[NOW])


@njit(cache=True)
def _end_step(rules, requests, contents, engine):
    """Scheduler.update_from_output for the step that has been in flight longest."""
    flight, count, clock = engine.flight, engine.count, engine.clock
    entry = count[FIRST_IN_FLIGHT]
    clock[NOW] = max(clock[NOW], flight.end_s[entry])
    count[FIRST_IN_FLIGHT] = (entry + 1) % rules.depth
    count[NUM_IN_FLIGHT] -= 1
    rows = flight.rows[entry]
    flight.rows[entry] = together = stopped = 0
    for row in range(rows):
        request, tokens = flight.request[entry, row], flight.tokens[entry, row]
        requests.in_flight[request] -= tokens
        is_stale = requests.stale[request] > 0
        if is_stale:
            requests.stale[request] -= tokens
        if flight.samples[entry, row] and requests.status[request] < FINISHED:
            stopped += _add_token(rules, requests, contents, engine, request, is_stale)
            together += _emit(rules, requests, engine, request)
    if together > 0:
        _log_gap(engine, clock[NOW] - clock[LAST_EMISSION], together)
    if rows > 0:
        clock[LAST_EMISSION] = clock[NOW]
    if stopped > 0:
        _drop_finished(requests, engine)


@njit(cache=True)
def _add_token(rules, requests, contents, engine, request, is_stale):
    """A sampled token arrives; returns whether the request is now done and was running (check_stop in sched/utils.py)."""
    requests.known[request] += 1
    was_running = requests.status[request] == RUNNING
    if rules.asynchronous and not is_stale:
        requests.placeholders[request] -= 1
    if rules.asynchronous and was_running:
        certain = requests.computed[request] - requests.placeholders[request]
        kv_cache.publish(rules, requests, contents, engine.pool, request, certain)
    known, outputs = requests.known[request], requests.known[request] - requests.prompt[request]
    if known < rules.max_model_len and outputs < requests.max_tokens[request]:
        return False
    if was_running:
        kv_cache.release(rules, requests, engine, request)
    else:
        engine.count[NUM_WAITING] -= 1  # it stays in the heap, which drops finished requests at the front
    end_request(requests, engine, request, FINISHED, engine.clock[NOW])
    return was_running


@njit(cache=True)
def _emit(rules, requests, engine, request):
    """Send the request's new tokens to the client if stream_interval lets them go (OutputProcessor.make_request_output).

    Returns whether the gap since its last chunk is the engine's gap between two steps; any other gap is logged here.
    """
    now_s = engine.clock[NOW]
    outputs = requests.known[request] - requests.prompt[request]
    last_s = requests.last_emission_s[request]
    if requests.sent[request] == 0:
        requests.first_token_s[request] = now_s
    elif requests.status[request] != FINISHED and outputs - requests.sent[request] < rules.stream_interval:
        return False
    first = requests.sent[request] == 0
    requests.sent[request] = outputs
    requests.last_emission_s[request] = now_s
    if first:
        return False
    if last_s == engine.clock[LAST_EMISSION]:
        return True
    _log_gap(engine, now_s - last_s, 1)
    return False


@njit(cache=True)
def _log_gap(engine, gap_s, requests):
    log = engine.log
    log.gap_s[log.counts[3]] = gap_s
    log.gap_count[log.counts[3]] = requests
    log.counts[3] += 1


@njit(cache=True)
def _drop_finished(requests, engine):
    kept = 0
    for index in range(engine.count[NUM_RUNNING]):
        request = engine.running[index]
        if requests.status[request] == RUNNING:
            engine.running[kept] = request
            kept += 1
    engine.count[NUM_RUNNING] = kept
