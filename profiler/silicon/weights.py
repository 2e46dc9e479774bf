"""What a model's weights take of a GPU: the table package's count, without what it counts too much.

It leaves the embeddings of some models whole on every GPU of a layer, which vLLM cuts (VocabParallelEmbedding,
vllm/model_executor/layers/vocab_parallel_embedding.py), counts tied ones twice, and takes the first layers of
DeepSeek's kind, which are dense (`first_k_dense_replace`), for mixtures like the others.
"""

from typing import Any

from .tables import KernelTables

ELEMENT_BYTES = 2.0
"""Of an embedding, which no checkpoint quantises."""


def weights_bytes(tables: KernelTables, counted_bytes: float) -> float:
    """Bytes on one GPU, of which the package counts `counted_bytes`."""
    operations = _operations(tables)
    too_much = _whole_embedding_bytes(tables, operations) + _mixtures_too_many_bytes(tables, operations)
    return counted_bytes - too_much / tables.layout.pp - _second_embedding_bytes(tables)


def _operations(tables: KernelTables) -> dict[str, Any]:
    """The package's operations of a prefill, by name, which it tells by this attribute alone."""
    from aiconfigurator_core.sdk.config_builders import build_model_config
    from aiconfigurator_core.sdk.models import get_model

    config = build_model_config(attention_dp_size=1, fmha_quant_mode=None, comm_quant_mode=None, **tables.arguments)
    operations = get_model(tables.model, config, "vllm").context_ops
    return {one._name: one for one in operations}


def _embedding_bytes(tables: KernelTables) -> float:
    """Of one of the model's two, cut over the GPUs of a layer."""
    info = tables.model_info
    return ELEMENT_BYTES * float(info["vocab"]) * float(info["hidden_size"]) / tables.layout.tp


def _whole_embedding_bytes(tables: KernelTables, operations: dict[str, Any]) -> float:
    counted = operations.get("context_embedding")
    return max(0.0, float(counted.get_weights()) - _embedding_bytes(tables)) if counted else 0.0


def _mixtures_too_many_bytes(tables: KernelTables, operations: dict[str, Any]) -> float:
    info, experts = tables.model_info, operations.get("context_moe")
    config = info.get("raw_config", {})
    dense = int(config.get("text_config", config).get("first_k_dense_replace") or 0)
    if not experts or not dense:
        return 0.0
    layers = float(experts._scale_factor)
    too_many = max(0.0, layers - (int(info["layers"]) - dense))
    # A dense layer is as wide as a few experts, of which a mixture has hundreds.
    width = float(info.get("inter_size") or 0) / (float(info["num_experts"]) * float(info["moe_inter_size"]))
    return too_many / layers * float(experts.get_weights()) * (1.0 - width)


def _second_embedding_bytes(tables: KernelTables) -> float:
    """Of tied embeddings: the package counts them twice, as the first and last of several stages do."""
    if tables.layout.pp > 1 or not tables.model_info.get("raw_config", {}).get("tie_word_embeddings"):
        return 0.0
    return _embedding_bytes(tables)
