"""vLLM's V1 scheduler: which requests compute how many tokens in the next step. Compiled.

Source of every rule: vllm/v1/core/sched/scheduler.py, Scheduler.schedule, and async_scheduler.py.
A step's rows are written into the next free entry of engine.flight, in the order in which they are taken.
"""

from numba import njit

from . import kv_cache, queue
from .outcome import end_request
from .state import (
    FAILED,
    FIRST_IN_FLIGHT,
    FREE_BLOCKS,
    NOW,
    NUM_IN_FLIGHT,
    NUM_PREEMPTED,
    NUM_ROWS,
    NUM_RUNNING,
    NUM_WAITING,
    PREEMPTED,
    RUNNING,
)


@njit(cache=True)
def schedule(rules, requests, contents, engine):
    """One call of Scheduler.schedule: running requests first, then waiting ones unless one was preempted."""
    threshold = _long_prefill_threshold(rules, engine)
    budget = _schedule_running(rules, requests, contents, engine, threshold)
    if engine.count[NUM_PREEMPTED] == 0:
        _schedule_waiting(rules, requests, contents, engine, threshold, budget)


@njit(cache=True)
def _long_prefill_threshold(rules, engine):
    """long_prefill_token_threshold, off for a request that is alone, and its adaptive floor."""
    eligible = engine.count[NUM_RUNNING] + engine.count[NUM_WAITING]
    threshold = rules.long_prefill_token_threshold if eligible > 1 else 0
    if threshold > 0 and rules.adaptive_threshold:
        threshold = max(threshold, rules.input_budget // eligible)
    return threshold


@njit(cache=True)
def _schedule_running(rules, requests, contents, engine, threshold):
    """Rows for running requests, in order of admission; returns the token budget that is left."""
    budget = rules.token_budget
    index = 0
    while index < engine.count[NUM_RUNNING] and budget > 0:
        request = engine.running[index]
        tokens = _running_tokens(rules, requests, request, threshold, budget)
        if tokens <= 0:
            index += 1
            continue
        index, restored, fits = make_room(rules, requests, engine, request, tokens, index)
        budget += restored
        if not fits:
            break
        _compute(rules, requests, contents, engine, request, tokens)
        budget -= tokens
        index += 1
    return budget


@njit(cache=True)
def _running_tokens(rules, requests, request, threshold, budget):
    computed, placeholders = requests.computed[request], requests.placeholders[request]
    target = requests.prompt[request] + requests.max_tokens[request]
    if placeholders > 0 and computed + 2 - placeholders >= target:
        return 0  # the step in flight surely makes the last token
    tokens = requests.known[request] + placeholders - computed
    if 0 < threshold < tokens:
        tokens = threshold
    return min(tokens, budget, rules.max_model_len - computed - 1)


@njit(cache=True)
def make_room(rules, requests, engine, request, tokens, index):
    """Blocks for `tokens` more tokens of a running request, preempting others as long as they are missing.

    Returns (the request's index now, token budget restored by preempting rows of this step, whether there is room).
    """
    target = min(requests.computed[request] + tokens, rules.max_model_len)
    need = max(kv_cache.blocks_for(rules, target) - requests.held[request], 0)
    restored = 0
    while need > engine.count[FREE_BLOCKS]:
        place = _victim(rules, requests, engine)
        victim = engine.running[place]
        _remove_running(engine, place)
        if rules.by_priority:
            index -= place < index
            restored += _cancel_row(requests, engine, victim)
        preempt(rules, requests, engine, victim, victim == request and kv_cache.exceeds_cache(rules, target))
        if victim == request:
            return index, restored, False
    kv_cache.grow(rules, requests, engine, request, need)
    return index, restored, True


@njit(cache=True)
def _victim(rules, requests, engine):
    """Index in running of the request to preempt: the last, or under PRIORITY the last in (priority, arrival)."""
    last = engine.count[NUM_RUNNING] - 1
    if not rules.by_priority:
        return last
    worst = 0
    for index in range(1, last + 1):
        one, other = engine.running[index], engine.running[worst]
        if requests.priority[one] > requests.priority[other] or (
            requests.priority[one] == requests.priority[other] and requests.ready_s[one] > requests.ready_s[other]
        ):
            worst = index
    return worst


@njit(cache=True)
def _remove_running(engine, place):
    engine.count[NUM_RUNNING] -= 1
    for index in range(place, engine.count[NUM_RUNNING]):
        engine.running[index] = engine.running[index + 1]


@njit(cache=True)
def preempt(rules, requests, engine, request, is_hopeless):
    """Scheduler._preempt_request: blocks freed, nothing computed any more, outputs kept, back to the front of the queue.

    A request that has outgrown the whole cache can never run again: it fails here, where vLLM would try for ever.
    """
    kv_cache.release(rules, requests, engine, request)
    requests.computed[request] = 0
    requests.stale[request] = requests.in_flight[request]
    requests.placeholders[request] = 0
    requests.preemptions[request] += 1
    if is_hopeless:
        end_request(requests, engine, request, FAILED, engine.clock[NOW])
    else:
        requests.status[request] = PREEMPTED
        queue.prepend(rules, requests, engine, request)
    engine.preempted[engine.count[NUM_PREEMPTED]] = request
    engine.count[NUM_PREEMPTED] += 1


@njit(cache=True)
def _cancel_row(requests, engine, request):
    """Take the request's row out of this step; returns its tokens, 0 if it has none."""
    flight, entry = engine.flight, next_entry(engine)
    rows = engine.count[NUM_ROWS]
    for row in range(rows):
        if flight.request[entry, row] == request:
            tokens = flight.tokens[entry, row]
            for k in range(row, rows - 1):
                flight.request[entry, k] = flight.request[entry, k + 1]
                flight.tokens[entry, k] = flight.tokens[entry, k + 1]
                flight.context[entry, k] = flight.context[entry, k + 1]
                flight.samples[entry, k] = flight.samples[entry, k + 1]
            engine.count[NUM_ROWS] -= 1
            return tokens
    return 0


@njit(cache=True)
def _schedule_waiting(rules, requests, contents, engine, threshold, budget):
    """Admit waiting requests while seats, budget and blocks last; the first that does not fit blocks the rest."""
    num_skipped = 0
    while budget > 0 and engine.count[NUM_RUNNING] < rules.max_num_active_seqs:
        request = queue.peek(requests, engine)
        if request < 0:
            break
        if requests.stale[request] > 0:  # its output in flight is delivered first
            queue.pop(requests, engine)
            engine.skipped[num_skipped] = request
            num_skipped += 1
            continue
        tokens = _admit(rules, requests, contents, engine, request, threshold, budget)
        if tokens == 0:
            break
        budget -= tokens
    for k in range(num_skipped):
        queue.push(requests, engine, engine.skipped[k])


@njit(cache=True)
def _admit(rules, requests, contents, engine, request, threshold, budget):
    """Admit `request` if it fits; returns the tokens of its first row, 0 if it does not fit."""
    hits = evictable = 0
    if rules.caching:
        hits, evictable = kv_cache.count_hits(rules, requests, contents, engine.pool, request)
    computed = hits * rules.block_size
    tokens = requests.known[request] - computed
    if 0 < threshold < tokens:
        tokens = threshold
    if not rules.chunked_prefill and tokens > budget:
        return 0
    tokens = min(tokens, budget)
    if not _fits(rules, requests, engine, request, computed + tokens, hits, evictable):
        return 0
    queue.pop(requests, engine)
    kv_cache.admit(rules, requests, contents, engine, request, hits)
    blocks = kv_cache.blocks_for(rules, min(computed + tokens, rules.max_model_len))
    kv_cache.grow(rules, requests, engine, request, max(blocks - hits, 0))
    seat(requests, engine, request, computed)
    _compute(rules, requests, contents, engine, request, tokens)
    return tokens


@njit(cache=True)
def _fits(rules, requests, engine, request, target, hits, evictable):
    """Whether a waiting request gets its blocks (KVCacheManager.allocate_slots).

    With scheduler_reserve_full_isl all that it knows must fit, not just the first chunk. The watermark is kept free
    unless nothing runs.
    """
    watermark = rules.watermark_blocks if engine.count[NUM_RUNNING] > 0 else 0
    available = engine.count[FREE_BLOCKS] - evictable - watermark
    if rules.reserve_full_isl:
        full = min(requests.known[request], rules.max_model_len)
        if max(kv_cache.blocks_for(rules, full) - hits, 0) > available:
            return False
    return max(kv_cache.blocks_for(rules, min(target, rules.max_model_len)) - hits, 0) <= available


@njit(cache=True)
def seat(requests, engine, request, computed):
    """Move an admitted request to the end of running, `computed` tokens of it found in the cache."""
    engine.running[engine.count[NUM_RUNNING]] = request
    engine.count[NUM_RUNNING] += 1
    requests.status[request] = RUNNING
    requests.computed[request] = computed
    if requests.cached[request] < 0:
        requests.cached[request] = computed


@njit(cache=True)
def _compute(rules, requests, contents, engine, request, tokens):
    """Take a row and publish the blocks that it will fill: others can hit them as soon as they are scheduled."""
    computed = requests.computed[request]
    take_row(requests, engine, request, tokens)
    kv_cache.publish(rules, requests, contents, engine.pool, request, min(computed + tokens, requests.known[request]))


@njit(cache=True, inline="always")
def next_entry(engine):
    """Entry of the flight ring that the step being scheduled will use."""
    return (engine.count[FIRST_IN_FLIGHT] + engine.count[NUM_IN_FLIGHT]) % len(engine.flight.end_s)


@njit(cache=True)
def take_row(requests, engine, request, tokens):
    """Add a row of `tokens` tokens on top of what the request has computed. It samples if it reaches the end of what
    the request knows."""
    flight, entry, row = engine.flight, next_entry(engine), engine.count[NUM_ROWS]
    computed = requests.computed[request]
    flight.request[entry, row] = request
    flight.tokens[entry, row] = tokens
    flight.context[entry, row] = computed
    flight.samples[entry, row] = computed + tokens >= requests.known[request] + requests.placeholders[request]
    engine.count[NUM_ROWS] += 1
