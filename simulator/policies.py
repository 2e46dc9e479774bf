"""The scheduling policies that the papers compare with, one function each. Compiled. No prefix cache, no overlap.

They share queue, rows, blocks and preemption with vLLM's V1 scheduler (scheduler.py) and differ in what is taken when.
"""

from . import kv_cache, queue
from .compiled import inner
from .outcome import end_request
from .request_table import FAILED
from .scheduler import make_room, seat, take_row
from .state import ORCA, SARATHI, VLLM_V0


@inner
def schedule(engine, policy):
    """Take the rows of the next step under `policy`."""
    if policy == SARATHI:
        _sarathi(engine)
    elif policy == VLLM_V0:
        _vllm_v0(engine)
    elif policy == ORCA:
        _orca(engine)
    else:
        _request_level(engine)


@inner
def _sarathi(engine):
    """Stall-free batching (Sarathi-Serve, arXiv 2403.02310, algorithm 3): all decodes, then ongoing prefills, then new
    requests in order while KV blocks for the whole prompt are free; a token budget bounds the prefill tokens."""
    state = engine.state[0]
    _decode_all(engine)
    budget = engine.rules[0].token_budget - state.num_rows
    for place in range(state.num_running):
        index = engine.running[place]
        if budget > 0 and not _is_decoding(engine.requests[index]):
            tokens = min(engine.requests[index].known - engine.requests[index].computed, budget)
            take_row(engine, index, tokens)
            budget -= tokens
    while budget > 0 and state.num_preempted == 0:
        tokens = _admit(engine, budget, False)
        if tokens == 0:
            break
        budget -= tokens


@inner
def _vllm_v0(engine):
    """vLLM before V1, without chunked prefill: whole prompts first, decodes wait meanwhile
    (vllm/core/scheduler.py of 0.4, Scheduler._schedule_default). What was preempted and has grown beyond the budget is
    given up (FINISHED_IGNORED, by prompt_limit)."""
    budget = engine.rules[0].token_budget
    while budget > 0:
        index = queue.peek(engine)
        if index >= 0 and engine.requests[index].known > engine.rules[0].token_budget:
            queue.pop(engine)
            end_request(engine, index, FAILED, engine.state[0].now_s)
            continue
        if index < 0 or engine.requests[index].known > budget:
            break
        tokens = _admit(engine, budget, False)
        if tokens == 0:
            break
        budget -= tokens
    if engine.state[0].num_rows == 0:
        _decode_all(engine)


@inner
def _orca(engine):
    """Iteration-level scheduling (Orca, OSDI'22): whole prompts join the running decodes; memory for the longest
    possible answer is reserved at admission, so nothing is preempted."""
    _decode_all(engine)
    while _admit(engine, engine.rules[0].max_model_len, True) > 0:
        pass


@inner
def _request_level(engine):
    """Request-level batching (FasterTransformer): a batch is formed only when the one before has run to its end."""
    if engine.state[0].num_running > 0:
        _decode_all(engine)
        return
    while _admit(engine, engine.rules[0].max_model_len, True) > 0:
        pass


@inner
def _is_decoding(request):
    return request.computed >= request.prompt and request.known - request.computed == 1


@inner
def _decode_all(engine):
    """A row for every decoding request; where blocks run out the last running request is preempted."""
    state = engine.state[0]
    state.cursor = 0
    while state.cursor < state.num_running:
        index = engine.running[state.cursor]
        if _is_decoding(engine.requests[index]):
            if not make_room(engine, index, 1):
                break
            take_row(engine, index, 1)
        state.cursor += 1


@inner
def _admit(engine, budget, reserves_answer):
    """Admit the first waiting request if a seat and KV blocks for its whole prompt (and answer) are free.

    Returns the tokens of its row, 0 if it is not admitted.
    """
    rules, state = engine.rules[0], engine.state[0]
    index = queue.peek(engine)
    if index < 0 or state.num_running >= rules.max_num_active_seqs:
        return 0
    request = engine.requests[index]
    length = request.prompt + request.max_tokens if reserves_answer else request.known
    blocks = kv_cache.blocks_for(engine, min(length, rules.max_model_len))
    watermark = rules.watermark_blocks if state.num_running > 0 else 0
    if blocks + watermark > state.free_blocks:
        return 0
    queue.pop(engine)
    kv_cache.admit(engine, index, 0)
    kv_cache.grow(engine, index, blocks)
    seat(engine, index, 0)
    tokens = min(request.known, budget)
    take_row(engine, index, tokens)
    return tokens
