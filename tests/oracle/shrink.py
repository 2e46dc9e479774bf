"""A smaller case that still fails: fewer requests, shorter ones, simpler settings."""

from collections.abc import Callable, Iterator
from typing import Any

from .schedule import Case

PLAIN: dict[str, Any] = {
    "enable_prefix_caching": False,
    "async_scheduling": False,
    "enable_chunked_prefill": True,
    "scheduling_policy": "fcfs",
    "scheduler_reserve_full_isl": True,
    "watermark": 0.0,
    "block_size": 16,
}
"""The settings that a person would rather look at."""
OPTIONAL = (
    "max_num_active_seqs",
    "max_num_scheduled_tokens",
    "prefill_schedule_interval",
    "long_prefill_token_threshold_adaptive",
    "speculative_config",
    "pipeline_parallel_size",
)


def shrink(case: Case, fails: Callable[[Case], bool], attempts: int = 300) -> Case:
    """The smallest case found that `fails`, by trying simpler ones until none fails or `attempts` are used up."""
    tried = 0
    found = True
    while found:
        found = False
        for simpler in _simpler(case):
            if tried == attempts:
                return case
            tried += 1
            if fails(simpler):
                case, found = simpler, True
                break
    return case


def _simpler(case: Case) -> Iterator[Case]:
    """Simpler cases, the boldest steps first."""
    yield from _fewer_requests(case)
    yield from _simpler_settings(case)
    yield from _simpler_requests(case)


def _fewer_requests(case: Case) -> Iterator[Case]:
    requests = case["requests"]
    size = len(requests) // 2
    while size > 0:
        for start in range(0, len(requests), size):
            rest = requests[:start] + requests[start + size :]
            if rest:
                yield case | {"requests": rest}
        size //= 2


def _simpler_settings(case: Case) -> Iterator[Case]:
    engine = case["engine"]
    for name, value in PLAIN.items():
        if engine.get(name, value) != value:
            yield case | {"engine": engine | {name: value}}
    for name in OPTIONAL:
        if name in engine:
            yield case | {"engine": {key: value for key, value in engine.items() if key != name}}
    if engine.get("long_prefill_token_threshold"):
        yield case | {"engine": engine | {"long_prefill_token_threshold": 0}}


def _simpler_requests(case: Case) -> Iterator[Case]:
    requests = case["requests"]
    for place, request in enumerate(requests):
        for simpler in _simpler_request(request):
            yield case | {"requests": [*requests[:place], simpler, *requests[place + 1 :]]}


def _simpler_request(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("prefix", "priority"):
        if name in request:
            yield {key: value for key, value in request.items() if key != name}
    if request["output_len"] > 1:
        yield request | {"output_len": (request["output_len"] + 1) // 2}
    if request["prompt_len"] > 1 and "prefix" not in request:
        yield request | {"prompt_len": (request["prompt_len"] + 1) // 2}
    if request["arrival_ms"] > 0:
        yield request | {"arrival_ms": 0.0}
