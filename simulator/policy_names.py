"""Scheduling policies and routers by name, and what there is to say of them, without loading what runs them."""

DEFAULT_POLICY = "vllm-v1"
POLICIES = (DEFAULT_POLICY, "sarathi", "vllm-v0", "orca", "request-level")
"""vLLM's own first, which is the default everywhere."""
WITHOUT_BUDGET = ("orca", "request-level")
STATIC_ROUTERS = ("round-robin", "random")
"""Look at no replica: their choices can be made before anything runs."""
ROUTERS = (*STATIC_ROUTERS, "least-outstanding", "least-kv", "prefix-aware")

V1_SETTINGS = frozenset(
    {
        "async_scheduling",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "long_prefill_token_threshold",
        "long_prefill_token_threshold_adaptive",
        "prefill_schedule_interval",
        "scheduler_reserve_full_isl",
    }
)
"""Settings that vLLM's V1 scheduler alone obeys."""
BUDGETS = frozenset({"max_num_batched_tokens", "max_num_scheduled_tokens"})


def disobeyed(policy: str) -> frozenset[str]:
    """Settings that change nothing under this policy, of those that change vLLM's schedule."""
    if policy == DEFAULT_POLICY:
        return frozenset()
    return V1_SETTINGS | BUDGETS if policy in WITHOUT_BUDGET else V1_SETTINGS


def policy_note(policy: str) -> str | None:
    """That the schedule is not vLLM's, where it is not."""
    return None if policy == DEFAULT_POLICY else f"scheduled by the {policy} policy, not as vLLM does"
