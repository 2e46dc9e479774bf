"""What a model folder says about the model, read before an engine is started for nothing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError

OTHER_STATES = (
    "hybrid_override_pattern",
    "layers_block_type",
    "full_attention_interval",
    "sliding_window_pattern",
    "attention_chunk_size",
    "linear_attn_config",
    "ssm_cfg",
    "mamba_d_state",
    "ssm_state_size",
)
"""Names in a config.json that tell of layers of several kinds."""
ATTENTION = 1
"""Of the kinds in an attn_type_list, the one that keeps every token, and the only one in MiniMax-M2's; 0 is linear
attention (get_num_layers_by_block_type, vllm/config/model.py)."""
POOLING_MODULES = (
    "sentence_transformers.models.Pooling",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
)
"""Types in a modules.json by which vLLM takes any model for one that embeds (_ST_POOLING_MODULE_TYPES,
vllm/transformers_utils/config.py)."""
POOLING_ENDINGS = (
    "ForTextEncoding",
    "EmbeddingModel",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForRewardModeling",
    "RewardModel",
)
"""Ends of the names of text architectures that embed or classify (_SUFFIX_TO_DEFAULTS, vllm/config/model.py)."""
UNKNOWN_VOCABULARY = 32000
"""Token ids of a model whose config is not at hand, or does not say: no widely used model has fewer."""


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a config.json says of the model that writes: of one that also sees, its part."""
    part: Mapping[str, Any] = config.get("text_config") or config
    return part


def keeps_every_token(config: Mapping[str, Any]) -> bool:
    """Whether every layer keeps the keys and values of every token, as far as a model's config.json tells.

    Where some forget (a sliding window) or have another state (Mamba, linear attention), vLLM makes groups of layers
    that share the blocks (vllm/v1/core/kv_cache_utils.py), and a block no longer holds block_size tokens.
    """
    text = text_part(config)
    kinds = text.get("layer_types") or ()
    window, longest = (int(text.get(name) or 0) for name in ("sliding_window", "max_position_embeddings"))
    forgets = window > 0 and text.get("use_sliding_window") is not False and window < longest
    forgets |= any(kind != ATTENTION for kind in text.get("attn_type_list") or ())
    return not (forgets or len(set(kinds)) > 1 or any(text.get(name) for name in OTHER_STATES))


def vocabulary_of(model: str) -> int:
    """Number of token ids. Raises InputError as `read_model_folder` does."""
    config = read_model_folder(model) or {}
    return int(text_part(config).get("vocab_size", UNKNOWN_VOCABULARY))


def lasting_name(model: str) -> str:
    """The name under which the model is found from any directory: a folder's is its whole path, since elsewhere a
    relative one would be asked of the hub."""
    return str(Path(model).absolute()) if Path(model).is_dir() else model


def read_model_folder(model: str) -> dict[str, Any] | None:
    """The config.json of the folder that `model` names, None where it is a name on a model hub.

    Raises InputError for a path that is no model folder, and for a model that vLLM would not generate with.
    """
    path = Path(model)
    if not path.exists() and not model.startswith(("/", "./", "../", "~")) and model.count("/") <= 1:
        return None
    if not path.is_dir():
        raise InputError(f"--model {model}: no such folder")
    config = path / "config.json"
    if not config.is_file():
        raise InputError(f"--model {model}: not a model folder, it has no config.json")
    content = _read_json(config)
    if not isinstance(content, dict) or not (content.get("architectures") or content.get("model_type")):
        raise InputError(f"{config}: names neither architectures nor model_type, so this is no model folder")
    if sign := _generates_nothing(path, content):
        told = "vLLM embeds or classifies with it and generates nothing; give a model that generates"
        raise InputError(f"--model {model}: {sign}: {told}")
    return content


def _generates_nothing(folder: Path, config: Mapping[str, Any]) -> str | None:
    """What in the folder tells vLLM that the model embeds or classifies; None where nothing does."""
    modules = folder / "modules.json"
    listed = _read_json(modules) if modules.is_file() else []
    if isinstance(listed, list) and any(isinstance(one, dict) and one.get("type") in POOLING_MODULES for one in listed):
        return "its modules.json names a Pooling module"
    architectures = config.get("architectures")
    first = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    return f"its config.json names {first}" if first.endswith(POOLING_ENDINGS) else None


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable as JSON ({error})") from error
