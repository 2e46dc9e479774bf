"""vLLM's V1 scheduler: which requests compute how many tokens in the next step. Compiled.

Source of every rule: vllm/v1/core/sched/scheduler.py, Scheduler.schedule, and async_scheduler.py.
A step's rows are written into the next free entry of engine.rows, in the order in which they are taken.
"""

from . import kv_cache, queue
from .compiled import inner
from .outcome import end_request
from .request_table import FAILED
from .state import PREEMPTED, RUNNING

MOST_FRUITLESS = 10_000
"""Preemptions without a token sampled. Each of the running requests may be preempted once while prompts are computed,
and no engine has so many seats."""


@inner
def schedule(engine):
    """One call of Scheduler.schedule: running requests first, then waiting ones unless one was preempted."""
    state = engine.state[0]
    state.schedule += 1
    state.defers_prefills = _defers_prefills(engine)
    threshold = _long_prefill_threshold(engine)
    budget = _schedule_running(engine, threshold)
    if state.num_preempted == 0:
        _schedule_waiting(engine, threshold, budget)
        if not state.defers_prefills:
            state.capacity_bound = state.num_waiting > state.num_deferred
    state.executed += state.num_rows > 0
    if state.prefill_scheduled or state.prefill_admitted:
        state.last_prefill = state.executed


@inner
def _defers_prefills(engine):
    """Whether decodes have the step to themselves: fewer than prefill_schedule_interval steps since one with a prefill,
    and something decodes. Not while requests are left waiting whenever they are let in."""
    state, interval = engine.state[0], engine.rules[0].prefill_interval
    if interval == 1 or state.capacity_bound or state.executed + 1 - state.last_prefill >= interval:
        return False
    decoding = 0
    for place in range(state.num_running):
        decoding += not engine.requests[engine.running[place]].prefilling
    return decoding > 0


@inner
def _long_prefill_threshold(engine):
    """long_prefill_token_threshold, off for a request that is alone (VersionRules), and its adaptive floor."""
    rules, state = engine.rules[0], engine.state[0]
    eligible = state.num_running + state.num_waiting
    threshold = rules.long_prefill_token_threshold
    if eligible == 0 or (eligible == 1 and rules.spares_lone_request):
        threshold = 0
    if threshold > 0 and rules.adaptive_threshold:
        threshold = max(threshold, rules.input_budget // eligible)
    return threshold


@inner
def _schedule_running(engine, threshold):
    """Rows for running requests, in order of admission; returns the token budget that is left."""
    state = engine.state[0]
    budget = engine.rules[0].token_budget
    state.cursor = state.prefill_scheduled = state.prefill_admitted = 0
    while state.cursor < state.num_running and _room(engine, budget) > 0:
        index = engine.running[state.cursor]
        tokens = _running_tokens(engine, index, threshold, _room(engine, budget))
        if tokens > 0:
            fits = make_room(engine, index, tokens)
            budget += state.restored_tokens
            if not fits and engine.rules[0].by_priority and engine.rules[0].scans_past_own_preemption:
                continue
            if not fits:
                break
            state.prefill_scheduled |= engine.requests[index].prefilling
            _compute(engine, index, tokens)
            budget -= tokens
        state.cursor += 1
    state.num_running_rows = state.num_rows
    return budget


@inner
def _room(engine, budget):
    """Tokens that the next row may have: what is left of the token budget, and of the input budget, in which every row
    also takes the drafter's own slots."""
    rules = engine.rules[0]
    taken = rules.token_budget - budget
    slots = (engine.state[0].num_rows + 1) * rules.draft_slots
    return min(budget, rules.input_budget - taken - slots)


@inner
def _running_tokens(engine, index, threshold, room):
    request = engine.requests[index]
    placeholders = request.placeholders
    if placeholders > 0 and request.computed + 2 - placeholders >= request.prompt + request.max_tokens:
        return 0  # the step in flight surely makes the last token
    if engine.state[0].schedule < request.eligible:
        return 0  # the pipeline's first stage has its last token only later
    if engine.state[0].defers_prefills and request.prefilling:
        return 0
    tokens = request.known + request.drafts + placeholders - request.computed
    if 0 < threshold < tokens:
        tokens = threshold
    return min(tokens, room, engine.rules[0].max_model_len - request.computed - 1)


@inner
def make_room(engine, index, tokens):
    """Blocks for `tokens` more tokens of the running request at state.cursor, preempting others as long as they are
    missing; returns whether there is room.

    The cursor follows the request; state.restored_tokens is the budget given back by preempted rows of this step.
    """
    request, state = engine.requests[index], engine.state[0]
    target = min(request.computed + tokens + engine.rules[0].lookahead_tokens, engine.rules[0].max_model_len)
    need = kv_cache.missing_blocks(engine, index, target)
    state.restored_tokens = 0
    while need > state.free_blocks:
        place = _victim(engine)
        victim = engine.running[place]
        _remove_running(engine, place)
        if engine.rules[0].by_priority:
            cancelled = _cancel_row(engine, victim)
            state.restored_tokens += cancelled
            state.cursor -= place < state.cursor if engine.rules[0].keeps_place else cancelled > 0
        _preempt(engine, victim, _is_hopeless(engine, victim, victim == index))
        if victim == index:
            return False
    if need > 0:
        kv_cache.grow(engine, index, need)
    return True


@inner
def _is_hopeless(engine, index, preempts_itself):
    """Whether a preempted request can never run again: what it knows outgrows the whole cache, or requests preempt each
    other without a token coming of it. vLLM would try for ever."""
    request, rules = engine.requests[index], engine.rules[0]
    whole = min(request.known + rules.admission_lookahead, rules.max_model_len)
    return (preempts_itself and kv_cache.exceeds_cache(engine, whole)) or engine.state[0].fruitless > MOST_FRUITLESS


@inner
def _victim(engine):
    """Place in running of the request to preempt: the last, or under PRIORITY the greatest (priority, arrival)."""
    last = engine.state[0].num_running - 1
    if not engine.rules[0].by_priority:
        return last
    worst = 0
    for place in range(1, last + 1):
        one, other = engine.requests[engine.running[place]], engine.requests[engine.running[worst]]
        later = one.priority == other.priority and one.stamp_s > other.stamp_s
        if one.priority > other.priority or later:
            worst = place
    return worst


@inner
def _remove_running(engine, place):
    state = engine.state[0]
    state.num_running -= 1
    for k in range(place, state.num_running):
        engine.running[k] = engine.running[k + 1]


@inner
def _preempt(engine, index, is_hopeless):
    """Scheduler._preempt_request: blocks freed, nothing computed, outputs kept, back to the front of the queue, or
    failed where it is hopeless."""
    request, state = engine.requests[index], engine.state[0]
    kv_cache.release(engine, index)
    request.computed = 0
    if engine.rules[0].delivers_stale_output:
        request.stale = request.in_flight
        request.placeholders = 0
    request.drafts = 0
    request.preemptions += 1
    state.fruitless += 1
    if is_hopeless:
        end_request(engine, index, FAILED, state.now_s)
    else:
        request.status = PREEMPTED
        queue.prepend(engine, index)
    engine.preempted[state.num_preempted] = index
    state.num_preempted += 1


@inner
def _cancel_row(engine, index):
    """Take the request's row out of this step; returns its tokens, 0 if it has none."""
    state = engine.state[0]
    rows = engine.rows[next_flight(engine)]
    for k in range(state.num_rows):
        if rows[k].request == index:
            tokens = rows[k].tokens
            for behind in range(k + 1, state.num_rows):
                rows[behind - 1] = rows[behind]
            state.num_rows -= 1
            return tokens
    return 0


@inner
def _schedule_waiting(engine, threshold, budget):
    """Admit waiting requests while seats, budget and blocks last; the first that does not fit blocks the rest."""
    state = engine.state[0]
    state.num_skipped = 0
    while _room(engine, budget) > 0 and state.num_running < engine.rules[0].max_num_active_seqs:
        index = queue.peek(engine)
        if index < 0:
            break
        if engine.requests[index].stale > 0:  # its output in flight is delivered first
            queue.pop(engine)
            engine.skipped[state.num_skipped] = index
            state.num_skipped += 1
            state.num_deferred += 1 - engine.requests[index].deferred
            engine.requests[index].deferred = 1
            continue
        tokens = _admit(engine, index, threshold, _room(engine, budget))
        if tokens == 0:
            break
        budget -= tokens
    for k in range(state.num_skipped):
        queue.put_back(engine, engine.skipped[k])


@inner
def _admit(engine, index, threshold, room):
    """Admit the request at the front of the queue if it fits; returns the tokens of its first row, 0 if it does not."""
    rules = engine.rules[0]
    hits = evictable = 0
    if rules.caching:
        hits, evictable = kv_cache.count_hits(engine, index)
    computed = hits * rules.block_size
    tokens = engine.requests[index].known - computed
    if engine.state[0].defers_prefills and tokens > 1:
        return 0
    prefills = tokens > 1
    is_padded = tokens == 1 and _pads_drafts(engine, computed)
    if is_padded:
        tokens += rules.draft_tokens
        if tokens > room or computed + tokens > rules.max_model_len:
            return 0
    if 0 < threshold < tokens:
        tokens = threshold
    if not rules.chunked_prefill and tokens > room:
        return 0
    tokens = min(tokens, room)
    target = computed + tokens + rules.admission_lookahead
    if not _fits(engine, index, target, hits, evictable):
        return 0
    queue.pop(engine)
    engine.state[0].prefill_admitted |= prefills
    kv_cache.admit(engine, index, hits)
    blocks = kv_cache.blocks_for(engine, min(target, rules.max_model_len))
    kv_cache.grow(engine, index, max(blocks - hits, 0))
    seat(engine, index, computed)
    _compute(engine, index, tokens)
    engine.rows[next_flight(engine), engine.state[0].num_rows - 1].padded = is_padded
    return tokens


@inner
def _pads_drafts(engine, computed):
    """Whether an admitted request with one token to compute gets a row as wide as those that verify drafts, so that
    the step keeps its CUDA graph. Its drafts are padding."""
    rules, state = engine.rules[0], engine.state[0]
    if rules.draft_tokens == 0 or not rules.pads_admitted or state.prefill_scheduled:
        return False
    if rules.pads_what_fits and computed + rules.draft_tokens + 2 > rules.max_model_len:
        return False
    return state.num_running_rows > 0 or (rules.pads_after_hit and computed > 0)


@inner
def _fits(engine, index, target, hits, evictable):
    """Whether a waiting request gets its blocks (KVCacheManager.allocate_slots).

    With scheduler_reserve_full_isl all that it knows must fit, not just the first chunk. The watermark is kept free
    unless nothing runs.
    """
    rules, state = engine.rules[0], engine.state[0]
    watermark = rules.watermark_blocks if state.num_running > 0 else 0
    available = state.free_blocks - evictable - watermark
    if rules.reserve_full_isl:
        full = min(engine.requests[index].known, rules.max_model_len)
        if max(kv_cache.blocks_for(engine, full) - hits, 0) > available:
            return False
    return max(kv_cache.blocks_for(engine, min(target, rules.max_model_len)) - hits, 0) <= available


@inner
def seat(engine, index, computed):
    """Move an admitted request to the end of running, `computed` tokens of it found in the cache."""
    request, state = engine.requests[index], engine.state[0]
    engine.running[state.num_running] = index
    state.num_running += 1
    state.num_deferred -= request.deferred
    request.deferred = 0
    request.status = RUNNING
    request.computed = computed
    if request.cached < 0:
        request.cached = computed


@inner
def _compute(engine, index, tokens):
    """Take a row and publish the blocks that it will fill: others can hit them as soon as they are scheduled."""
    request = engine.requests[index]
    take_row(engine, index, tokens)
    if engine.rules[0].caching:
        kv_cache.publish(engine, index, request.computed + tokens)


@inner
def next_flight(engine):
    """Entry of the flight ring that the step being scheduled will use."""
    state = engine.state[0]
    place, places = state.first_in_flight + state.num_in_flight, len(engine.flights)
    return place - places if place >= places else place


@inner
def take_row(engine, index, tokens):
    """Add a row of `tokens` tokens on top of what the request has computed. It samples if it reaches the end of what
    the request knows; what lies beyond are drafts."""
    request, state = engine.requests[index], engine.state[0]
    row = engine.rows[next_flight(engine), state.num_rows]
    row.request = index
    row.tokens = tokens
    row.context = request.computed
    beyond = request.computed + tokens - request.known - request.placeholders
    row.samples = beyond >= 0
    row.drafts = max(beyond, 0)
    row.padded = False
    request.drafts = 0
    state.num_rows += 1
