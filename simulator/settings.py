"""Settings as people write them, under vLLM's own names: `name=value` texts and `vllm serve --config` files, typed."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..errors import InputError, one_line, unknown_name
from .argument_names import SHORT_NAMES, is_flagless, is_switch, servers_argument_names, spelled, vllm_argument_names
from .config_file import NOT_YAML, engine_arguments, without_the_servers
from .dotted import Written, folded, is_dotted
from .engine_config import EngineConfig
from .number_texts import decimal, human_readable
from .speculation import with_drafts, with_spec_arguments

Settings = dict[str, Any]
"""What somebody asked for: vLLM argument names and values, nothing else. Travels through studies and exports."""

LARGEST = 1 << 50
"""Of the whole numbers that a setting can have: a petabyte."""
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
    turboquant_k3v4_nc turboquant_3bit_nc octave_k3v4 octave_k3v3 octave_k3v3_compact ultraquant_4bit
    int4_per_token_head int8_per_token_head fp8_per_token_head nvfp4 nvfp4_4over6
"""
CACHE_DTYPES = tuple(_CACHE_DTYPES.split())
"""Values of kv_cache_dtype (CacheDType, vllm/config/cache.py)."""
CHOICES = {
    "kv_cache_dtype": CACHE_DTYPES,
    "prefix_caching_hash_algo": ("sha256", "sha256_cbor", "xxhash", "xxhash_cbor"),
}
"""Settings that are one of few words (for the second, PrefixCachingHashAlgo there)."""
_KINDS_BESIDES = {
    "prefix_caching_hash_algo": "str",
    "num_gpu_blocks_override": "int | None",
    "kv_cache_memory_bytes": "int | None",
    "gpu_memory_utilization": "float",
    "enforce_eager": "bool",
    "cudagraph_capture_sizes": "list[int] | None",
    "max_cudagraph_capture_size": "int | None",
}
"""Types of settings that EngineConfig does not have, and that a profile follows or vLLM has no None for."""

_NUMBERS: dict[str, Callable[[str], float]] = {"int": int, "float": float}
"""How vLLM's command line reads those kinds."""


def parse_settings(
    assignments: Iterable[str] = (),
    config_file: str | Path | None = None,
    acceptance: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from `name=value` texts and a `vllm serve --config` YAML file; the texts win.

    A text may also be a switch alone (`enable_lora`, `no-enable-prefix-caching`) or have a short name (`tp=2`). Either
    may name a part of a setting (`speculative-config.method`, dotted.folded).
    What the file says of the server and not of the engine, such as its port, is passed over
    (config_file.of_the_server).
    `acceptance` is how many drafts of a `speculative_config` are accepted (speculation.acceptance_rates_of), which may
    be that of the `defaults` of a profile.
    Raises InputError for an unknown name (with the nearest valid one) or a value of the wrong type.
    """
    in_file = _written(engine_arguments(Path(config_file)), str(config_file)) if config_file else []
    texts = [_assignment(text, "--engine") for text in assignments]
    settings = _whole(in_file)
    for name, value, where in texts:
        if not is_dotted(name):
            settings |= setting(name, value, where)
    settings = _with_parts(settings, [*in_file, *texts])
    told = with_drafts(settings, defaults or {}, acceptance)
    if acceptance and not {**(defaults or {}), **told}.get("speculative_config"):
        raise nothing_drafted(acceptance)
    return told


def checked(settings: Mapping[str, Any]) -> Settings:
    """Settings in a mapping as a file has them: under vLLM's names, and of their types, those of numpy too.

    None is nothing where vLLM has no such value. Raises InputError for an unknown name (with the nearest valid one) or
    a value of the wrong type.
    """
    plain = {name: _plain(value) for name, value in settings.items()}
    nothing = [
        name for name, value in plain.items() if value is None and "None" not in (_kind(spelled(name)) or "None")
    ]
    given = without_the_servers({k: v for k, v in plain.items() if k not in nothing})
    return with_spec_arguments(settings_of(given, "settings"))


def _plain(value: Any) -> Any:
    """Python's own value for one of numpy, a list for a tuple."""
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, tuple) else value


def nothing_drafted(acceptance: str) -> InputError:
    """The InputError for an acceptance without drafts."""
    return InputError(f"--acceptance-rate {acceptance}: needs --engine speculative_config='{{...}}'")


def settings_of(content: Mapping[Any, Any], where: str) -> Settings:
    """The settings that a mapping in a file names. Raises InputError, which begins with `where`, for one that `setting`
    refuses, and for one that is named twice."""
    written = _written(content, where)
    return _with_parts(_whole(written), written)


def _written(content: Mapping[Any, Any], where: str) -> list[Written]:
    return [(str(name), value, where) for name, value in content.items()]


def assigned(text: str, option: str) -> Settings:
    """The setting that a text of this option names whole, as `parse_settings` reads it."""
    return setting(*_assignment(text, option))


def _assignment(text: str, option: str) -> Written:
    """What a `name=value` says, or a switch alone."""
    name, found, value = text.partition("=")
    head, dot, parts = name.strip().lstrip("-").partition(".")
    key = SHORT_NAMES.get(head, head)
    if not found and not is_switch(spelled(key)):
        raise InputError(f"{option} {text!r}: expected name=value, for example max_num_seqs=64")
    if is_flagless(spelled(key)):
        raise InputError(f"{option} {text}: `vllm serve` has no such argument")
    return f"{key}{dot}{parts}", value if found else True, f"{option} {text}"


def _whole(written: Iterable[Written]) -> Settings:
    """The settings that these name whole, each once."""
    settings: Settings = {}
    for name, value, where in written:
        given = {} if is_dotted(name) else setting(name, value, where)
        if twice := given.keys() & settings.keys():
            raise InputError(f"{where}: {', '.join(twice)} is named twice, under two spellings")
        settings |= given
    return settings


def _with_parts(settings: Settings, written: Iterable[Written]) -> Settings:
    """`settings` and those of which these name parts. Raises InputError where one is among both: vLLM would forget one
    of them."""
    for name, (parts, where) in folded(written).items():
        if name in settings:
            raise InputError(f"{where}: {name} is given both whole and in parts; give it in one of these ways")
        settings = settings | setting(name, parts, where)
    return settings


def setting(name: str, value: Any, where: str) -> Settings:
    """One setting, checked, under vLLM's name; `no-NAME` is NAME off, and where it is false nothing, as in vLLM.

    Raises InputError, which begins with `where`, for a name that vLLM does not have and a value of the wrong type.
    """
    key = spelled(name)
    valid = vllm_argument_names()
    if key not in valid and key.startswith("no_") and key[3:] in valid:
        parsed = _parsed(value, f"{where}: {key}")
        if not isinstance(parsed, bool):
            raise InputError(f"{where}: {key} takes bool, not {value!r}")
        return {key[3:]: False} if parsed else {}
    if key in servers_argument_names():
        raise InputError(f"{where}: {key} is the server's, not the engine's; slotune sets what it needs of the server")
    if key not in valid:
        raise InputError(f"{where}: {unknown_name('engine setting', name, valid)}")
    return {key: typed(key, value, where)}


def typed(name: str, value: Any, where: str) -> Any:
    """`value` as the type of the setting `name`; a setting that is not simulated keeps the type YAML gives it."""
    if name in TEXTS and isinstance(value, str) and value not in ("null", "~", ""):
        return value
    parsed = _parsed(value, f"{where}: {name}")
    if name == SERVED_AS and parsed is not None:
        return yaml.load(value, yaml.BaseLoader) if isinstance(value, str) else _texts(value)
    if isinstance(parsed, date):  # YAML's; no setting is one
        parsed = value = str(value)
    kind = _kind(name)
    read = _NUMBERS.get((kind or "").split(" ")[0])
    if read and parsed is not None and isinstance(value, str):
        parsed = decimal(value, read)
    if name in HUMAN_READABLE and isinstance(parsed, str):
        parsed = human_readable(parsed)
    if name in CHOICES and parsed not in CHOICES[name]:
        raise InputError(f"{where}: {unknown_name(name, str(value), CHOICES[name])}")
    if isinstance(parsed, dict):
        parsed = _mapping(name, value, where)
    if kind is None or name == "speculative_config" or (parsed is None and "None" in kind):
        return parsed
    if not _fits(kind, parsed):
        raise InputError(f"{where}: {name} takes {kind.split(' ')[0]}, not {value!r}")
    if kind.startswith("int") and abs(parsed) > LARGEST:
        raise InputError(f"{where}: {name}={parsed} is out of range")
    return float(parsed) if kind.startswith("float") else parsed


def _mapping(name: str, value: Any, where: str) -> Any:
    """A mapping, of text as JSON reads it, which is all that vLLM takes."""
    try:
        mapping = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: {name}: not JSON, which vLLM takes here: {error}") from error
    if name == "kv_transfer_config" and mapping.get("kv_connector") and not mapping.get("kv_role"):
        raise InputError(f"{where}: {name}: has no kv_role, which vLLM asks for: kv_producer, kv_consumer or kv_both")
    return mapping


def _fits(kind: str, value: Any) -> bool:
    """Whether a value is of the type that a setting has."""
    if kind.startswith("bool"):
        return isinstance(value, bool)
    if kind.startswith("list"):
        return isinstance(value, list) and all(type(item) is int for item in value)
    if kind == "str":
        return isinstance(value, str)
    numbers = (int, float) if kind.startswith("float") else int
    return isinstance(value, numbers) and not isinstance(value, bool)


def _texts(value: Any) -> Any:
    """A value that YAML has read, or its items, as text."""
    return [str(item) for item in value] if isinstance(value, list) else str(value)


def _parsed(value: Any, where: str) -> Any:
    """What YAML makes of a text; anything else as it is."""
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except NOT_YAML as error:
        raise InputError(f"{where}: not YAML: {one_line(error)}") from error


@cache
def _kind(name: str) -> str | None:
    simulated = {f.name: f.type.__name__ if isinstance(f.type, type) else str(f.type) for f in fields(EngineConfig)}
    return (simulated | _KINDS_BESIDES).get(name)
