"""What was asked of an engine and is not in a profile's numbers: times, memory, rules by which vLLM schedules."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..arrays import F64
from ..simulator.engine_config import PROFILED, SIMULATED, UNLIMITED_MODEL_LEN, EngineConfig
from ..simulator.speculation import NEEDS_DRAFTER, SPEC_ARGUMENTS, drafting_method, without_acceptance
from ..simulator.step_time import SHAPE_NAMES
from ..simulator.versions import ASSUMED, numbers_of
from .argument_defaults import is_unset
from .graph_sizes import CAPTURE_FOLLOWS, GRAPH_SETTINGS
from .kv_capacity import GIB, KV_DTYPE_BYTES
from .model_folder import lasting_name
from .provenance import CLOSED_FORM, KERNEL_TABLES, MEASURED

if TYPE_CHECKING:
    from .profile import Profile

NOT_SIMULATED = {
    "data_parallel_size": (
        "of a dense model each is an engine of its own (simulate one, or that many replicas); of a mixture of experts "
        "they step together and share the experts, which is not simulated"
    ),
    "data_parallel_size_local": "is 1 of a single engine, which is all that is simulated",
    "prefill_context_parallel_size": "is not simulated",
    "max_num_partial_prefills": "vLLM's V1 engine refuses it",
    "max_long_partial_prefills": "vLLM's V1 engine refuses it",
}
"""Arguments that may only be 1, which changes nothing, and why: of the first, run_engine_core
(vllm/v1/engine/core.py)."""
GENERATING = {"runner": (None, "auto", "generate"), "convert": (None, "auto", "none")}
"""Values of these arguments under which vLLM generates text (_get_runner_type, vllm/config/model.py): under others no
token is sampled."""
OTHER_SCHEDULES = {
    "decode_context_parallel_size": 1,
    "kv_offloading_size": None,
    "kv_transfer_config": None,
    "ec_transfer_config": None,
    "scheduler_cls": None,
    "diffusion_config": None,
    "enable_lora": False,
    "disable_chunked_mm_input": False,
    "structured_outputs_config": None,
    **dict.fromkeys(SPEC_ARGUMENTS),
}
"""Settings under which vLLM schedules by rules that are not simulated, whatever a profile was made with; and the value
under which it does not."""
OTHER_RULES = "vLLM then schedules by other rules, which are not simulated"
RULES_OF_SOME = {
    "enable_lora": (
        "requests of adapters are neither measured nor simulated (slower steps, at most max_loras adapters in a batch, "
        "a prefix cache for each)"
    ),
    "disable_chunked_mm_input": "requests with images are then scheduled otherwise, which is not simulated",
    "structured_outputs_config": (
        "requests for structured output wait for their grammar and hold up sampling, which is not simulated"
    ),
}
"""Of those that concern only some requests, what is told in place of OTHER_RULES. Adapters: Scheduler.schedule
(vllm/v1/core/sched/scheduler.py) and _gen_lora_extra_hash_keys (vllm/v1/core/kv_cache_utils.py); images:
Scheduler._try_schedule_encoder_inputs; grammars: EngineCore.step_with_batch_queue (vllm/v1/engine/core.py)."""
BATCH_LIMITS = ("max_num_batched_tokens", "max_num_seqs")
"""Of which performance_mode=throughput doubles the defaults (EngineArgs, vllm/engine/arg_utils.py)."""
TWO_RUNNERS = (0, 23), (0, 28)
"""From the first to the last of these versions, vLLM chooses one of two model runners by the model's architecture."""
RESERVES_LOOKAHEAD_SINCE = (0, 28)
"""The version from which drafters of several MTP modules bound the chunks of prompts."""
TIMED = frozenset({"async_scheduling", "kv_cache_dtype", "speculative_config"})
"""Settings that the schedule or the memory follows, but that also change what a step costs, which was measured with one
value of them."""
TABLES_DTYPE = "bfloat16"
"""The dtype that kernel tables were measured with."""
HAVE_FORMATS = frozenset({"dtype", "kv_cache_dtype"})
SAME_FORMATS = {"half": "float16", "float": "float32", "fp8_e4m3": "fp8"}
"""Second names of number formats (_STR_DTYPE_TO_TORCH_DTYPE, vllm/config/model.py, and CacheConfig.cache_dtype)."""
OWN_CONTEXT = (
    "past the drafter's own context (max_position_embeddings of its config; 2,048 in many EAGLE heads) vLLM may stop "
    "drafting for the whole batch, or fail, which is not simulated"
)
"""Its V1 model runner stops (GPUModelRunner._input_fits_in_drafter, vllm/v1/worker/gpu_model_runner.py); and vLLM issue
48894: an EAGLE head read beyond its table of positions."""
_OF_LORA = """
    max_loras max_lora_rank max_cpu_loras fully_sharded_loras lora_dtype lora_target_modules
    enable_tower_connector_lora specialize_active_lora enable_mixed_moe_lora_format enable_moe_shared_loras
    max_lora_cls_labels
"""
OF_LORA = frozenset(_OF_LORA.split())
"""Arguments that vLLM reads only with enable_lora (EngineArgs.create_engine_config, vllm/engine/arg_utils.py)."""
OF_ANSWERS = frozenset({"generation_config", "override_generation_config"})
"""Settings that name a top_p or top_k, which the sampler takes time for."""
_NAMES_AND_LOGS = """
    tokenizer tokenizer_mode tokenizer_revision revision code_revision served_model_name trust_remote_code seed
    download_dir load_format config_format hf_config_path hf_token model_loader_extra_config ignore_patterns
    max_parallel_loading_workers pt_load_map_location safetensors_load_strategy safetensors_prefetch_block_size
    safetensors_prefetch_num_threads use_tqdm_on_load skip_tokenizer_init disable_log_stats enable_log_requests
    log_config_file log_level logging_config aggregate_engine_logging show_hidden_metrics_for_version cudagraph_metrics
    kv_cache_metrics kv_cache_metrics_sample enable_mfu_metrics custom_histogram_buckets shutdown_timeout
    distributed_timeout_seconds cpu_distributed_timeout_seconds master_addr master_port data_parallel_address
    data_parallel_rpc_port max_logprobs
    allowed_local_media_path allowed_media_domains reasoning_parser reasoning_parser_plugin
    prefix_caching_hash_algo profiler_config runner convert fail_on_environ_validation
"""
WITHOUT_EFFECT = frozenset(_NAMES_AND_LOGS.split())
"""Arguments that change neither the time of a step nor the memory: names, places, logs, and GENERATING as they have to
be."""


def not_represented(profile: "Profile", settings: Mapping[str, Any]) -> list[str]:
    """A line for each thing that is not in the numbers of an engine so set: what `unrepresented` tells, more memory
    than there is, graphs of other sizes, and other schedules."""
    told: list[str | None] = [*unrepresented(profile, settings).values()]
    if engine := profile.engine_or_none(settings):
        told += [_overcommitted(profile, settings, engine), _other_graphs(profile, settings, engine)]
        told += [_older_runner(engine), _other_blocks(profile, engine), _other_chunks(engine), _shorter_drafter(engine)]
    return [line for line in (*told, _other_cache(profile, settings)) if line]


def unrepresented(profile: "Profile", settings: Mapping[str, Any]) -> dict[str, str]:
    """By setting, a line for each that was asked for and whose effect on time the profile does not hold.

    None for what the simulation follows, for what the profile was made with, and for what has no effect on time. And a
    line for each that changes the schedule in ways that are not simulated, the profile's own among them.
    """
    known = SIMULATED | PROFILED | WITHOUT_EFFECT | NOT_SIMULATED.keys() | (OTHER_SCHEDULES.keys() - {"enable_lora"})
    known |= GRAPH_SETTINGS - {"enforce_eager"} | {"performance_mode"}
    if profile.source != CLOSED_FORM:
        known -= TIMED
    both = {**profile.defaults, **settings}
    known |= frozenset() if both.get("enable_lora") else OF_LORA
    lines = _other_schedules(both) | _doubled_limits(profile, settings)
    for name, asked in settings.items():
        value, made_with = _timed(name, asked), _timed(name, _made_with(profile, name))
        if name in known or value == made_with or (is_unset(name, value) and _unset_in(profile, name)):
            continue
        if name == "model" and made_with is None:
            continue
        value = asked if name in HAVE_FORMATS else value
        how = "without it" if made_with is None else f"with {made_with}"
        memory = "" if _memory_known(profile, name, value) else " and on memory"
        effect = f"its effect on step times{memory} is not in these numbers"
        if name == "speculative_config":
            effect = _upper_limit(asked)
        if name in OF_ANSWERS:
            cut = " and may cut answers" if _may_cut(asked) else ""
            effect = f"it changes how tokens are sampled{cut}, which is not in these numbers"
        begin = f"{lines[name]};" if name in lines else f"{name}={value}:"
        lines[name] = f"{begin} profile {profile.name} was made {how}; {effect}"
    return lines


def _may_cut(generation: Any) -> bool:
    """Whether of OF_ANSWERS a value may cap every answer: a folder, or max_new_tokens (override_max_tokens,
    vllm/entrypoints/openai/completion/serving.py)."""
    if isinstance(generation, Mapping):
        return "max_new_tokens" in generation
    return generation not in ("auto", "vllm")


def _memory_known(profile: "Profile", name: str, value: Any) -> bool:
    """Whether the memory that the engine takes with the value is in the numbers."""
    of_cache = profile.kv is not None and name == "kv_cache_dtype" and str(value) in KV_DTYPE_BYTES
    return of_cache or name == "async_scheduling"  # which takes none


def _upper_limit(config: Any) -> str:
    """What of drafting is not in the numbers of a profile that was made without it."""
    told = "what drafting takes of time and memory is not in these numbers: the gain is an upper limit"
    method = drafting_method(config)
    if method == "ngram":
        return f"{told}, and of ngram a match at every decode is taken for granted unless a benchmark tells otherwise"
    return f"{told}; {OWN_CONTEXT}" if method in NEEDS_DRAFTER else told


def _timed(name: str, value: Any) -> Any:
    """Of a value what the time of a step depends on: not how many drafts are accepted, nor by which path a folder is
    named."""
    if name == "model" and value:
        return lasting_name(str(value))
    if name in HAVE_FORMATS:
        return SAME_FORMATS.get(str(value), value)
    return without_acceptance(value) if name == "speculative_config" and value else value


def _other_schedules(settings: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{name}={value}: {RULES_OF_SOME.get(name, OTHER_RULES)}"
        for name, value in settings.items()
        if name in OTHER_SCHEDULES and value != OTHER_SCHEDULES[name] and not is_unset(name, value)
    }


def _doubled_limits(profile: "Profile", settings: Mapping[str, Any]) -> dict[str, str]:
    """A line where batch limits that nobody gave would be other ones; a profile made so has the limits it ran with."""
    both = {**profile.defaults, **settings}
    given = both if profile.defaults.get("performance_mode") == "throughput" else settings
    left = [name for name in BATCH_LIMITS if given.get(name) is None]
    if both.get("performance_mode") != "throughput" or not left:
        return {}
    told = f"vLLM doubles its default of {' and '.join(left)} then, which is not in these numbers; give them yourself"
    return {"performance_mode": f"performance_mode=throughput: {told}"}


def _other_cache(profile: "Profile", settings: Mapping[str, Any]) -> str | None:
    """A line where kv_cache_memory_bytes was asked of an engine that may not heed it: one without a known driver, whose
    cache came from elsewhere; None where it does."""
    size, kv = settings.get("kv_cache_memory_bytes"), profile.kv
    from_elsewhere = kv and kv.kv_cache_memory_bytes and "kv_cache_memory_bytes" not in profile.defaults
    if not (size and from_elsewhere) or profile.engine.driver is not None:
        return None
    return f"kv_cache_memory_bytes={size}: vLLM on a CPU does not heed it, VLLM_CPU_KVCACHE_SPACE counts there"


def _overcommitted(profile: "Profile", settings: Mapping[str, Any], engine: EngineConfig) -> str | None:
    """A line where num_gpu_blocks_override asks for more memory than the profile knows of; None where it does not."""
    override = settings.get("num_gpu_blocks_override")
    if override is None or profile.kv is None:
        return None
    memory = profile.memory_settings(settings, engine)
    asked, found = int(override) * profile.kv.block_bytes(memory), profile.kv.cache_bytes(memory)
    if asked <= found:
        return None
    return (
        f"num_gpu_blocks_override={override}: takes {asked / GIB:.1f} GiB, and the memory model of profile "
        f"{profile.name} finds {max(found, 0) / GIB:.1f} GiB for the KV cache"
    )


def _other_graphs(profile: "Profile", settings: Mapping[str, Any], engine: EngineConfig) -> str | None:
    """A line where steps of the engine would fall on the other side of its largest CUDA graph than they did where the
    profile was made, and it holds none of that side, or what a graph is worth there is not known; None where that is
    not so, and where the engine captures none.
    """
    if settings.get("enforce_eager") or not len(profile.step.graph_sizes):
        return None
    sizes, most_tokens = profile.graph_sizes(settings), engine.max_num_batched_tokens
    if not len(sizes):
        return None
    made_with, largest = float(profile.step.graph_sizes[-1]), float(sizes[-1])
    least, most = profile.step.hull[:, SHAPE_NAMES.index("tokens")].T
    if largest < min(made_with, most_tokens) and most.max() <= made_with:
        how, side = "fewer", "beyond"
    elif made_with < min(largest, most_tokens) and least.min() > made_with:
        how, side = "more", "within"
    else:
        return _moved_border(profile, settings, sizes, most_tokens)
    return (
        f"the largest CUDA graph has {how} tokens than that of profile {profile.name} ({made_with:g}), which was made "
        f"without any step {side} its own; the time of such steps is not in these numbers"
    )


def _moved_border(profile: "Profile", settings: Mapping[str, Any], sizes: F64, most_tokens: int) -> str | None:
    """The same where the profile has steps of both sides, but not of the same size. Kernel tables do not tell what a
    graph is worth: without one a step waits for the host, which no kernel knows."""
    of_tables = profile.source == KERNEL_TABLES
    below, above = profile.step.between_borders(sizes) if of_tables else profile.step.moved(sizes)
    if not below < min(above, most_tokens):
        return None
    effect = "what steps in between wait for the host" if of_tables else "the time of steps in between"
    made_with = f"{profile.step.graph_sizes[-1]:g}"
    asked = {name: settings[name] for name in sorted(CAPTURE_FOLLOWS & settings.keys())}
    if sizes[-1] < profile.step.graph_sizes[-1] <= asked.get("max_num_batched_tokens", 0):
        del asked["max_num_batched_tokens"]  # so many do not lower it
    by = ", ".join(f"{name}={value}" for name, value in asked.items() if value != profile.defaults.get(name))
    keep = f"max_cudagraph_capture_size={made_with} keeps it there"
    if "cudagraph_capture_sizes" in {**profile.defaults, **settings}:
        keep = f"cudagraph_capture_sizes up to {made_with} keep it there"
    return (
        f"{by}: moves the largest CUDA graph from {made_with} tokens, where profile {profile.name} was made, to "
        f"{sizes[-1]:g}; {effect} is not in these numbers; {keep}"
    )


def _older_runner(engine: EngineConfig) -> str | None:
    """A line where vLLM may run pipeline stages with its older model runner, which holds one step less in flight
    (VllmConfig.max_concurrent_batches and use_v2_model_runner, vllm/config/vllm.py); None where it does not."""
    first, last = TWO_RUNNERS
    numbers = numbers_of(engine.vllm_version) or ASSUMED
    if not (engine.pipeline_parallel_size > 1 and engine.async_scheduling and first <= numbers <= last):
        return None
    return (
        f"pipeline_parallel_size={engine.pipeline_parallel_size}: vLLM {engine.vllm_version} schedules otherwise for "
        "models that it runs with its older model runner (VLLM_USE_V2_MODEL_RUNNER=0), which is not simulated"
    )


def _other_chunks(engine: EngineConfig) -> str | None:
    """A line where a model may have several MTP modules, which each read one token further: the config of the engine
    does not tell (SpeculativeConfig.use_multi_module_mtp, vllm/config/speculative.py, and
    Scheduler._reserve_prefill_lookahead, vllm/v1/core/sched/scheduler.py); None elsewhere."""
    drafts = engine.speculative_config
    if drafts is None or drafts.method != "mtp" or drafts.num_speculative_tokens < 2:
        return None
    if (numbers_of(engine.vllm_version) or ASSUMED) < RESERVES_LOOKAHEAD_SINCE:
        return None
    return (
        "models with several MTP modules schedule prompts otherwise (a chunk never ends within the drafts' lookahead "
        "of the prompt's end), which is not simulated"
    )


def _shorter_drafter(engine: EngineConfig) -> str | None:
    """A line where the drafter is given a context and how long the engine's is, is not known; None elsewhere."""
    drafts = engine.speculative_config
    if drafts is None or drafts.max_model_len is None or engine.max_model_len != UNLIMITED_MODEL_LEN:
        return None
    return (
        f"speculative_config: max_model_len={drafts.max_model_len}: vLLM stops drafting, or fails, for requests that "
        "are longer, which is not simulated"
    )


def _other_blocks(profile: "Profile", engine: EngineConfig) -> str | None:
    """A line where prefixes are cached and layers of several kinds share the blocks: with Mamba or linear attention
    vLLM makes a block as large as a state (_align_hybrid_block_size, vllm/platforms/interface.py) and ends the chunks
    of a prompt at the edges of blocks (_mamba_block_aligned_split, vllm/v1/core/sched/scheduler.py); None elsewhere.
    """
    if "layers of several kinds" not in profile.model_parts or not engine.enable_prefix_caching:
        return None
    return (
        f"layers of several kinds: prefixes are looked up in blocks of {engine.block_size} tokens; with Mamba or "
        "linear attention vLLM's have hundreds (give --engine block_size=N of its log line 'Setting attention block "
        "size to N tokens'), and it cuts every prompt at their edges, which is not simulated"
    )


def is_as_made(profile: "Profile", name: str, value: Any) -> bool:
    """Whether a setting asks for that under which the profile's steps were measured."""
    return bool(_timed(name, value) == _timed(name, _made_with(profile, name)))


def _made_with(profile: "Profile", name: str) -> Any:
    """The value under which the profile's steps were measured; None where that is not known."""
    if name == "async_scheduling":
        return profile.defaults.get(name, True)
    if name == "enforce_eager":
        return profile.defaults.get(name, not profile.cuda_graphs)
    own = _given(profile, name)
    if name == "dtype" and profile.source == KERNEL_TABLES and is_unset(name, own):
        return TABLES_DTYPE
    if name == "kv_cache_dtype" and is_unset(name, own) and profile.kv:
        dtype = _made_with(profile, "dtype")  # of an "auto" cache too, unless the checkpoint names another
        return dtype if KV_DTYPE_BYTES.get(str(dtype)) == profile.kv.element_bytes else own
    return own


def _given(profile: "Profile", name: str) -> Any:
    return profile.defaults.get(name, getattr(profile.engine, name, None))


def _unset_in(profile: "Profile", name: str) -> bool:
    """Whether the profile was made with what vLLM takes where nobody gives the setting."""
    if name in ("async_scheduling", "enforce_eager"):
        return False
    given = profile.defaults.get(name) if profile.source == MEASURED else _given(profile, name)
    return given is None or is_unset(name, given)
