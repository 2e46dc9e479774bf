"""The scheduling policies that the papers compare with, one function each. Compiled. No prefix cache, FCFS.

They share rows, blocks and preemption with vLLM's V1 scheduler (scheduler.py) and differ in what is taken when.
"""

from numba import njit

from . import kv_cache, queue
from .scheduler import make_room, seat, take_row
from .state import FREE_BLOCKS, NUM_PREEMPTED, NUM_ROWS, NUM_RUNNING, ORCA, SARATHI, VLLM_V0


@njit(cache=True)
def schedule(rules, requests, contents, engine):
    """Take the rows of the next step under rules.policy."""
    if rules.policy == SARATHI:
        _sarathi(rules, requests, contents, engine)
    elif rules.policy == VLLM_V0:
        _vllm_v0(rules, requests, contents, engine)
    elif rules.policy == ORCA:
        _orca(rules, requests, contents, engine)
    else:
        _request_level(rules, requests, contents, engine)


@njit(cache=True)
def _sarathi(rules, requests, contents, engine):
    """Stall-free batching (Sarathi-Serve, arXiv 2403.02310, algorithm 3): all decodes, then ongoing prefills, then new
    requests in order while KV blocks for the whole prompt are free; a token budget bounds the prefill tokens."""
    _decode_all(rules, requests, engine)
    budget = rules.token_budget - engine.count[NUM_ROWS]
    for index in range(engine.count[NUM_RUNNING]):
        request = engine.running[index]
        if budget > 0 and not _is_decoding(requests, request):
            tokens = min(requests.known[request] - requests.computed[request], budget)
            take_row(requests, engine, request, tokens)
            budget -= tokens
    while budget > 0 and engine.count[NUM_PREEMPTED] == 0:
        tokens = _admit(rules, requests, contents, engine, budget, 0)
        if tokens == 0:
            break
        budget -= tokens


@njit(cache=True)
def _vllm_v0(rules, requests, contents, engine):
    """vLLM before V1, without chunked prefill: whole prompts first, decodes wait meanwhile
    (vllm/core/scheduler.py of 0.4, Scheduler._schedule_default)."""
    budget = rules.token_budget
    while budget > 0:
        request = queue.peek(requests, engine)
        if request < 0 or requests.known[request] > budget:
            break
        tokens = _admit(rules, requests, contents, engine, budget, 0)
        if tokens == 0:
            break
        budget -= tokens
    if engine.count[NUM_ROWS] == 0:
        _decode_all(rules, requests, engine)


@njit(cache=True)
def _orca(rules, requests, contents, engine):
    """Iteration-level scheduling (Orca, OSDI'22): whole prompts join the running decodes; memory for the longest
    possible answer is reserved at admission, so nothing is preempted."""
    _decode_all(rules, requests, engine)
    while _admit(rules, requests, contents, engine, rules.max_model_len, 1) > 0:
        pass


@njit(cache=True)
def _request_level(rules, requests, contents, engine):
    """Request-level batching (FasterTransformer): a batch is formed only when the one before has run to its end."""
    if engine.count[NUM_RUNNING] > 0:
        _decode_all(rules, requests, engine)
        return
    while _admit(rules, requests, contents, engine, rules.max_model_len, 1) > 0:
        pass


@njit(cache=True, inline="always")
def _is_decoding(requests, request):
    computed = requests.computed[request]
    return computed >= requests.prompt[request] and requests.known[request] - computed == 1


@njit(cache=True)
def _decode_all(rules, requests, engine):
    """A row for every decoding request; where blocks run out the last running request is preempted."""
    index = 0
    while index < engine.count[NUM_RUNNING]:
        request = engine.running[index]
        if _is_decoding(requests, request):
            index, _, fits = make_room(rules, requests, engine, request, 1, index)
            if not fits:
                break
            take_row(requests, engine, request, 1)
        index += 1


@njit(cache=True)
def _admit(rules, requests, contents, engine, budget, reserve_answer):
    """Admit the first waiting request if a seat and KV blocks for its whole prompt (and answer) are free.

    Returns the tokens of its row, 0 if it is not admitted.
    """
    request = queue.peek(requests, engine)
    if request < 0 or engine.count[NUM_RUNNING] >= rules.max_num_active_seqs:
        return 0
    known = requests.known[request]
    length = requests.prompt[request] + requests.max_tokens[request] if reserve_answer else known
    blocks = kv_cache.blocks_for(rules, min(length, rules.max_model_len))
    watermark = rules.watermark_blocks if engine.count[NUM_RUNNING] > 0 else 0
    if blocks + watermark > engine.count[FREE_BLOCKS]:
        return 0
    queue.pop(requests, engine)
    kv_cache.admit(rules, requests, contents, engine, request, 0)
    kv_cache.grow(rules, requests, engine, request, blocks)
    seat(requests, engine, request, 0)
    tokens = min(known, budget)
    take_row(requests, engine, request, tokens)
    return tokens
