"""The settings that compiled code obeys: one record, from EngineConfig and the rules of its version."""

from dataclasses import asdict
from typing import Any

import numpy as np

from .engine_config import EngineConfig
from .policy_names import DEFAULT_POLICY, POLICIES

RULES = np.dtype(
    [
        ("policy", np.int64),
        ("max_model_len", np.int64),
        ("token_budget", np.int64),  # max_num_scheduled_tokens, at most max_num_batched_tokens
        ("input_budget", np.int64),  # max_num_batched_tokens
        ("max_num_seqs", np.int64),
        ("max_num_active_seqs", np.int64),
        ("long_prefill_token_threshold", np.int64),
        ("adaptive_threshold", np.int64),
        ("prefill_interval", np.int64),  # steps from one with a prefill to the next; 1 = no delay
        ("chunked_prefill", np.int64),
        ("caching", np.int64),
        ("by_priority", np.int64),
        ("reserve_full_isl", np.int64),
        ("watermark_blocks", np.int64),
        ("asynchronous", np.int64),
        ("depth", np.int64),  # steps that may be in flight at once
        ("decode_stagger", np.int64),  # schedules from one decode of a request to its next
        ("draft_tokens", np.int64),  # num_speculative_tokens; 0 = no speculative decoding, as the next two
        ("lookahead_tokens", np.int64),
        ("admission_lookahead", np.int64),  # of those, what an admitted request gets with its first row
        ("draft_slots", np.int64),
        ("drops_last_hit", np.int64),
        ("hash_lookahead", np.int64),
        ("stream_interval", np.int64),
        ("block_size", np.int64),
        ("num_blocks", np.int64),
        ("max_queued_reqs", np.int64),  # 0 = no limit, as the next
        ("max_queued_tokens", np.int64),
        ("schedules_past_empty", np.int64),  # this and those below: VersionRules
        ("reuses_unhashed_first", np.int64),
        ("pads_admitted", np.int64),
        ("pads_what_fits", np.int64),
        ("pads_after_hit", np.int64),
        ("delivers_stale_output", np.int64),
        ("keeps_place", np.int64),
        ("spares_lone_request", np.int64),
        ("queues_skipped_with_others", np.int64),
        ("cuts_long_answers", np.int64),
        ("scans_past_own_preemption", np.int64),
        ("publishes_verified", np.int64),
    ]
)
"""EngineConfig as compiled code takes it."""


def rules_of(engine: EngineConfig, policy: str = DEFAULT_POLICY) -> Any:
    """The compiled form of `engine` under one of POLICIES: one RULES record.

    Overlap and prefix cache are vLLM V1's alone.
    """
    is_v1 = policy == DEFAULT_POLICY
    rules = np.zeros(1, RULES).view(np.recarray)
    values = {
        "policy": POLICIES.index(policy),
        "input_budget": engine.max_num_batched_tokens,
        "max_num_active_seqs": engine.most_active_seqs,
        "adaptive_threshold": engine.long_prefill_token_threshold_adaptive,
        "prefill_interval": engine.prefill_schedule_interval if engine.version_rules.delays_prefills else 1,
        "chunked_prefill": engine.enable_chunked_prefill,
        "caching": engine.enable_prefix_caching and is_v1,
        "by_priority": engine.scheduling_policy == "priority",
        "reserve_full_isl": engine.scheduler_reserve_full_isl,
        "watermark_blocks": int(engine.watermark * engine.num_gpu_blocks),
        "depth": 1,
        "num_blocks": engine.num_gpu_blocks,
        "max_queued_reqs": engine.max_num_queued_reqs or 0,
        "max_queued_tokens": engine.max_num_queued_tokens or 0,
    }
    values |= asdict(engine.version_rules) | _draft_rules(engine) | (_overlap_rules(engine) if is_v1 else {})
    for name in RULES.names or ():
        rules[name] = values.get(name, getattr(engine, name, 0))
    return rules


def _overlap_rules(engine: EngineConfig) -> dict[str, int]:
    """A step in flight for each pipeline stage, and one more with async scheduling (VllmConfig.max_concurrent_batches
    in vllm/config/vllm.py)."""
    stages, ahead = engine.pipeline_parallel_size, engine.async_scheduling
    if not engine.version_rules.overlaps_stages and stages > 1:
        return {"asynchronous": ahead, "depth": stages}
    return {"asynchronous": ahead, "depth": stages + ahead, "decode_stagger": stages if ahead else 0}


def _draft_rules(engine: EngineConfig) -> dict[str, int]:
    speculation, version = engine.speculative_config, engine.version_rules
    if speculation is None:
        return {}
    lookahead = speculation.lookahead_tokens(version)
    return {
        "draft_tokens": speculation.num_speculative_tokens,
        "lookahead_tokens": lookahead,
        "admission_lookahead": lookahead if version.admits_with_lookahead else 0,
        "draft_slots": speculation.draft_slots(version) if version.counts_draft_slots else 0,
        "drops_last_hit": speculation.drops_last_hit(version),
        "hash_lookahead": speculation.hash_lookahead(version),
    }
