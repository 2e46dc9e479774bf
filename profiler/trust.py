"""How far a prediction may be believed: the error to expect, and what was asked that the profile knows nothing of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..simulator.engine_config import PROFILED, SIMULATED, EngineConfig
from ..simulator.features import REGIME_NAMES
from ..simulator.speculation import SPEC_ARGUMENTS, without_acceptance
from ..simulator.step_time import SHAPE_NAMES
from ..simulator.versions import ASSUMED, numbers_of
from .graph_sizes import GRAPH_SETTINGS
from .kv_capacity import KV_DTYPE_BYTES
from .model_folder import lasting_name
from .provenance import CLOSED_FORM, KERNEL_TABLES, MEASURED, STEP_RECORDS
from .surrogate.model import BEYOND, OVER_TIME, RegimeError

if TYPE_CHECKING:
    from .profile import Profile

TABLES_TTFT_ERROR, TABLES_TPOT_ERROR = 0.33, 0.08
"""Median absolute error of predictions from kernel tables on measured vLLM points that nothing was calibrated on, the
larger of two medians: of benchmarks/accuracy/silicon_sample.py, H200 and B200, with the tables that are in doubt (TTFT
0.174, TPOT 0.077; 0.136 and 0.057 without), and of those runs of benchmarks/accuracy/public_runs.py that were not
overloaded (TTFT 0.333, nearly all too early; TPOT 0.039). All are of plain dense models."""


@dataclass(frozen=True, slots=True)
class MeasuredEngines:
    """Those that predictions from kernel tables were compared with."""

    models: str
    parts: frozenset[str]
    """Of profile.py's model parts, those that they had and used."""
    tpot_error: float


DENSE = MeasuredEngines("plain dense models", frozenset(), TABLES_TPOT_ERROR)
MIXTURES = MeasuredEngines("mixtures of experts", frozenset({"experts", "layers of several kinds"}), 0.1)
LATENT = MeasuredEngines("mixtures of experts with latent attention", frozenset({"experts", "latent attention"}), 0.2)
"""TPOT of the latter two: benchmarks/accuracy/silicon_sample.py --experts (0.097 with gpt-oss-120b and MiniMax-M2.5,
0.201 with Kimi-K2.5). TTFT was off by less there than TABLES_TTFT_ERROR, which is mostly the way to the engine and told
of all."""
SEEN_OUTSIDE_MS = "14 to 48"
"""What measured TTFTs lack, added to what is assumed: 14 and 20 in benchmarks/accuracy/kubecon.py at 31 requests/s and
at 1; 19 to 48 in those runs of benchmarks/accuracy/public_runs.py whose requests met few others on a card that has
tables (A1, A4, D1, K2, G1). Some of it may be the steps' own error."""
USUALLY_OUTSIDE_S = 0.0225
"""The median of the latter five."""

MOST_EXTRAPOLATED = 0.05
"""Of a run's steps, and of those with a prefill; fewer hardly bend it."""

SHARES = ("extrapolated_share", "extrapolated_prefill_share", "far_share", "api_server_share", "piled_up_share")
"""Of the metrics of a simulation (tuner/evaluate.py), those that bear on how far to believe the others."""

ENOUGH_COMPOSITIONS = 20
"""Kinds of steps of a regime whose total time tells more than what one of them is off by."""

MOST_FAR = 0.01
"""Share of a run's steps, or of those with a prefill, that lie far outside, or are of a kind that the profile was made
without; more of them decide a p99."""

NOT_SIMULATED = {
    "data_parallel_size": "each is an engine of its own; simulate one, or that many replicas",
    "prefill_context_parallel_size": "is not simulated",
    "max_num_partial_prefills": "vLLM's V1 engine refuses it",
    "max_long_partial_prefills": "vLLM's V1 engine refuses it",
}
"""Arguments that may only be 1, which changes nothing, and why."""
OTHER_SCHEDULES = {
    "decode_context_parallel_size": 1,
    "kv_offloading_size": None,
    "kv_transfer_config": None,
    "ec_transfer_config": None,
    "scheduler_cls": None,
    "performance_mode": "balanced",
    **dict.fromkeys(SPEC_ARGUMENTS),
}
"""Settings under which vLLM schedules by rules that are not simulated, whatever a profile was made with; and the value
under which it does not."""
TWO_RUNNERS = (0, 23), (0, 28)
"""From the first to the last of these versions, vLLM chooses one of two model runners by the model's architecture."""
TIMED = frozenset({"async_scheduling", "kv_cache_dtype", "speculative_config"})
"""Settings that the schedule or the memory follows, but that also change what a step costs, which was measured with one
value of them."""
_NAMES_AND_LOGS = """
    tokenizer tokenizer_mode tokenizer_revision revision code_revision served_model_name trust_remote_code seed
    download_dir load_format config_format hf_config_path hf_token model_loader_extra_config ignore_patterns
    max_parallel_loading_workers pt_load_map_location safetensors_load_strategy safetensors_prefetch_block_size
    safetensors_prefetch_num_threads use_tqdm_on_load skip_tokenizer_init disable_log_stats enable_log_requests
    log_config_file log_level logging_config aggregate_engine_logging show_hidden_metrics_for_version cudagraph_metrics
    kv_cache_metrics kv_cache_metrics_sample enable_mfu_metrics custom_histogram_buckets shutdown_timeout
    distributed_timeout_seconds cpu_distributed_timeout_seconds master_addr master_port max_logprobs generation_config
    allowed_local_media_path allowed_media_domains reasoning_parser reasoning_parser_plugin
    prefix_caching_hash_algo enable_sleep_mode profiler_config runner convert fail_on_environ_validation
"""
WITHOUT_EFFECT = frozenset(_NAMES_AND_LOGS.split())
"""Arguments that change neither the time of a step nor the memory: names, places, logs."""


def is_unset(value: Any) -> bool:
    """Whether a value leaves an argument as it is where nobody gives it. 0 does not."""
    return value is None or value is False or value in ("auto", "", "none")


def unrepresented(profile: "Profile", settings: Mapping[str, Any]) -> list[str]:
    """A line for each setting that was asked for and whose effect on time the profile does not hold.

    None for what the simulation follows, for what the profile was made with, and for what has no effect on time. And a
    line for each that changes the schedule in ways that are not simulated, the profile's own among them.
    """
    known = SIMULATED | PROFILED | WITHOUT_EFFECT | NOT_SIMULATED.keys() | OTHER_SCHEDULES.keys()
    known |= GRAPH_SETTINGS - {"enforce_eager"}
    if profile.source != CLOSED_FORM:
        known -= TIMED
    lines = _other_schedules({**profile.defaults, **settings})
    for name, asked in settings.items():
        value, made_with = (_timed(name, one) for one in (asked, _made_with(profile, name)))
        if name in known or value == made_with or (made_with is None and (is_unset(value) or name == "model")):
            continue
        how = "without it" if made_with is None else f"with {made_with}"
        memory = "" if profile.kv and name == "kv_cache_dtype" and str(value) in KV_DTYPE_BYTES else " and on memory"
        effect = f"its effect on step times{memory} is not in these numbers"
        if name == "speculative_config":
            effect = "what drafting takes of time and memory is not in these numbers: the gain is an upper limit"
        lines.append(f"{name}={value}: profile {profile.name} was made {how}; {effect}")
    return lines


def _timed(name: str, value: Any) -> Any:
    """Of a value what the time of a step depends on: not how many drafts are accepted, nor by which path a folder is
    named."""
    if name == "model" and value:
        return lasting_name(str(value))
    return without_acceptance(value) if name == "speculative_config" and value else value


def _other_schedules(settings: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}={value}: vLLM then schedules by other rules, which are not simulated"
        for name, value in settings.items()
        if name in OTHER_SCHEDULES and value != OTHER_SCHEDULES[name] and not is_unset(value)
    ]


def other_graphs(profile: "Profile", largest: float, most_tokens: int) -> str | None:
    """A line where steps of up to `most_tokens` would fall on the other side of the `largest` CUDA graph than they did
    where the profile was made, and it holds none of that side; None where that is not so.
    """
    if not len(profile.step.graph_sizes):
        return None
    made_with = float(profile.step.graph_sizes[-1])
    least, most = profile.step.hull[:, SHAPE_NAMES.index("tokens")].T
    if largest < min(made_with, most_tokens) and most.max() <= made_with:
        how, side = "fewer", "beyond"
    elif made_with < min(largest, most_tokens) and least.min() > made_with:
        how, side = "more", "within"
    else:
        return None
    return (
        f"the largest CUDA graph has {how} tokens than that of profile {profile.name} ({made_with:g}), which was made "
        f"without any step {side} its own; the time of such steps is not in these numbers"
    )


def older_runner(engine: EngineConfig) -> str | None:
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


def _made_with(profile: "Profile", name: str) -> Any:
    """The value under which the profile's steps were measured; None where that is not known."""
    if name == "async_scheduling":
        return profile.defaults.get(name, True)
    if name == "enforce_eager":
        return profile.defaults.get(name, not profile.cuda_graphs)
    return profile.defaults.get(name, getattr(profile.engine, name, None))


def step_time_error(profile: "Profile", runs: Iterable[Mapping[str, float]] = ()) -> float | None:
    """By what share all steps of `runs`, the metrics of simulations, may be too short or too long; None where nothing
    tells it.

    For measured steps it is the median error of one that was held out, or that of the total of all, or of all of one
    kind, or of all of one part of the recording, where it is larger, as with stalls or a machine that drifts; or of
    those beyond the others where more than MOST_EXTRAPOLATED of a run's steps, or of those with a prefill, lie outside
    what was measured. For kernel tables it is the median error of TPOT on measured engines, and not known of those that
    are in doubt. Steps that were held out tell nothing of those that lie far outside, nor of a kind that the profile
    was made without; and where none beyond the others could be held out, nothing tells of the extrapolated.
    """
    known = list(runs)
    if largest_share(known, "far_share") > MOST_FAR:
        return None
    if profile.source == KERNEL_TABLES:
        return _tables_error(profile)[1]
    everything = profile.step.error_of("all")
    if everything is None:
        return None
    over_time = profile.step.error_of(OVER_TIME)
    usual = max(everything.median, abs(_most_biased(profile).bias), over_time.mean if over_time else 0.0)
    extrapolated = max(largest_share(known, name) for name in ("extrapolated_share", "extrapolated_prefill_share"))
    if extrapolated <= MOST_EXTRAPOLATED:
        return usual
    beyond = None if _unmeasured(profile) else profile.step.error_of(BEYOND)
    return None if beyond is None else max(usual, beyond.median, abs(beyond.bias))


def later_s(profile: "Profile") -> float:
    """By how many seconds a request may be later at the engine than the profile says, since the way there was not
    measured: what measured servers took in the median, less what is assumed. 0 where it was measured, and of a formula.
    """
    told_s = profile.overhead.before_s + profile.overhead.after_s
    measured = profile.source in (STEP_RECORDS, MEASURED) and told_s > 0
    return 0.0 if measured or profile.source == CLOSED_FORM else max(USUALLY_OUTSIDE_S - told_s, 0.0)


def _most_biased(profile: "Profile") -> RegimeError:
    """The error of all steps, or of the kind of them of which enough are known, whose total is off by most: where one
    kind is too short and another too long, the total of all tells of neither."""
    known = (error for error in profile.step.held_out if error.regime not in (BEYOND, OVER_TIME))
    enough = (error for error in known if error.regime == "all" or error.compositions >= ENOUGH_COMPOSITIONS)
    return max(enough, key=lambda error: abs(error.bias))


def expected_error(profile: "Profile", kv_cache: float = 0.0) -> dict[str, Any]:
    """The error to expect of predictions, as JSON has it: shares, null where nothing is known.

    `kv_cache` is the share by which the KV cache may be larger or smaller; 0 where it was told and not estimated.
    """
    mean_ttft, mean_tpot = _tables_error(profile) if profile.source == KERNEL_TABLES else (None, None)
    return {
        "step_time": _share(profile, "all"),
        "step_time_extrapolated": None if _unmeasured(profile) else _share(profile, BEYOND),
        "mean_ttft": mean_ttft,
        "mean_tpot": mean_tpot,
        "kv_cache": kv_cache or None,
        "sentence": _sentence(profile),
        "outside_steps": _outside_steps(profile),
        "unmeasured": _unmeasured(profile),
    }


def _tables_error(profile: "Profile") -> tuple[float, float] | tuple[None, None]:
    """Of TTFT and TPOT, for a profile from kernel tables."""
    return (None, None) if profile.doubts else (TABLES_TTFT_ERROR, _compared(profile).tpot_error)


def _compared(profile: "Profile") -> MeasuredEngines:
    """Those that tell most of a profile from kernel tables."""
    if "latent attention" in profile.model_parts:
        return LATENT
    return MIXTURES if "experts" in profile.model_parts else DENSE


def largest_share(runs: Iterable[Mapping[str, float]], name: str) -> float:
    """The largest value of one of the shares that the metrics of simulations have; 0 where none has it."""
    return max((float(run.get(name, 0.0)) for run in runs), default=0.0)


def _unmeasured(profile: "Profile") -> list[str]:
    """Kinds of steps of which the profile was made without any, or from too few; none of a formula."""
    if profile.source == CLOSED_FORM:
        return []
    return [name for name, box in zip(REGIME_NAMES, profile.step.hull, strict=True) if (box[:, 0] > box[:, 1]).any()]


def _share(profile: "Profile", regime: str) -> dict[str, Any] | None:
    error = profile.step.error_of(regime)
    if error is None or profile.source == KERNEL_TABLES:  # a fit's error is not that of the tables
        return None
    return {"median": error.median, "within_90": error.p90}


def _sentence(profile: "Profile") -> str:
    everything = profile.step.error_of("all")
    if profile.doubts:
        return f"the expected error is unknown, because the kernel tables cannot be right: {'; '.join(profile.doubts)}"
    if profile.source == KERNEL_TABLES:
        return _tables_sentence(profile)
    if everything is None:
        return "the expected error is unknown: no measured step was held out to estimate it"
    within = "" if everything.p90 is None else f"; 90 % of single steps within {everything.p90:.1%}"
    bias = _bias(everything, _most_biased(profile))
    return (
        f"for traffic like that measured, expect step times to be off by {everything.median:.1%} (median on kinds of "
        f"steps held out{within}){bias}{_over_time(profile.step.error_of(OVER_TIME), everything)}; waiting times are "
        "off by more near saturation"
    )


def _over_time(parts: RegimeError | None, everything: RegimeError) -> str:
    """That whole parts of the recording are off by more than a step usually is, where they are."""
    if parts is None or parts.mean <= everything.median:
        return ""
    told = f"whole parts of the recording to be off by {parts.mean:.1%} (mean of {parts.compositions})"
    return f", and {told}, because the machine's speed changed"


def _tables_sentence(profile: "Profile") -> str:
    known = _compared(profile)
    unseen = [part for part in profile.model_parts if part not in known.parts]
    lacking = f", none of which used {' or '.join(unseen)}" if unseen else ""
    return (
        f"expect mean TPOT to be off by about {known.tpot_error:.0%} and mean TTFT by {TABLES_TTFT_ERROR:.0%}, the "
        f"median error on measured engines that were not overloaded, with {known.models}{lacking}; more in bursts and "
        "near saturation"
    )


def _bias(everything: RegimeError, most: RegimeError) -> str:
    """By what the total is off, of all steps or of those of one kind, where that is more than a step usually is."""
    if abs(most.bias) <= everything.median:
        return ""
    which = "all steps" if most.regime == "all" else f"all {most.regime} steps"
    return f", the total of {which} to be {abs(most.bias):.1%} too {'short' if most.bias < 0 else 'long'}"


def _outside_steps(profile: "Profile") -> str | None:
    """What is to be said of the time outside the engine's steps; nothing where it was measured, or none is assumed."""
    assumed_ms = 1e3 * (profile.overhead.before_s + profile.overhead.after_s)
    if profile.source in (STEP_RECORDS, MEASURED) and not assumed_ms:
        return (
            "these TTFTs include no time outside the engine's steps (HTTP, tokeniser, client); on measured servers, "
            f"with their load generators, it was {SEEN_OUTSIDE_MS} ms"
        )
    if profile.source != KERNEL_TABLES:
        return None
    return (
        f"every TTFT includes an assumed {assumed_ms:.0f} ms for HTTP, tokeniser and client; on measured servers, with "
        f"their load generators, it was {SEEN_OUTSIDE_MS} ms, and more in bursts"
    )
