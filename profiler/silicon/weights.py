"""What a model's weights take of a GPU: the table package's count, put right.

It leaves the embeddings of some models whole on every GPU of a layer, which vLLM cuts (VocabParallelEmbedding,
vllm/model_executor/layers/vocab_parallel_embedding.py), counts tied ones twice, and those behind the last layer of some
mixtures of experts not at all; it takes the first layers of DeepSeek's kind of model, which are dense, for mixtures
like the others, and the stages of a pipeline for equal; and it leaves out image encoders.
"""

from collections.abc import Mapping
from typing import Any

from ..model_folder import text_part
from .tables import KernelTables

ELEMENT_BYTES = 2.0
"""Of an embedding, which no checkpoint quantises."""
ENDS = ("context_embedding", "context_logits_gemm")
"""The operations that are no layer's: the first and the last stage have one each."""


def weights_bytes(tables: KernelTables, counted_bytes: float) -> float:
    """Bytes on a GPU of the fullest stage, of which the package counts `counted_bytes` in the mean."""
    info, layout, operations = tables.model_info, tables.layout, _operations(tables)
    layers = int(info["layers"])
    ends = sum(float(operations[name].get_weights()) for name in ENDS if name in operations)
    layer_bytes = (counted_bytes * layout.pp - ends) / layers
    dense, saved_bytes = _dense_layers(info), _saved_bytes(info, operations.get("context_moe"))
    stages, begin = [], 0
    for number in stage_layers(layers, layout.pp):
        stages.append(number * layer_bytes - saved_bytes * max(0, min(dense - begin, number)))
        begin += number
    tied = layout.pp == 1 and bool(info.get("raw_config", {}).get("tie_word_embeddings"))
    stages[0] += 0.0 if tied else _embedding_bytes(tables)
    stages[-1] += _embedding_bytes(tables)
    return max(stages) + _encoder_bytes(tables)


def stage_layers(layers: int, stages: int) -> list[int]:
    """How many layers each stage of a pipeline has (get_pp_indices, vllm/distributed/utils.py)."""
    each, left = divmod(layers, stages)
    return [each + (0 < stages - 1 - stage <= left) for stage in range(stages)]


def _operations(tables: KernelTables) -> dict[str, Any]:
    """The package's operations of a prefill, by name, which it tells by this attribute alone."""
    return {one._name: one for one in _model(tables).context_ops}


def _encoder_bytes(tables: KernelTables) -> float:
    """Of an image encoder, which every stage of a pipeline has (Qwen3VLForConditionalGeneration,
    vllm/model_executor/models/qwen3_vl.py), and which is cut over the GPUs of a layer (mm_encoder_tp_mode,
    vllm/config/multimodal.py); the package has it whole on each. 0 for encoders that the package does not know."""
    return sum(float(one.get_weights()) for one in _model(tables).encoder_ops) / tables.layout.tp


def _model(tables: KernelTables) -> Any:
    from aiconfigurator_core.sdk.config_builders import build_model_config
    from aiconfigurator_core.sdk.models import get_model

    config = build_model_config(attention_dp_size=1, fmha_quant_mode=None, comm_quant_mode=None, **tables.arguments)
    return get_model(tables.model, config, "vllm")


def _embedding_bytes(tables: KernelTables) -> float:
    """Of one of the model's two, cut over the GPUs of a layer."""
    info = tables.model_info
    return ELEMENT_BYTES * float(info["vocab"]) * float(info["hidden_size"]) / tables.layout.tp


def _dense_layers(info: Mapping[str, Any]) -> int:
    """Of a model of mixtures, the first layers that are none."""
    config = info.get("raw_config", {})
    text = text_part(config)
    kinds = text.get("moe_layer_freq")
    if isinstance(kinds, list):
        return next((layer for layer, is_mixture in enumerate(kinds) if is_mixture), len(kinds))
    return int(text.get("first_k_dense_replace") or 0)


def _saved_bytes(info: Mapping[str, Any], experts: Any) -> float:
    """How much less a dense layer takes than the mixture for which the package takes it, if it does."""
    if experts is None or not (dense := _dense_layers(info)):
        return 0.0
    layers = float(experts._scale_factor)
    mistaken = max(0.0, layers - (int(info["layers"]) - dense)) / dense
    # A dense layer is as wide as a few experts, of which a mixture has hundreds.
    width = float(info.get("inter_size") or 0) / (float(info["num_experts"]) * float(info["moe_inter_size"]))
    return mistaken * float(experts.get_weights()) / layers * (1.0 - width)
