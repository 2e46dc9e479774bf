"""Settings that vLLM chooses by the model, where nobody gives them."""

from collections.abc import Mapping
from typing import Any

GPT_OSS_MAX_CAPTURE = 1024
"""Largest CUDA graph of gpt-oss, whatever max_num_seqs is (GptOssForCausalLMConfig,
vllm/model_executor/models/config.py)."""


def model_defaults(model_info: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, int]:
    """Of a model of which the package tells `model_info`, beside the `settings` that are asked for."""
    config = model_info.get("raw_config", {})
    own: dict[str, int] = {}
    if "GptOssForCausalLM" in (config.get("architectures") or ()) and not settings.get("cudagraph_capture_sizes"):
        own["max_cudagraph_capture_size"] = GPT_OSS_MAX_CAPTURE
    return own
