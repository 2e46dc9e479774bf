"""Random scheduler cases in the oracle's form: every setting that changes the schedule, and the corners of workloads.

Every request of a case fits into the KV cache and under max_model_len: behind one that does not, vLLM's queue stands
still for ever.
"""

from collections.abc import Sequence
from itertools import combinations
from random import Random
from typing import Any

from slotune.simulator.versions import ASSUMED, NEWEST, OLDEST, argument_versions, numbers_of, rules_for

from .schedule import Case
from .vllm_scheduler_oracle import prompt_tokens

COSTS = (
    {"base": 4.0, "prefill_token": 0.04, "decode_seq": 0.11, "context_token": 0.00021},
    {"base": 9.137, "prefill_token": 0.0113, "decode_seq": 0.0531, "context_token": 0.000017},
    {"base": 0.731, "prefill_token": 0.31, "decode_seq": 0.93, "context_token": 0.0031},
)
Request = dict[str, Any]


def random_case(seed: int) -> Case:
    """The case of a seed."""
    rng = Random(seed)
    engine = _engine(rng)
    engine |= _overlap(Random(f"overlap {seed}"), engine)
    engine |= _since_0_33(Random(f"0.33 {seed}"), engine)
    requests = _requests(rng, engine)
    while _says_other_than_its_names(requests):
        requests = _requests(rng, engine)
    drafted = 2 * engine.get("speculative_config", {"num_speculative_tokens": 0})["num_speculative_tokens"] + 2
    if Random(f"edge {seed}").random() < 0.2:
        drafted = -1  # what is known just fits, drafts often do not: preempted, and taken in again
    longest = max(min(r["prompt_len"] + r["output_len"] + drafted, engine["max_model_len"]) for r in requests)
    needed = -(-longest // engine["block_size"])
    # tight, where the cache holds little more than the longest request, up to plenty
    blocks = 1 + int(needed * rng.choice([1, 1, 1.2, 1.5, 2, 3, 5, 40]))
    return {"engine": engine, "num_kv_blocks": blocks, "cost": rng.choice(COSTS), "requests": requests}


def _says_other_than_its_names(requests: list[Request]) -> bool:
    """Whether two prompts share tokens for longer than their runs agree by name.

    The oracle makes tokens from a checksum of the name modulo 4000, so the tokens of one name may go on as another's;
    a trace cannot tell that.
    """
    tokens = [prompt_tokens(request) for request in requests]
    names = [_named_tokens(request) for request in requests]
    return any(
        tokens[i][0] == tokens[j][0] and _common(tokens[i], tokens[j]) != _common(names[i], names[j])
        for i, j in combinations(range(len(requests)), 2)
    )


def _named_tokens(request: Request) -> list[tuple[str, int]]:
    """The prompt's tokens as a trace has them: run name and place in the run."""
    runs = request.get("prefix", [])
    runs = [*runs, [f"request {request['id']}", request["prompt_len"] - sum(length for _, length in runs)]]
    return [(name, place) for name, length in runs for place in range(length)]


def _common(one: Sequence[object], other: Sequence[object]) -> int:
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _engine(rng: Random) -> dict[str, Any]:
    max_model_len = rng.choice([64, 200, 513, 1024, 2048])
    engine = {
        "max_model_len": max_model_len,
        "max_num_seqs": rng.choice([1, 2, 3, 4, 6, 8, 12, 16, 24, 48]),
        "block_size": rng.choice([8, 16, 16, 32, 64, 128]),
        "enable_prefix_caching": rng.random() < 0.6,
        "async_scheduling": rng.random() < 0.5,
        "enable_chunked_prefill": rng.random() < 0.8,
        "scheduling_policy": "priority" if rng.random() < 0.35 else "fcfs",
        "scheduler_reserve_full_isl": rng.random() < 0.6,
        "watermark": rng.choice([0.0, 0.0, 0.01, 0.05, 0.2, 0.5]),
    }
    engine["max_num_batched_tokens"] = _batched_tokens(rng, engine)
    return engine | _optional_limits(rng, engine)


def _batched_tokens(rng: Random, engine: dict[str, Any]) -> int:
    """vLLM refuses fewer than max_num_seqs, and fewer than max_model_len without chunking."""
    least = engine["max_num_seqs"] if engine["enable_chunked_prefill"] else engine["max_model_len"]
    return max(least, rng.choice([1, 7, 16, 33, 64, 100, 128, 256, 512, 2048]))


def _overlap(rng: Random, engine: dict[str, Any]) -> dict[str, Any]:
    """Speculative decoding, or pipeline stages, in some cases."""
    if rng.random() < 0.15:
        return {"pipeline_parallel_size": rng.choice([2, 3, 4])}
    if rng.random() < 0.35:
        return _speculation(rng, engine)
    return {}


def _speculation(rng: Random, engine: dict[str, Any]) -> dict[str, Any]:
    """Drafts of any method; no limit is so low that vLLM refuses it or stands still."""
    tokens = rng.choice([1, 2, 3, 5, 8])
    method = rng.choice(["eagle", "draft_model", "ngram_gpu"] if engine["async_scheduling"] else ["eagle", "ngram"])
    config = {"method": method, "num_speculative_tokens": tokens, "rejection_sample_method": "synthetic"}
    rate = rng.choice([0.0, 0.3, 0.7, 0.9, 1.0])
    limits = {"max_num_batched_tokens": max(engine["max_num_batched_tokens"], 2 * tokens + 2)}
    for name in ("long_prefill_token_threshold", "max_num_scheduled_tokens"):
        if engine.get(name):
            limits[name] = min(max(engine[name], tokens + 1), engine["max_model_len"])
    rates = [rate ** (position + 1) for position in range(tokens)]
    return limits | {"speculative_config": config | {"synthetic_acceptance_rates": rates}}


def _since_0_33(rng: Random, engine: dict[str, Any]) -> dict[str, Any]:
    """Prefills that are held back, and drafts from the prompt with async scheduling, in some cases; earlier versions
    take the former, which does nothing there, and refuse the latter."""
    changed = {"prefill_schedule_interval": rng.choice([2, 3, 5, 20])} if rng.random() < 0.2 else {}
    speculation = engine.get("speculative_config", {})
    if speculation.get("method") == "ngram_gpu" and rng.random() < 0.5:
        changed["speculative_config"] = speculation | {"method": "ngram"}
    elif speculation.get("method") == "eagle" and rng.random() < 0.1:
        changed["speculative_config"] = speculation | {"disable_lookahead_block_hashes": True}
    return changed


def _optional_limits(rng: Random, engine: dict[str, Any]) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if rng.random() < 0.25:
        limits["max_num_active_seqs"] = rng.randint(1, engine["max_num_seqs"])
    if rng.random() < 0.25 and engine["enable_chunked_prefill"]:
        limits["max_num_scheduled_tokens"] = max(
            1, int(engine["max_num_batched_tokens"] * rng.choice([0.2, 0.5, 1, 2]))
        )
    if rng.random() < 0.35:
        limits["long_prefill_token_threshold"] = min(rng.choice([1, 5, 20, 64, 130, 400]), engine["max_model_len"])
        if (adaptive := rng.random()) < 0.7:  # a setting of vLLM 0.31: without it older ones take the case too
            limits["long_prefill_token_threshold_adaptive"] = adaptive < 0.35
    return limits


def _requests(rng: Random, engine: dict[str, Any]) -> list[Request]:
    number = rng.choice([1, 2, 3, 5, 8, 13, 21, 34, 55])
    lengths = _LENGTHS[rng.choice(list(_LENGTHS))]
    arrive = rng.choice([_at_once, _in_bursts, _poisson])
    arrivals = arrive(rng, number)
    groups = [f"group {k}" for k in range(rng.randint(1, 6))] if rng.random() < 0.8 else []
    levels = rng.choice([1, 2, 3, 100])
    requests = []
    for k, arrival_ms in enumerate(arrivals):
        prompt, output = lengths(rng, engine["max_model_len"])
        request = {"id": f"r{k}", "arrival_ms": arrival_ms, "prompt_len": prompt, "output_len": output}
        if groups and rng.random() < 0.8:
            request["prefix"] = _prefix(rng, groups, prompt)
        if engine["scheduling_policy"] == "priority":
            request["priority"] = rng.randrange(levels)
        requests.append(request)
    return requests


def _prefix(rng: Random, groups: list[str], prompt: int) -> list[list[Any]]:
    """Leading runs: with few names and lengths many prompts agree for a while, and some wholly."""
    runs, left = [], prompt
    for _ in range(rng.randint(1, 3)):
        length = min(left, rng.choice([1, 16, 40, 77, 128, 256, prompt]))
        if length:
            runs.append([rng.choice(groups), length])
            left -= length
    return runs


def for_version(case: Case, version: str) -> Case:
    """The case without what this version of vLLM lacks or answers otherwise than by its scheduler."""
    numbers = numbers_of(version) or ASSUMED
    since = {name: numbers_of(argument_versions()[name][0]) or OLDEST for name in case["engine"]}
    engine = {name: value for name, value in case["engine"].items() if since[name] <= numbers}
    drafts = dict(engine.get("speculative_config") or {})
    if drafts and numbers < NEWEST:
        drafts.pop("disable_lookahead_block_hashes", None)
        if drafts["method"] == "ngram" and engine.get("async_scheduling"):
            drafts["method"] = "ngram_gpu"
    if drafts:
        engine["speculative_config"] = drafts
    longest, requests = engine["max_model_len"], case["requests"]
    if not rules_for(version).cuts_long_answers:
        requests = [r | {"output_len": max(1, min(r["output_len"], longest - r["prompt_len"]))} for r in requests]
    return case | {"engine": engine, "requests": requests}


def _at_once(rng: Random, number: int) -> list[float]:
    return [0.0] * number


def _in_bursts(rng: Random, number: int) -> list[float]:
    size, gap_ms = rng.randint(2, 9), rng.choice([3.0, 40.0, 300.0])
    return [round(k // size * gap_ms + 0.137, 3) for k in range(number)]


def _poisson(rng: Random, number: int) -> list[float]:
    gap_ms, arrivals, now_ms = rng.choice([1.0, 10.0, 60.0, 400.0]), [], 0.0
    for _ in range(number):
        now_ms += rng.expovariate(1 / gap_ms)
        arrivals.append(round(now_ms, 3))
    return arrivals


def _chat(rng: Random, longest: int) -> tuple[int, int]:
    return _clipped(rng.lognormvariate(4, 1), longest - 1), _clipped(rng.lognormvariate(3, 1), longest)


def _long_prompts(rng: Random, longest: int) -> tuple[int, int]:
    return _clipped(longest * rng.uniform(0.3, 1), longest - 1), rng.randint(1, 12)


def _single_tokens(rng: Random, longest: int) -> tuple[int, int]:
    return rng.choice([1, 1, 2, rng.randint(1, longest - 1)]), rng.choice([1, 1, 2, 5])


def _full(rng: Random, longest: int) -> tuple[int, int]:
    """Prompts that fill max_model_len and answers that run into it."""
    return longest - rng.choice([1, 2, 3, 17, longest // 2]), rng.choice([1, 2, 3, 40, longest])


def _blocks(rng: Random, longest: int) -> tuple[int, int]:
    """Lengths at the edges of blocks."""
    edge = 16 * rng.randint(1, 16) + rng.choice([-1, 0, 1])
    return _clipped(edge, longest - 1), rng.choice([1, 15, 16, 17, 64])


def _clipped(length: float, most: int) -> int:
    return max(1, min(most, round(length)))


_LENGTHS = {
    "chat": _chat,
    "long prompts": _long_prompts,
    "single tokens": _single_tokens,
    "full": _full,
    "blocks": _blocks,
}
