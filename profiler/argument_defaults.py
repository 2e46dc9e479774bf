"""Which values of vLLM's arguments leave them as they are where nobody gives them."""

from typing import Any

DEFAULTS: dict[str, Any] = {
    "all2all_backend": "allgather_reducescatter",
    "cpu_offload_gb": 0,
    "data_parallel_backend": "mp",
    "dbo_decode_token_threshold": 32,
    "dbo_prefill_token_threshold": 512,
    "disable_cascade_attn": True,
    "enable_flashinfer_autotune": True,
    "expert_placement_strategy": "linear",
    "kv_offloading_backend": "native",
    "logprobs_mode": "raw_logprobs",
    "mamba_cache_philox_rounds": 0,
    "max_lora_rank": 16,
    "max_loras": 1,
    "mm_device_do_normalize": True,
    "mm_encoder_tp_mode": "weights",
    "mm_processor_cache_gb": 4,
    "mm_processor_cache_type": "lru",
    "mm_shm_cache_max_object_size_mb": 128,
    "mm_tensor_ipc": "direct_rpc",
    "nnodes": 1,
    "node_rank": 0,
    "offload_group_size": 0,
    "offload_num_in_group": 1,
    "offload_prefetch_step": 1,
    "optimization_level": 2,
    "performance_mode": "balanced",
    "renderer_num_workers": 1,
    "swa_bounded_replay": True,
    "ubatch_size": 0,
}
"""vLLM's, where they are neither None, False nor "auto", of arguments that are not simulated and may cost time: the
same in every known version that has the argument. Source: EngineArgs (vllm/engine/arg_utils.py); what it leaves open is
settled by the optimization level (enable_flashinfer_autotune, OPTIMIZATION_LEVEL_02 in vllm/config/vllm.py) and by the
model's config (disable_cascade_attn, vllm/config/model.py)."""


MADE_BY_ANY = frozenset({"diffusion_config", "ec_transfer_config", "kv_transfer_config", "speculative_config"})
"""Arguments of which vLLM makes something of an empty mapping too, or refuses it (EngineArgs.create_engine_config)."""


def is_unset(name: str, value: Any) -> bool:
    """Whether a value leaves an argument as it is where nobody gives it. 0 does so only where it is the default; an
    empty mapping or list does but of MADE_BY_ANY."""
    if value in ({}, []):
        return name not in MADE_BY_ANY
    if value is None or value in ("auto", "", "none"):
        return True
    return bool(value == DEFAULTS[name]) if name in DEFAULTS else value is False
