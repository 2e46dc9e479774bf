"""A fixed yardstick for the speed of a simulator: the shortest honest step loop in plain Python.

vLLM's V1 schedule without KV blocks, prefix cache, preemption, priorities or overlap: running requests first, then
waiting ones, under one token budget; a step's time is linear in what it computes. Where nothing runs short, slotune
with the same settings makes the same steps. It is never made faster: speed is told as a multiple of it.
"""

from collections import deque
from dataclasses import dataclass

from slotune.traces.trace import Trace


@dataclass(frozen=True, slots=True)
class LinearCost:
    """Seconds of a step: base + prefill tokens + decode rows + context tokens of all rows."""

    base_s: float
    prefill_token_s: float
    decode_row_s: float
    context_token_s: float


def run(trace: Trace, cost: LinearCost, budget: int, seats: int) -> tuple[int, list[float], list[float]]:
    """Serve `trace`; returns the number of steps and every request's first-token and finish time in seconds."""
    arrival_s, prompts, outputs = (
        column.tolist() for column in (trace.arrival_s, trace.input_tokens, trace.output_tokens)
    )
    first_s, finish_s = [0.0] * len(trace), [0.0] * len(trace)
    computed, made = [0] * len(trace), [0] * len(trace)
    waiting: deque[int] = deque()
    running: list[int] = []
    now_s, steps, arrived = 0.0, 0, 0
    while arrived < len(trace) or waiting or running:
        if not waiting and not running:
            now_s = max(now_s, arrival_s[arrived])
        while arrived < len(trace) and arrival_s[arrived] <= now_s:
            waiting.append(arrived)
            arrived += 1
        left, rows, step_s = budget, [], cost.base_s
        for request in running:
            if left == 0:
                break
            tokens = min(prompts[request] + made[request] - computed[request], left)
            left -= tokens
            rows.append((request, tokens))
        while waiting and left > 0 and len(running) < seats:
            request = waiting.popleft()
            tokens = min(prompts[request], left)
            left -= tokens
            running.append(request)
            rows.append((request, tokens))
        for request, tokens in rows:
            context = computed[request]
            per_token_s = cost.decode_row_s if tokens == 1 and context > 0 else cost.prefill_token_s
            step_s += tokens * per_token_s + context * cost.context_token_s
            computed[request] = context + tokens
        now_s += step_s
        steps += 1
        ended = False
        for request, _ in rows:
            if computed[request] == prompts[request] + made[request]:
                made[request] += 1
                if made[request] == 1:
                    first_s[request] = now_s
                if made[request] == outputs[request]:
                    finish_s[request] = now_s
                    ended = True
        if ended:
            running = [request for request in running if made[request] < outputs[request]]
    return steps, first_s, finish_s
