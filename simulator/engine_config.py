"""Engine settings under vLLM's own names: parsed from text, checked as vLLM checks them, resolved with its defaults."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, unknown_name
from .speculation import ASYNCHRONOUS, Speculation, assume_acceptance, parse_speculation
from .versions import VersionRules, argument_versions, check_settings, rules_for

Settings = dict[str, Any]
"""What somebody asked for: vLLM argument names and values, nothing else. Travels through studies and exports."""

UNLIMITED_MODEL_LEN = 1 << 30
"""max_model_len where nobody names one: no request is too long."""
LARGEST = 1 << 50
"""Of the whole numbers that a setting can have: a petabyte."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Every setting that the simulated engine obeys, resolved. Defaults: vLLM 0.32 on a GPU of 70 GiB or more.

    Sources: vllm/config/scheduler.py, vllm/config/cache.py, vllm/engine/arg_utils.py.
    """

    num_gpu_blocks: int
    """KV-cache blocks of block_size tokens; block 0 is vLLM's null block, so one less is usable."""
    max_model_len: int = UNLIMITED_MODEL_LEN
    max_num_batched_tokens: int = 8192
    max_num_scheduled_tokens: int | None = None
    max_num_seqs: int = 1024
    max_num_active_seqs: int | None = None
    long_prefill_token_threshold: int = 0
    long_prefill_token_threshold_adaptive: bool = False
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    scheduling_policy: str = "fcfs"
    scheduler_reserve_full_isl: bool = True
    watermark: float = 0.0
    async_scheduling: bool = True
    stream_interval: int = 1
    block_size: int = 16
    max_num_queued_reqs: int | None = None
    max_num_queued_tokens: int | None = None
    pipeline_parallel_size: int = 1
    tensor_parallel_size: int = 1
    speculative_config: Speculation | None = None
    vllm_version: str | None = None
    """Whose rules hold; None: the newest known."""

    def __post_init__(self) -> None:
        _check_ranges(self)
        _check_relations(self)

    @property
    def version_rules(self) -> VersionRules:
        """The rules of vllm_version."""
        return rules_for(self.vllm_version)

    @property
    def token_budget(self) -> int:
        """Tokens that one schedule may hand out."""
        reserved = 0
        if self.speculative_config and not self.version_rules.counts_draft_slots:
            reserved = self.speculative_config.draft_slots(self.version_rules) * self.max_num_seqs
        most = self.max_num_batched_tokens
        return min(self.max_num_scheduled_tokens or most - reserved, most)


SIMULATED = frozenset(f.name for f in fields(EngineConfig)) - {"num_gpu_blocks", "vllm_version"}
"""Settings that change the simulated schedule."""

PROFILED = frozenset({"num_gpu_blocks_override", "gpu_memory_utilization", "kv_cache_memory_bytes"})
"""Settings that change the number of KV blocks, through the profile."""

NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""What PyYAML raises; a ValueError for what looks like a date and is none, too many digits, and bytes not UTF-8."""
HUMAN_READABLE = frozenset(
    {
        "kv_cache_memory_bytes",
        "max_model_len",
        "max_num_batched_tokens",
        "max_num_queued_tokens",
        "max_num_scheduled_tokens",
    }
)
"""Settings whose numbers vLLM takes with a suffix (EngineArgs, vllm/engine/arg_utils.py)."""


_TEXTS = """
    model model_weights tokenizer hf_config_path allowed_local_media_path download_dir config_format master_addr
    data_parallel_address offload_backend revision code_revision tokenizer_revision mm_encoder_attn_dtype
    mm_encoder_fp8_scale_path mm_encoder_fp8_scale_save_path io_processor_plugin video_pruning_method reasoning_parser
    reasoning_parser_plugin spec_method spec_model show_hidden_metrics_for_version otlp_traces_endpoint worker_cls
    worker_extension_cls log_config_file generation_config model_impl
"""
TEXTS = frozenset(_TEXTS.split())
"""Settings that are text (`str` in EngineArgs), whatever YAML would make of it: a revision 0123456 is no number."""

SERVED_AS = "served_model_name"
"""Text or a list of texts, of which 0123 is one too."""

_CACHE_DTYPES = """
    auto float16 bfloat16 fp8 fp8_e4m3 fp8_e5m2 fp8_inc fp8_ds_mla nvfp4_ds_mla turboquant_k8v4 turboquant_4bit_nc
    turboquant_k3v4_nc turboquant_3bit_nc ultraquant_4bit int4_per_token_head int8_per_token_head fp8_per_token_head
    nvfp4 nvfp4_4over6
"""
CACHE_DTYPES = tuple(_CACHE_DTYPES.split())
"""Values of kv_cache_dtype (CacheDType, vllm/config/cache.py)."""
_KINDS_BESIDES = {
    "num_gpu_blocks_override": "int | None",
    "kv_cache_memory_bytes": "int | None",
    "gpu_memory_utilization": "float",
    "enforce_eager": "bool",
    "cudagraph_capture_sizes": "list[int] | None",
    "max_cudagraph_capture_size": "int | None",
}
"""Types of settings that a profile follows and EngineConfig does not have."""

_NUMBERS: dict[str, Callable[[str], float]] = {"int": int, "float": float}
"""How vLLM's command line reads those kinds."""


def vllm_argument_names() -> frozenset[str]:
    """Names of vLLM 0.32's engine arguments (fields of AsyncEngineArgs, vllm/engine/arg_utils.py)."""
    return frozenset(argument_versions())


def vllm_serve_argument_names() -> frozenset[str]:
    """Names of what `vllm serve` 0.32 takes for its server, such as port (vllm/entrypoints/launchers/cli_args.py)."""
    text = files(__package__).joinpath("vllm-0.32-serve-arguments.txt").read_text(encoding="utf-8")
    return frozenset(text.split())


def parse_settings(
    assignments: Iterable[str] = (), config_file: Path | None = None, acceptance: str | None = None
) -> Settings:
    """Settings from `name=value` texts and a `vllm serve --config` YAML file; the texts win.

    What the file says of the server and not of the engine, such as its port, is passed over.
    `acceptance` is how many drafts of a `speculative_config` are accepted (speculation.acceptance_rates_of).
    Raises InputError for an unknown name (with the nearest valid one) or a value of the wrong type.
    """
    settings = _read_config_file(config_file) if config_file else {}
    for text in assignments:
        name, found, value = text.partition("=")
        if not found:
            raise InputError(f"--engine {text!r}: expected name=value, for example max_num_seqs=64")
        settings |= setting(name, value, f"--engine {text}")
    return _with_acceptance(settings, acceptance) if acceptance else settings


def _with_acceptance(settings: Settings, acceptance: str) -> Settings:
    """The settings with this many drafts accepted. Raises InputError where nothing is drafted."""
    config = settings.get("speculative_config")
    if not config:
        raise nothing_drafted(acceptance)
    return settings | {"speculative_config": assume_acceptance(config, acceptance)}


def nothing_drafted(acceptance: str) -> InputError:
    """The InputError for an acceptance without drafts."""
    return InputError(f"--acceptance-rate {acceptance}: needs --engine speculative_config='{{...}}'")


def _read_config_file(path: Path) -> Settings:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except NOT_YAML as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of vLLM arguments, found {type(content).__name__}")
    settings: Settings = {}
    served = vllm_serve_argument_names() - vllm_argument_names()
    for name, value in content.items():
        if _key(str(name)).removeprefix("no_") not in served:
            settings |= setting(str(name), value, f"{path}: {name}")
    return settings


def _key(name: str) -> str:
    return name.strip().lstrip("-").replace("-", "_")


def setting(name: str, value: Any, where: str) -> Settings:
    """One setting, checked, under vLLM's name; `no-NAME` is NAME off, and where it is false nothing, as in vLLM.

    Raises InputError, which begins with `where`, for a name that vLLM does not have and a value of the wrong type.
    """
    key = _key(name)
    valid = vllm_argument_names()
    if key not in valid and key.startswith("no_") and key[3:] in valid:
        parsed = _parsed(value, where)
        if not isinstance(parsed, bool):
            raise InputError(f"{where}: {key} takes bool, not {value!r}")
        return {key[3:]: False} if parsed else {}
    if key not in valid:
        raise InputError(f"{where}: {unknown_name('engine setting', name, valid)}")
    return {key: typed(key, value, where)}


def typed(name: str, value: Any, where: str) -> Any:
    """`value` as the type of the setting `name`; a setting that is not simulated keeps the type YAML gives it."""
    if name in TEXTS and isinstance(value, str) and value not in ("null", "~", ""):
        return value
    parsed = _parsed(value, where)
    if name == SERVED_AS and not isinstance(parsed, list | None):
        return str(value)
    if isinstance(parsed, date):  # YAML's; no setting is one
        parsed = value = str(value)
    kind = _kind(name)
    read = _NUMBERS.get((kind or "").split(" ")[0])
    if read and parsed is not None and isinstance(value, str):
        parsed = _decimal(value, read)
    if name in HUMAN_READABLE and isinstance(parsed, str):
        parsed = _human_readable(parsed)
    if name == "kv_cache_dtype" and parsed not in CACHE_DTYPES:
        raise InputError(f"{where}: {unknown_name(name, str(value), CACHE_DTYPES)}")
    if kind is None or name == "speculative_config" or (parsed is None and "None" in kind):
        return parsed
    if kind.startswith("bool") and isinstance(parsed, bool):
        return parsed
    if kind.startswith("int") and isinstance(parsed, int) and not isinstance(parsed, bool):
        if abs(parsed) > LARGEST:
            raise InputError(f"{where}: {name}={parsed} is out of range")
        return parsed
    if kind.startswith("float") and isinstance(parsed, int | float) and not isinstance(parsed, bool):
        return float(parsed)
    if kind.startswith("list") and isinstance(parsed, list) and all(type(item) is int for item in parsed):
        return parsed
    if kind == "str" and isinstance(parsed, str):
        return parsed
    raise InputError(f"{where}: {name} takes {kind.split(' ')[0]}, not {value!r}")


def _parsed(value: Any, where: str) -> Any:
    """What YAML makes of a text; anything else as it is."""
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except NOT_YAML as error:
        raise InputError(f"{where}: not YAML: {' '.join(str(error).split())}") from error


def _decimal(text: str, read: Callable[[str], float]) -> float | str:
    """A number as vLLM's command line reads it, where YAML has octal ones (010), base 60 (1:30) and neither 08 nor
    1e-2; other text as it is."""
    try:
        return read(text)
    except ValueError:
        return text


def _human_readable(text: str) -> int | str:
    """`25.6k` or `2G` as vLLM takes them (vllm/utils/argparse_utils.py, human_readable_int); other text as it is."""
    match = re.fullmatch(r"(\d+)(\.\d+)?([kmgt])", text) or re.fullmatch(r"(\d+)()([KMGT])", text)
    if match is None:
        return text
    power = "kmgt".index(match[3].lower()) + 1
    return int(float(match[1] + (match[2] or "")) * (1000 if match[3].islower() else 1024) ** power)


def _kind(name: str) -> str | None:
    simulated = {f.name: str(getattr(f.type, "__name__", f.type)) for f in fields(EngineConfig)}
    return (simulated | _KINDS_BESIDES).get(name)


def resolve(
    settings: Mapping[str, Any], defaults: Mapping[str, Any], num_gpu_blocks: int, vllm_version: str | None = None
) -> EngineConfig:
    """The configuration the engine would run with: what was asked, over the hardware's defaults, over vLLM's.

    Raises InputError for values that vLLM refuses, and for settings that `vllm_version` does not have.
    """
    check_settings(settings, vllm_version)
    filled = dict(settings) | _batch_defaults(settings, dict(defaults))
    chosen = {k: v for k, v in (dict(defaults) | filled).items() if k in SIMULATED}
    chosen |= _speculative(settings, chosen, rules_for(vllm_version))
    return EngineConfig(num_gpu_blocks=num_gpu_blocks, vllm_version=vllm_version, **chosen)


def _speculative(settings: Mapping[str, Any], chosen: Settings, version: VersionRules) -> Settings:
    """Speculation, and async scheduling where it works with it (VllmConfig.__post_init__, vllm/config/vllm.py)."""
    if not chosen.get("speculative_config"):
        return {"speculative_config": None}
    speculation = parse_speculation(chosen["speculative_config"])
    if speculation.method == "draft_model" and not version.overlaps_draft_model:
        asked = settings if "speculative_config" in settings else chosen
        return {"speculative_config": speculation, "async_scheduling": asked.get("async_scheduling", False)}
    if speculation.method in ASYNCHRONOUS:
        return {"speculative_config": speculation}
    if settings.get("async_scheduling"):
        raise InputError(f"async_scheduling=true: does not work with speculative method {speculation.method}")
    return {"speculative_config": speculation, "async_scheduling": False}


def _batch_defaults(settings: Mapping[str, Any], defaults: Settings) -> Settings:
    """What vLLM makes of a batch limit that nobody set, given the other settings.

    Source: EngineArgs._set_default_max_num_seqs_and_batched_tokens_args (vllm/engine/arg_utils.py).
    """
    known: dict[str, Any] = {f.name: f.default for f in fields(EngineConfig)} | defaults | dict(settings)
    for name in ("max_model_len", "max_num_seqs"):  # what follows from a wrong one would be blamed otherwise
        if known[name] < 1:
            raise InputError(f"{name}={known[name]}: must be at least 1")
    filled: Settings = {}
    tokens = known["max_num_batched_tokens"]
    if "max_num_batched_tokens" not in settings:
        if not known["enable_chunked_prefill"] and known["max_model_len"] < UNLIMITED_MODEL_LEN:
            tokens = max(tokens, known["max_model_len"])
        tokens = min(tokens, known["max_num_seqs"] * known["max_model_len"])
        filled["max_num_batched_tokens"] = tokens
    if "max_num_seqs" not in settings:
        filled["max_num_seqs"] = min(known["max_num_seqs"], tokens)
    return filled


AT_LEAST_ONE = (
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_scheduled_tokens",
    "max_num_seqs",
    "max_num_active_seqs",
    "stream_interval",
    "block_size",
    "max_num_queued_reqs",
    "max_num_queued_tokens",
    "pipeline_parallel_size",
    "tensor_parallel_size",
)


def _check_ranges(engine: EngineConfig) -> None:
    for name in AT_LEAST_ONE:
        value = getattr(engine, name)
        if value is not None and value < 1:
            raise InputError(f"{name}={value}: must be at least 1")
    if engine.num_gpu_blocks < 2:
        raise InputError(f"num_gpu_blocks_override={engine.num_gpu_blocks}: one block is vLLM's own, so at least 2")
    if not 0 <= engine.watermark < 1:
        raise InputError(f"watermark={engine.watermark}: must lie in [0, 1)")
    if engine.scheduling_policy not in ("fcfs", "priority"):
        raise InputError(f"scheduling_policy={engine.scheduling_policy}: must be fcfs or priority")


def _check_relations(engine: EngineConfig) -> None:
    """vllm/config/scheduler.py, SchedulerConfig.verify_max_model_len."""
    if engine.max_num_batched_tokens < engine.max_num_seqs:
        raise InputError(
            f"max_num_batched_tokens={engine.max_num_batched_tokens}: must be at least "
            f"max_num_seqs={engine.max_num_seqs}"
        )
    if not engine.enable_chunked_prefill and engine.max_num_batched_tokens < engine.max_model_len < UNLIMITED_MODEL_LEN:
        raise InputError(
            f"max_num_batched_tokens={engine.max_num_batched_tokens}: without chunked prefill it must be at least "
            f"max_model_len={engine.max_model_len}"
        )
    longest = engine.max_model_len if engine.version_rules.limits_threshold else UNLIMITED_MODEL_LEN
    if not 0 <= engine.long_prefill_token_threshold <= longest:
        raise InputError(
            f"long_prefill_token_threshold={engine.long_prefill_token_threshold}: must lie between 0 and "
            f"max_model_len={engine.max_model_len}"
        )
    if engine.max_num_active_seqs is not None and engine.max_num_active_seqs > engine.max_num_seqs:
        raise InputError(
            f"max_num_active_seqs={engine.max_num_active_seqs}: must be at most max_num_seqs={engine.max_num_seqs}"
        )
    if engine.speculative_config:
        _check_speculation(engine, engine.speculative_config)


def _check_speculation(engine: EngineConfig, speculation: Speculation) -> None:
    """VllmConfig._set_max_num_scheduled_tokens (vllm/config/vllm.py); pipeline stages are this simulator's limit."""
    slots = speculation.draft_slots(engine.version_rules)
    rows = 1 if engine.version_rules.counts_draft_slots else engine.max_num_seqs
    if engine.max_num_batched_tokens <= slots * rows:
        raise InputError(
            f"max_num_batched_tokens={engine.max_num_batched_tokens}: must be above the {slots} draft slots a request "
            f"of speculative_config, for {rows} requests"
        )
    if 0 < engine.long_prefill_token_threshold <= speculation.num_speculative_tokens:
        raise InputError(
            f"long_prefill_token_threshold={engine.long_prefill_token_threshold}: must be above the "
            f"{speculation.num_speculative_tokens} draft tokens of speculative_config; vLLM's scheduler fails otherwise"
        )
    if engine.pipeline_parallel_size > 1:
        raise InputError("speculative_config: is not simulated with pipeline_parallel_size above 1")
