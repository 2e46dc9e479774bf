"""Which requests an engine lets in when they reach it. Compiled."""

from . import kv_cache, queue
from .compiled import inner
from .outcome import end_request
from .request_table import REJECTED
from .state import VLLM_V0, WAITING


@inner
def admit(engine, until_s):
    """Let in, or refuse, what has reached the engine by `until_s`."""
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
    if cannot_run(engine, request):
        return True
    if 0 < rules.max_queued_reqs < state.num_running + state.num_waiting + 1:
        return True
    return 0 < rules.max_queued_tokens <= _prefill_tokens(engine)


@inner
def cannot_run(engine, request):
    """Whether the engine refuses the request whenever it comes."""
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
