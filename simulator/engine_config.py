"""The engine that is simulated: every setting resolved with vLLM's defaults, and checked as vLLM checks them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import InputError
from .speculation import Speculation, parse_speculation
from .versions import ASSUMED, VersionRules, check_settings, numbers_of, rules_for

UNLIMITED_MODEL_LEN = 1 << 30
"""max_model_len where nobody names one: no request is too long."""


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
    prefill_schedule_interval: int = 1
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
    """Whose rules hold; None: those that are assumed (versions.py)."""

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

    @property
    def most_active_seqs(self) -> int:
        """Requests that may run at once (Scheduler.max_num_active_reqs)."""
        most, speculation = self.max_num_active_seqs or self.max_num_seqs, self.speculative_config
        if speculation and speculation.method == "dflash" and self.version_rules.dflash_limits_seqs:
            return min(most, self.max_num_batched_tokens // speculation.lookahead_tokens(self.version_rules))
        return most


SIMULATED = frozenset(f.name for f in fields(EngineConfig)) - {"num_gpu_blocks", "vllm_version"}
"""Settings that change the simulated schedule."""


def simulated_by(vllm_version: str | None) -> frozenset[str]:
    """Settings that change the schedule of this version; prefill_schedule_interval did nothing in a single engine."""
    return SIMULATED if rules_for(vllm_version).delays_prefills else SIMULATED - {"prefill_schedule_interval"}


PROFILED = frozenset({"num_gpu_blocks_override", "gpu_memory_utilization", "kv_cache_memory_bytes"})
"""Settings that change the number of KV blocks, through the profile."""


def resolve(
    settings: Mapping[str, Any], defaults: Mapping[str, Any], num_gpu_blocks: int, vllm_version: str | None = None
) -> EngineConfig:
    """The configuration the engine would run with: what was asked, over the hardware's defaults, over vLLM's.

    Raises InputError for values that vLLM refuses, and for settings that `vllm_version` does not have.
    """
    check_settings(settings, vllm_version)
    filled = dict(settings) | _batch_defaults(settings, dict(defaults))
    chosen = {k: v for k, v in (dict(defaults) | filled).items() if k in SIMULATED}
    chosen |= _speculative(settings, chosen, vllm_version)
    return EngineConfig(num_gpu_blocks=num_gpu_blocks, vllm_version=vllm_version, **chosen)


def _speculative(settings: Mapping[str, Any], chosen: dict[str, Any], vllm_version: str | None) -> dict[str, Any]:
    """Speculation, and async scheduling where it works with it (VllmConfig.__post_init__, vllm/config/vllm.py)."""
    if not chosen.get("speculative_config"):
        return {"speculative_config": None}
    version = rules_for(vllm_version)
    speculation = parse_speculation(chosen["speculative_config"], numbers_of(vllm_version) or ASSUMED)
    if speculation.method == "draft_model" and not version.overlaps_draft_model:
        asked = settings if "speculative_config" in settings else chosen
        return {"speculative_config": speculation, "async_scheduling": asked.get("async_scheduling", False)}
    if speculation.is_asynchronous(version):
        return {"speculative_config": speculation}
    if settings.get("async_scheduling"):
        raise InputError(f"async_scheduling=true: does not work with speculative method {speculation.method}")
    return {"speculative_config": speculation, "async_scheduling": False}


def _batch_defaults(settings: Mapping[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What vLLM makes of a batch limit that nobody set, given the other settings.

    Source: EngineArgs._set_default_max_num_seqs_and_batched_tokens_args (vllm/engine/arg_utils.py).
    """
    known: dict[str, Any] = {f.name: f.default for f in fields(EngineConfig)} | defaults | dict(settings)
    for name in ("max_model_len", "max_num_seqs"):  # what follows from a wrong one would be blamed otherwise
        if known[name] < 1:
            raise InputError(f"{name}={known[name]}: must be at least 1")
    filled: dict[str, Any] = {}
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
    "prefill_schedule_interval",
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
    if engine.max_num_scheduled_tokens and not engine.version_rules.counts_draft_slots:
        _check_scheduled_tokens(engine, engine.max_num_scheduled_tokens)


def _check_speculation(engine: EngineConfig, speculation: Speculation) -> None:
    """VllmConfig._set_max_num_scheduled_tokens (vllm/config/vllm.py); pipeline stages are this simulator's limit."""
    version = engine.version_rules
    slots = speculation.lookahead_tokens(version) if version.dflash_limits_seqs else speculation.draft_slots(version)
    rows = 1 if version.counts_draft_slots else engine.max_num_seqs
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
    _check_drafter_context(engine.max_model_len, speculation.max_model_len)
    if engine.pipeline_parallel_size > 1:
        raise InputError("speculative_config: is not simulated with pipeline_parallel_size above 1")


def _check_drafter_context(context: int, drafted: int | None) -> None:
    """SpeculativeConfig._maybe_override_draft_max_model_len (vllm/config/speculative.py); what shorter ones do is in
    GPUModelRunner._input_fits_in_drafter (vllm/v1/worker/gpu_model_runner.py). Without a known context none is refused.
    """
    if drafted is None or context == UNLIMITED_MODEL_LEN or drafted == context:
        return
    told = "vLLM stops drafting, or fails, past it: not simulated" if drafted < context else "vLLM refuses more"
    raise InputError(f"speculative_config: max_model_len={drafted}: the engine has max_model_len={context}; {told}")


def _check_scheduled_tokens(engine: EngineConfig, scheduled: int) -> None:
    """VllmConfig._set_max_num_scheduled_tokens before 0.28, with drafts; without, rows would outgrow the runner's
    buffers, which have max_num_batched_tokens places."""
    speculation = engine.speculative_config
    slots = speculation.draft_slots(engine.version_rules) * engine.max_num_seqs if speculation else 0
    if scheduled + slots > engine.max_num_batched_tokens:
        drafts = f" and the {slots} draft slots of speculative_config" if slots else ""
        raise InputError(
            f"max_num_batched_tokens={engine.max_num_batched_tokens}: must hold "
            f"max_num_scheduled_tokens={scheduled}{drafts} in vLLM {engine.vllm_version}"
        )
