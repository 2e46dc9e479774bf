"""How a model is laid out on GPUs: over how many, in which number formats. In vLLM's terms and in the tables'."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import InputError
from ...simulator.engine_config import PROFILED, SIMULATED
from ..argument_defaults import is_unset
from ..graph_sizes import GRAPH_SETTINGS
from ..model_folder import text_part
from ..unrepresented import NOT_SIMULATED, TABLES_DTYPE, WITHOUT_EFFECT

OF_TABLES = frozenset({"model", "enable_expert_parallel", "kv_cache_dtype"})
FOLLOWED = (SIMULATED | PROFILED | GRAPH_SETTINGS | WITHOUT_EFFECT | OF_TABLES) - {
    "speculative_config",
    "enforce_eager",
}
"""Settings that an import follows, or that change nothing; what drafting costs is in no table, and neither is how long
steps wait for the host without any CUDA graph."""
AS_TABLES = {**dict.fromkeys(NOT_SIMULATED, 1), "dtype": TABLES_DTYPE}
"""Other settings, and the value that an import has for them."""
CACHE_FORMATS = {"bfloat16": "bfloat16", "float16": "bfloat16", "fp8": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8"}
"""The tables' names of vLLM's kv_cache_dtype, where they hold it."""
FP8_CACHE_MODELS = frozenset({"GlmMoeDsaForCausalLM"})
"""Architectures whose cache is in fp8 on data-centre Blackwell unless another format is asked for
(verify_and_update_config, vllm/model_executor/models/config.py)."""
BLACKWELL_SM = range(100, 110)
"""Compute capabilities of data-centre Blackwell."""
EXPERT_FORMATS = {"fp8_static": "fp8"}
"""The tables' names of the experts' number format where it differs from that of the dense layers."""
ONE_SCALE = frozenset({"fp8", "fp8_static"})
"""The tables' names of fp8 weights with one scale a tensor; with one a block of them they are fp8_block, whose kernels
take longer on many GPUs."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What is served how."""

    tp: int = 1
    pp: int = 1
    """Pipeline stages, of as many layers each."""
    expert_parallel: bool = False
    """The experts of a mixture are spread over the GPUs whole, in place of being cut like the dense layers."""
    precision: str | None = None
    """The tables' name of the weights' number format, such as fp8 or nvfp4; None: the model's own."""
    kv_cache_dtype: str = "auto"
    dense_precision: str | None = None
    """The same of all weights but the experts'; None: as `precision`."""

    def arguments(self, model_info: Mapping[str, Any], sm_version: float) -> dict[str, Any]:
        """Keyword arguments of the package for this layout, and for a model of which it tells `model_info`, on a GPU of
        that compute capability.

        Raises InputError for a cache of a format that no table holds, and for other scales than the checkpoint has.

        Experts are cut as by vLLM's FusedMoEParallelConfig (vllm/model_executor/layers/fused_moe/config.py), and have
        the precision of the other weights, if those have none of their own. Without a word from the model the cache has
        the model's own format (resolve_kv_cache_dtype_string, vllm/utils/torch_utils.py); the package would take fp8
        for an fp8 model.
        """
        if self.precision in ONE_SCALE and _has_blocks(model_info):
            raise InputError(
                f"--precision {self.precision} has one scale a tensor, but this model's weights have one a block: "
                "leave it out, or give fp8_block"
            )
        cut, spread = (1, self.tp) if self.expert_parallel else (self.tp, 1)
        experts = EXPERT_FORMATS.get(self.precision or "", self.precision) if model_info.get("num_experts") else None
        return {
            "tp_size": self.tp,
            "pp_size": self.pp,
            "moe_tp_size": cut,
            "moe_ep_size": spread,
            "gemm_quant_mode": self.dense_precision or self.precision,
            "moe_quant_mode": experts,
            "kvcache_quant_mode": self.cache_format(model_info, sm_version),
        }

    def cache_format(self, model_info: Mapping[str, Any], sm_version: float) -> str:
        """The tables' name of the number format of the KV cache."""
        if self.kv_cache_dtype == "auto":
            return own_cache_format(model_info, sm_version)
        if self.kv_cache_dtype not in CACHE_FORMATS:
            raise InputError(f"kv_cache_dtype={self.kv_cache_dtype}: kernel tables hold {', '.join(CACHE_FORMATS)}")
        return CACHE_FORMATS[self.kv_cache_dtype]

    def __str__(self) -> str:
        return f"--tp {self.tp}" + (f" --pp {self.pp}" if self.pp > 1 else "")


def _has_blocks(model_info: Mapping[str, Any]) -> bool:
    """Whether the checkpoint is in fp8 with a scale for each block of its weights."""
    config = model_info.get("raw_config", {})
    text = text_part(config)
    quantised = config.get("quantization_config") or text.get("quantization_config") or {}
    return quantised.get("quant_method") == "fp8" and bool(quantised.get("weight_block_size"))


def own_cache_format(model_info: Mapping[str, Any], sm_version: float) -> str:
    """The format that the checkpoint names for its KV cache, or vLLM for such a model on such a GPU; or else the one of
    an unquantised model."""
    config = model_info.get("raw_config", {})
    by_default = sm_version in BLACKWELL_SM and not FP8_CACHE_MODELS.isdisjoint(config.get("architectures") or ())
    return "fp8" if by_default or config.get("kv_cache_quant_algo") == "fp8" else "bfloat16"


def layout_of(tp: int, pp: int, precision: str | None, settings: Mapping[str, Any]) -> Layout:
    """The layout that is asked for. Raises InputError for settings that the tables would not follow."""
    for name, value in (("tensor_parallel_size", tp), ("pipeline_parallel_size", pp)):
        if int(settings.get(name, value)) != value:
            raise InputError(f"{name}={settings[name]}: give it as --{'tp' if name.startswith('tensor') else 'pp'}")
    for name, value in settings.items():
        if name not in FOLLOWED and not is_unset(name, value) and value != AS_TABLES.get(name):
            mend = "give --precision" if name == "quantization" else "leave it out, or measure such an engine"
            raise InputError(f"{name}={value}: kernel tables do not tell what it does to a step; {mend}")
    expert_parallel = bool(settings.get("enable_expert_parallel"))
    return Layout(tp, pp, expert_parallel, precision, str(settings.get("kv_cache_dtype", "auto")))
