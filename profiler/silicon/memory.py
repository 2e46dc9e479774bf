"""Memory that is left for the KV cache on a GPU on which nothing was ever started: an estimate from public start logs.

benchmarks/accuracy/kv_capacity.py compares it with such logs. Of the optional package aiconfigurator-core, which has an
estimate of its own, only the weights and the bytes of a token are taken: it reserves 3.5 GiB for a safe deployment,
counts memory that CUDA does not give, and knows no CUDA graphs.
"""

import math
from collections.abc import Mapping
from typing import Any

from ...figures import figure
from ..kv_capacity import DEFAULT_MEMORY_SHARE, GIB, KV_DTYPE_BYTES, KvCapacity
from ..model_folder import keeps_every_token, text_part
from .layout import BLACKWELL_SM, own_cache_format
from .tables import KernelTables
from .weights import weights_bytes

TOTAL_GIB = {"h100_sxm": 79.18, "a100_sxm": 79.25, "h200_sxm": 139.80, "b200_sxm": 178.35, "l40s": 44.39}
"""A GPU's whole memory as CUDA reports it, which gpu_memory_utilization is a share of: "Free memory on device
(78.57/79.18 GiB)" in the start logs of vLLM (vllm/v1/worker/utils.py, request_memory)."""
REPORTED_SHARE = 0.99
"""What CUDA reports of the nominal memory of other GPUs: the mean over those above."""
RUNTIME_GIB = 0.13
"""Non-torch memory of one GPU (CUDA context, cuBLAS), from the logs of vLLM 0.11 on an H100."""
LINK_GIB = 0.42
"""More of it for every doubling of the GPUs that a layer is cut over: 0.55 GiB with two, in the same logs."""
GRAPHS_GIB = 1.2
"""Estimate of the CUDA graphs, which vLLM subtracts since 0.21 (vllm/v1/worker/gpu_worker.py,
determine_available_memory): what the start of an 8B model implies; others say 0.2 to 3.5."""
DENSE_ERROR_GIB, CUT_ERROR_GIB, MIXTURE_ERROR_GIB, LATENT_ERROR_GIB = 1.0, 1.5, 2.0, 3.0
"""How far the estimate may be off: the logs say up to 0.8 and, of one mixture, 1.5. The workspace of its kernels is not
modelled. Graphs of a 72B model on four GPUs take 1.5 GiB more than GRAPHS_GIB by its start's own estimate. No log is of
latent attention, whose weights are harder to count."""
ENCODER_ERROR_GIB = 2.0
"""How much farther off it may be with an image encoder, whose cache and activations are not modelled: vLLM subtracts
what it takes to encode the largest item (profile_run, vllm/v1/worker/gpu/model_runner.py). Of Qwen3-VL-8B that is an
image of 16,384 tokens: 0.5 GiB of embeddings (four of 4096 elements a token, _get_deepstack_input_embeds in
vllm/model_executor/models/qwen3_vl.py), and 1.1 GiB for 65,536 patches as wide as its feed-forward layer and four
hidden states. It covers encoders whose weights the package does not know too."""
STEP_TOKENS = 8192
"""Of the step for which the package is asked."""
INDEX_ELEMENTS_A_SCALE = 128
"""Of the index keys of DeepSeek's sparse attention, which have a byte each and 4 bytes a scale (Indexer,
vllm/model_executor/models/deepseek_v2.py)."""


def estimated_kv(tables: KernelTables, graphs_gib: float = GRAPHS_GIB) -> KvCapacity | None:
    """What the weights, activations and runtime take, as a formula of the settings; `graphs_gib` is 0 without graphs.

    A GPU holds the keys and values of its stage's layers, and the stage with the most layers bounds all of them
    (get_kv_cache_configs in vllm/v1/core/kv_cache_utils.py); the package counts every layer. None for a model whose
    layers do not all keep every token, or of which the package knows too little.
    """
    info, layout = tables.model_info, tables.layout
    known = _package_estimate(tables) if keeps_every_token(info.get("raw_config", {})) else None
    if known is None:
        return None
    breakdown, layers = known["memory_breakdown"], int(info["layers"])
    share = math.ceil(layers / layout.pp) / layers
    sm_version = tables.gpu["sm_version"]
    own = KV_DTYPE_BYTES[own_cache_format(info, sm_version)]
    asked = KV_DTYPE_BYTES[tables.arguments["kvcache_quant_mode"]]
    runtime = GIB * (RUNTIME_GIB + LINK_GIB * math.log2(layout.tp) + graphs_gib)
    counted, index = (share * each for each in _index_bytes(info.get("raw_config", {}), layers))
    followed = share * known["kv_size_per_token_bytes"] - counted
    if asked == KV_DTYPE_BYTES["fp8"] and sm_version in BLACKWELL_SM:
        followed -= share * layers * _rotary_bytes(info.get("raw_config", {}))
    return KvCapacity(
        kv_bytes_per_token=followed * own / asked + index,
        total_bytes=_total_bytes(tables.system, tables.gpu["mem_capacity"]),
        fixed_bytes=weights_bytes(tables, breakdown["weights_bytes"]) + runtime,
        bytes_per_batched_token=_token_bytes(info, layout.tp) or breakdown["activations_bytes"] / STEP_TOKENS,
        element_bytes=own,
        index_bytes_per_token=index,
        error_bytes=GIB * _error_gib(tables),
    )


def token_cache_bytes(tables: KernelTables) -> float | None:
    """Keys and values of a token in all layers, on one GPU; None where not every layer keeps them, or none is known."""
    known = _package_estimate(tables)
    if known is None or not keeps_every_token(tables.model_info.get("raw_config", {})):
        return None
    return float(known["kv_size_per_token_bytes"])


def layer_bytes(tables: KernelTables) -> float | None:
    """What the weights of the layers take of one GPU, without embeddings and logits; None where it is not known."""
    known, info = _package_estimate(tables), tables.model_info
    if known is None or not info.get("hidden_size"):
        return None
    ends = 2 * 2.0 * float(info["vocab"]) * float(info["hidden_size"]) / tables.layout.tp
    return float(known["memory_breakdown"]["weights_bytes"]) - ends


def weights_fit(tables: KernelTables, settings: Mapping[str, Any]) -> bool:
    """Whether a GPU holds its share of the weights, also of a model whose cache is not modelled; True where the package
    does not know them. kv_cache_memory_bytes is found beside them in the whole memory.
    """
    known = _package_estimate(tables)
    if known is None:
        return True
    cache_bytes = settings.get("kv_cache_memory_bytes") or 0  # none given, as in vLLM
    share = 1.0 if cache_bytes else settings.get("gpu_memory_utilization", DEFAULT_MEMORY_SHARE)
    left = float(share) * _total_bytes(tables.system, tables.gpu["mem_capacity"]) - float(cache_bytes)
    return weights_bytes(tables, known["memory_breakdown"]["weights_bytes"]) < left


def _index_bytes(config: Mapping[str, Any], layers: int) -> tuple[float, float]:
    """What the index keys of sparse attention take of a token in all layers: as the package counts them, and in vLLM.
    Each GPU holds all of them, in a format of their own.

    The package counts none of MiniMax-M3, which has bfloat16 ones in its sparse layers (MiniMaxM3IndexerCache,
    vllm/models/minimax_m3/common/indexer.py), and counts them in every layer of DeepSeek's sparse attention, where
    layers may take the selection of the one before (DeepseekV2MLAAttention, vllm/model_executor/models/deepseek_v2.py).
    """
    text = text_part(config)
    if sparse := text.get("sparse_attention_config"):
        with_keys = sum(map(bool, sparse.get("sparse_attention_freq") or ()))
        return 0.0, 2.0 * float(sparse.get("sparse_index_dim") or 0) * with_keys
    if not (text.get("kv_lora_rank") and text.get("index_topk")):
        return 0.0, 0.0
    width = int(text["index_head_dim"])
    key_bytes = float(width + 4 * (width // INDEX_ELEMENTS_A_SCALE))
    with_keys = sum(not _takes_selection(text, layer) for layer in range(layers))
    return key_bytes * layers, key_bytes * with_keys


def _takes_selection(text: Mapping[str, Any], layer: int) -> bool:
    """Whether the layer attends to the tokens that one before it selected, and has no index keys."""
    pattern = text.get("index_topk_pattern")
    if pattern is not None:
        return layer < len(pattern) and pattern[layer] == "S"
    offset = text.get("index_skip_topk_offset")
    behind = max(layer - int(2 if offset is None else offset) + 1, 0)
    return behind % int(text.get("index_topk_freq") or 1) != 0


def _rotary_bytes(config: Mapping[str, Any]) -> float:
    """Of an fp8 cache under DeepSeek's sparse attention, what the package counts too much in a layer on data-centre
    Blackwell: the rotary part of a key is in bfloat16 in Hopper's packed format alone
    (_canonicalize_sparse_mla_kv_cache_dtype, vllm/model_executor/layers/attention/mla_attention.py)."""
    text = text_part(config)
    is_sparse = text.get("kv_lora_rank") and text.get("index_topk")
    return float(text["qk_rope_head_dim"]) if is_sparse else 0.0


def kv_note(capacity: KvCapacity | None, settings: Mapping[str, Any], has_encoder: bool = False) -> str:
    """How far the estimate may be off, for the notes of a profile whose defaults are `settings`, and of a model that
    has an image encoder or none."""
    if capacity is None:
        return "KV capacity is not known"
    error_gib, share = capacity.error_bytes / GIB, 100 * capacity.error_share(settings)
    told = f"{figure(share, 2)} % of the KV cache at the defaults"
    encoder = ", without what the image encoder takes while it runs" if has_encoder else ""
    return f"KV capacity is an estimate{encoder}, to about {error_gib:g} GiB a GPU: {told}"


def _package_estimate(tables: KernelTables) -> dict[str, Any] | None:
    """Of a GPU of boundless memory: the package refuses where nothing is left, by reservations that are not ours."""
    from aiconfigurator_core.sdk.memory import estimate_kv_cache

    try:
        found: dict[str, Any] = estimate_kv_cache(
            tables.model,
            tables.system,
            "vllm",
            backend_version=tables.version,
            max_num_tokens=STEP_TOKENS,
            max_batch_size=256,
            memory_fraction_kind="of_total",
            memory_fraction_value=1.0,
            gpu_memory_capacity_bytes_override=1 << 50,
            **tables.arguments,
        )
    except ValueError:  # the package lacks what it takes to tell
        return None
    return found


def _total_bytes(system: str, nominal_bytes: float) -> float:
    return GIB * TOTAL_GIB[system] if system in TOTAL_GIB else REPORTED_SHARE * nominal_bytes


def _error_gib(tables: KernelTables) -> float:
    encoder_gib = ENCODER_ERROR_GIB if tables.has_encoder else 0.0
    if tables.is_latent:
        return LATENT_ERROR_GIB + encoder_gib
    if tables.is_mixture:
        return MIXTURE_ERROR_GIB + encoder_gib
    return (CUT_ERROR_GIB if tables.layout.tp * tables.layout.pp > 1 else DENSE_ERROR_GIB) + encoder_gib


def _token_bytes(model_info: Mapping[str, Any], tp: int) -> float:
    """Bytes in use at once for a token of the largest step, 2 an element: gate and up projection with their product,
    cut over the GPUs, beside residual, normed hidden state, hidden state and output. 0 where the sizes are not known.

    The sampler's dry run, at max_num_seqs, comes after it and takes less: 0.32's default model runner copies no logits
    (_dummy_sampler_run, vllm/v1/worker/gpu/model_runner.py). That of vLLM 0.11 took 4 to 5 GiB more, with 1024 seats.
    """
    inner, hidden = _inner_size(model_info), model_info.get("hidden_size")
    return 2.0 * (3 * inner / tp + 4 * hidden) if inner and hidden else 0.0


def _inner_size(model_info: Mapping[str, Any]) -> float:
    """Width of the feed-forward layer for one token: of all experts that it is sent to, in a mixture."""
    if not model_info.get("num_experts"):
        return float(model_info.get("inter_size") or 0)
    raw, one = model_info.get("raw_config", {}), model_info.get("moe_inter_size") or 0
    shared = raw.get("shared_expert_intermediate_size") or one * (raw.get("n_shared_experts") or 0)
    return float(one * (model_info.get("topk") or 0) + shared)
