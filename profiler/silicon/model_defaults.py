"""Settings that vLLM chooses by the model, where nobody gives them."""

from collections.abc import Mapping
from typing import Any

from ..model_folder import text_part
from .layout import BLACKWELL_SM

GPT_OSS_MAX_CAPTURE = 1024
"""Largest CUDA graph of gpt-oss, whatever max_num_seqs is (GptOssForCausalLMConfig,
vllm/model_executor/models/config.py)."""
LONGROPE = ("longrope", "su")
"""Its names in a config.json; the second is an old one (patch_rope_parameters, vllm/transformers_utils/config.py)."""

MINIMAX_M3_BLOCK = 128
"""Tokens of a block of its sparse attention (vllm/models/minimax_m3/common/sparse_attention.py)."""
INDEXER_BLOCK = 64
"""Of DeepSeek's sparse attention (DeepseekV32IndexerBackend, vllm/v1/attention/backends/mla/indexer.py)."""
BLACKWELL_MLA_BLOCK = 32
"""Of FlashInfer's latent attention (vllm/v1/attention/backends/mla/flashinfer_mla.py), which vLLM prefers on
data-centre Blackwell (_get_backend_priorities, vllm/platforms/cuda.py)."""


def model_defaults(model_info: Mapping[str, Any], sm_version: float, settings: Mapping[str, Any]) -> dict[str, int]:
    """Of a model of which the package tells `model_info`, on a GPU of that compute capability, beside the `settings`
    that are asked for."""
    config = model_info.get("raw_config", {})
    text = text_part(config)
    own = {**_context_of_longrope(text), **_block_size(text, sm_version)}
    if "GptOssForCausalLM" in (config.get("architectures") or ()) and not settings.get("cudagraph_capture_sizes"):
        own["max_cudagraph_capture_size"] = GPT_OSS_MAX_CAPTURE
    return own


def _context_of_longrope(text: Mapping[str, Any]) -> dict[str, int]:
    """The context that a model with LongRoPE was first trained for, up to which answers are best: vLLM takes longer
    ones only if asked (_get_and_verify_max_len, vllm/config/model.py). Nothing for other models."""
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    first = text.get("original_max_position_embeddings")
    return {"max_model_len": int(first)} if first and rope.get("rope_type", rope.get("type")) in LONGROPE else {}


def _block_size(text: Mapping[str, Any], sm_version: float) -> dict[str, int]:
    """The smallest block size that all attention kernels of the model take, where they do not take vLLM's default
    (update_block_size_for_backend, vllm/platforms/interface.py): what their get_supported_kernel_block_sizes say."""
    if sparse := text.get("sparse_attention_config"):
        return {"block_size": int(sparse.get("sparse_block_size") or MINIMAX_M3_BLOCK)}
    if not text.get("kv_lora_rank"):
        return {}
    if text.get("index_topk"):
        return {"block_size": INDEXER_BLOCK}
    return {"block_size": BLACKWELL_MLA_BLOCK} if sm_version in BLACKWELL_SM else {}
