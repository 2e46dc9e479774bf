#!/usr/bin/env python3
"""Write scheduler cases: one JSON file per (scenario, seed). Usage: make_cases.py --seed N --out DIR"""

import argparse
import json
import random
from pathlib import Path

COST = {"base": 4.0, "prefill_token": 0.04, "decode_seq": 0.11, "context_token": 0.00021}


def lognormal(rng, median, sigma, low, high):
    return max(low, min(high, round(rng.lognormvariate(0, sigma) * median)))


def requests(rng, n, gap_ms, prompt, output, burst=1, prefixes=0, priorities=0, cap=4000):
    out, t = [], 0.0
    for i in range(n):
        if i % burst == 0:
            t += rng.expovariate(1 / gap_ms)
        r = {
            "id": f"r{i}",
            "arrival_ms": round(t, 3),
            "prompt_len": lognormal(rng, *prompt, 1, cap - 300),
            "output_len": lognormal(rng, *output, 1, 300),
        }
        if prefixes and rng.random() < 0.8:
            group = rng.randrange(prefixes)
            runs, left = [], r["prompt_len"]
            for depth in range(rng.randint(1, 3)):
                length = min(left, 40 + 37 * ((group + depth) % 7))
                if length:
                    runs.append([f"g{group}d{depth}", length])
                    left -= length
            r["prefix"] = runs
        if priorities:
            r["priority"] = rng.randrange(priorities)
        out.append(r)
    return out


BASE = {
    "max_model_len": 4096,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 512,
    "block_size": 16,
    "enable_prefix_caching": False,
    "async_scheduling": False,
}


CHAT, CODE, LONG_PROMPT = ((220, 1.0), (90, 0.8)), ((900, 0.6), (15, 0.7)), ((1800, 0.5), (60, 0.6))

SCENARIOS = {
    "plain": ({}, 4000, (120, 60, CHAT, {})),
    "async": ({"async_scheduling": True}, 4000, (120, 60, CHAT, {})),
    "burst": (
        {"max_num_seqs": 64, "max_num_batched_tokens": 2048},
        6000,
        (160, 400, CHAT, {"burst": 20}),
    ),
    "long_prompts": ({"max_num_batched_tokens": 384}, 6000, (60, 250, LONG_PROMPT, {})),
    "small_budget": ({"max_num_batched_tokens": 64}, 6000, (60, 300, CHAT, {})),
    "preempt": ({"max_num_seqs": 32}, 300, (80, 30, CHAT, {"cap": 2500})),
    "preempt_async": (
        {"max_num_seqs": 32, "async_scheduling": True},
        300,
        (80, 30, CHAT, {"cap": 2500}),
    ),
    "preempt_no_reserve": (
        {"max_num_seqs": 32, "scheduler_reserve_full_isl": False},
        300,
        (80, 30, CHAT, {"cap": 2500}),
    ),
    "watermark": ({"max_num_seqs": 32, "watermark": 0.05}, 300, (80, 30, CHAT, {"cap": 2500})),
    "prefix": ({"enable_prefix_caching": True}, 2500, (150, 50, CODE, {"prefixes": 9})),
    "prefix_tight": (
        {"enable_prefix_caching": True, "max_num_seqs": 24},
        330,
        (120, 40, CODE, {"prefixes": 9, "cap": 2500}),
    ),
    "prefix_async": (
        {"enable_prefix_caching": True, "async_scheduling": True},
        500,
        (120, 50, CODE, {"prefixes": 9, "cap": 2500}),
    ),
    "block_size_64": (
        {"block_size": 64, "enable_prefix_caching": True},
        120,
        (100, 50, CODE, {"prefixes": 5, "cap": 2500}),
    ),
    "long_threshold": ({"long_prefill_token_threshold": 128}, 6000, (70, 150, LONG_PROMPT, {})),
    "long_threshold_adaptive": (
        {"long_prefill_token_threshold": 64, "long_prefill_token_threshold_adaptive": True},
        6000,
        (70, 150, LONG_PROMPT, {}),
    ),
    "no_chunking": (
        {"enable_chunked_prefill": False, "max_num_batched_tokens": 4096},
        6000,
        (80, 120, CODE, {}),
    ),
    "priority": (
        {"scheduling_policy": "priority", "max_num_seqs": 12},
        4000,
        (100, 40, CHAT, {"priorities": 3}),
    ),
    "priority_preempt": (
        {"scheduling_policy": "priority", "max_num_seqs": 32},
        300,
        (80, 30, CHAT, {"priorities": 3, "cap": 2500}),
    ),
    "active_seqs": ({"max_num_active_seqs": 6}, 4000, (80, 60, CHAT, {})),
    "one_at_a_time": ({"max_num_seqs": 1}, 4000, (30, 500, CHAT, {})),
}
"""Engine settings, KV blocks, and of the requests: count, mean gap in ms, lengths, further arguments of `requests`."""


def speculating(method, *rates):
    return {
        "speculative_config": {
            "method": method,
            "num_speculative_tokens": len(rates),
            "rejection_sample_method": "synthetic",
            "synthetic_acceptance_rates": list(rates),
        }
    }


OVERLAPS = {
    "drafts": (speculating("ngram", 0.8, 0.5, 0.3), 4000, (120, 60, CHAT, {})),
    "drafts_async": (
        speculating("draft_model", 0.7, 0.4) | {"async_scheduling": True, "max_num_batched_tokens": 96},
        4000,
        (80, 60, CHAT, {}),
    ),
    "drafts_preempt_async": (
        speculating("eagle", 0.9, 0.7, 0.5, 0.4) | {"async_scheduling": True, "max_num_seqs": 32},
        300,
        (80, 30, CHAT, {"cap": 2500}),
    ),
    "drafts_prefix": (
        speculating("eagle", 0.8, 0.6, 0.1) | {"enable_prefix_caching": True, "max_num_seqs": 24},
        330,
        (100, 40, CODE, {"prefixes": 9, "cap": 2500}),
    ),
    "drafts_prefix_async": (
        speculating("draft_model", 0.9, 0.8, 0.7) | {"enable_prefix_caching": True, "async_scheduling": True},
        500,
        (100, 50, CODE, {"prefixes": 9, "cap": 2500}),
    ),
    "stages": ({"pipeline_parallel_size": 2}, 4000, (100, 60, CHAT, {})),
    "stages_async": (
        {"pipeline_parallel_size": 3, "async_scheduling": True, "enable_prefix_caching": True},
        500,
        (100, 50, CODE, {"prefixes": 9, "cap": 2500}),
    ),
    "stages_preempt_async": (
        {"pipeline_parallel_size": 4, "async_scheduling": True, "max_num_seqs": 32},
        300,
        (80, 30, CHAT, {"cap": 2500}),
    ),
    "prefill_interval": (
        {"prefill_schedule_interval": 8, "enable_prefix_caching": True, "async_scheduling": True},
        2500,
        (100, 60, CODE, {"prefixes": 9}),
    ),
}
"""Where a step is scheduled before what it continues is known: drafts that may be refused, stages of a pipeline."""


def cases(seed, times=1):
    """(name, case) of every scenario; `times` as many requests as the reference schedules have."""
    rng = random.Random(seed)
    for name, (engine, blocks, (count, gap_ms, lengths, more)) in (SCENARIOS | OVERLAPS).items():
        reqs = requests(rng, count * times, gap_ms, *lengths, **more)
        yield name, {"engine": BASE | engine, "num_kv_blocks": blocks, "cost": COST, "requests": reqs}


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seed", type=int, required=True)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, case in cases(a.seed):
        (out / f"{name}.json").write_text(json.dumps(case))


if __name__ == "__main__":
    main()
