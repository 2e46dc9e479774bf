"""The names of vLLM's arguments: which there are, how they may be spelled, and which are switches."""

from functools import cache
from importlib.resources import files

SWITCH = "switch"
"""Behind a name in vllm-arguments.txt: on or off, a word alone on a command line (argparse.BooleanOptionalAction)."""
FLAGLESS = "flagless"
"""Behind a name there: of Python's interface alone; the command line of 0.32 has no such argument."""
MARKS = (SWITCH, FLAGLESS)

ON_BY_DEFAULT = frozenset(
    {
        "async_scheduling",
        "enable_chunked_prefill",
        "enable_flashinfer_autotune",
        "enable_prefix_caching",
        "scheduler_reserve_full_isl",
        "swa_bounded_replay",
    }
)
"""Switches that are on where nobody names them, for most models and machines, and change a schedule or times
(EngineArgs, vllm/engine/arg_utils.py, and VllmConfig, vllm/config/vllm.py)."""

SHORT_NAMES = {
    "O": "optimization_level",
    "ac": "attention_config",
    "asc": "api_server_count",
    "cc": "compilation_config",
    "dc": "diffusion_config",
    "dcp": "decode_context_parallel_size",
    "dp": "data_parallel_size",
    "dpa": "data_parallel_address",
    "dpb": "data_parallel_backend",
    "dpe": "data_parallel_external_lb",
    "dph": "data_parallel_hybrid_lb",
    "dpl": "data_parallel_size_local",
    "dpm": "data_parallel_multi_port_external_lb",
    "dpn": "data_parallel_rank",
    "dpp": "data_parallel_rpc_port",
    "dpr": "data_parallel_start_rank",
    "ep": "enable_expert_parallel",
    "n": "nnodes",
    "pcp": "prefill_context_parallel_size",
    "pp": "pipeline_parallel_size",
    "q": "quantization",
    "r": "node_rank",
    "sc": "speculative_config",
    "tp": "tensor_parallel_size",
}
"""What vLLM's command line takes with one dash, and no file does (add_cli_args, vllm/engine/arg_utils.py)."""
OTHER_NAMES = {"device_memory_utilization": "gpu_memory_utilization"}
"""A second name that both take."""


@cache
def argument_lines() -> dict[str, tuple[str, ...]]:
    """vLLM's engine arguments (fields of AsyncEngineArgs, vllm/engine/arg_utils.py) and what stands behind each in
    vllm-arguments.txt: versions (versions.argument_versions) and marks."""
    lines = files(__package__).joinpath("vllm-arguments.txt").read_text(encoding="utf-8").splitlines()
    return {name: tuple(words) for name, *words in map(str.split, lines)}


@cache
def vllm_argument_names() -> frozenset[str]:
    """Names of vLLM's engine arguments."""
    return frozenset(argument_lines())


@cache
def servers_argument_names() -> frozenset[str]:
    """Names of what `vllm serve` takes for its server alone, such as port (vllm/entrypoints/launchers/cli_args.py)."""
    text = files(__package__).joinpath("vllm-serve-arguments.txt").read_text(encoding="utf-8")
    return frozenset(text.split()) - vllm_argument_names()


def spelled(name: str) -> str:
    """An argument's name as vLLM's own code spells it."""
    key = name.strip().lstrip("-").replace("-", "_")
    return OTHER_NAMES.get(key, key)


def is_flagless(key: str) -> bool:
    """Whether vLLM's command line, and so its file, has no such argument."""
    return FLAGLESS in argument_lines().get(key, ())


def is_switch(key: str) -> bool:
    """Whether this, or what this is the no_ of, is a switch."""
    lines = argument_lines()
    return SWITCH in lines.get(key, lines.get(key.removeprefix("no_"), ()))
