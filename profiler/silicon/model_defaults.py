"""Settings that vLLM chooses by the model, where nobody gives them."""

from collections.abc import Mapping
from typing import Any

GPT_OSS_MAX_CAPTURE = 1024
"""Largest CUDA graph of gpt-oss, whatever max_num_seqs is (GptOssForCausalLMConfig,
vllm/model_executor/models/config.py)."""
LONGROPE = ("longrope", "su")
"""Its names in a config.json; the second is an old one (patch_rope_parameters, vllm/transformers_utils/config.py)."""


def model_defaults(model_info: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, int]:
    """Of a model of which the package tells `model_info`, beside the `settings` that are asked for."""
    config = model_info.get("raw_config", {})
    own = _context_of_longrope(config.get("text_config", config))
    if "GptOssForCausalLM" in (config.get("architectures") or ()) and not settings.get("cudagraph_capture_sizes"):
        own["max_cudagraph_capture_size"] = GPT_OSS_MAX_CAPTURE
    return own


def _context_of_longrope(text: Mapping[str, Any]) -> dict[str, int]:
    """The context that a model with LongRoPE was first trained for, up to which answers are best: vLLM takes longer
    ones only if asked (_get_and_verify_max_len, vllm/config/model.py). Nothing for other models."""
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    first = text.get("original_max_position_embeddings")
    return {"max_model_len": int(first)} if first and rope.get("rope_type", rope.get("type")) in LONGROPE else {}
