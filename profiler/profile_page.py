"""A profile as people read it."""

from typing import Any

from ..errors import InputError
from ..figures import figure
from .kv_capacity import KV_DTYPE_BYTES
from .profile import Profile
from .provenance import KERNEL_TABLES, MEASURED, STEP_RECORDS
from .surrogate.model import OVER_TIME, RegimeError
from .trust import expected_error

NOISY = 0.1
"""Share by which a step, or a part of the recording, may be off before it is warned of."""
HULL_SHOWN = ("tokens", "prefill_tokens", "decode_rows", "mean_prefill_context", "mean_decode_context")


def as_document(profile: Profile) -> dict[str, Any]:
    """Everything `profile show --json` tells."""
    engine = profile.engine_or_none({}) if profile.kv else None
    return {
        **profile.describe(),
        "trust": profile.trust(),
        "defaults": dict(profile.defaults),
        "num_gpu_blocks": engine.num_gpu_blocks if engine else None,
        "overhead_ms": overhead_ms(profile),
        "baseline_ms": profile.step.baseline_ms,
        "measured_range": profile.step.measured_range,
        "kv": kv_lines(profile),
    }


def warnings(profile: Profile) -> list[str]:
    """What speaks against trusting a profile of measured steps."""
    everything, over_time = (profile.step.error_of(regime) for regime in ("all", OVER_TIME))
    if profile.source == KERNEL_TABLES or everything is None:
        return []
    worst = max(everything.median, over_time.mean if over_time else 0.0)
    if worst <= NOISY:
        return []
    more = "record" if profile.source == STEP_RECORDS else "measure"
    return [
        f"held-out steps are off by {worst:.0%}: latencies will be off by at least as much; {more} longer, on an "
        "otherwise idle machine"
    ]


def overhead_ms(profile: Profile) -> dict[str, float]:
    """What a request spends outside the engine's steps."""
    overhead = profile.overhead
    return {
        "before": overhead.before_s * 1e3,
        "before_prompt_token": overhead.before_token_s * 1e3,
        "after": overhead.after_s * 1e3,
    }


def kv_lines(profile: Profile) -> list[str]:
    """The KV capacity in sentences."""
    if profile.kv is None:
        return [f"not modelled: {profile.unmodelled_blocks}"]
    lines, errors = [_default_cache(profile)], profile.kv.errors()
    if profile.kv.element_bytes < KV_DTYPE_BYTES["bfloat16"]:
        lines.append(f"kv_cache_dtype=auto takes {profile.kv.element_bytes:g} byte a value, as the checkpoint asks")
    if errors:
        worst = max(abs(error) for error in errors)
        lines.append(
            f"formula refined by {len(errors)} start(s) of the engine, off by at most {figure(100 * worst, 2)} % there"
        )
    elif profile.source == MEASURED:
        lines.append("as observed in one start of the engine")
    else:
        lines.append("from the memory formula alone: no start of the engine was observed")
    return lines


def _default_cache(profile: Profile) -> str:
    try:
        engine = profile.engine_config({})
    except InputError as error:
        return f"not with the default settings: {error}"
    tokens = engine.num_gpu_blocks * engine.block_size
    return f"{engine.num_gpu_blocks} blocks of {engine.block_size} tokens ({tokens:,} tokens) with the default settings"


def error_rows(errors: tuple[RegimeError, ...]) -> list[list[object]]:
    """One row a regime, errors in per cent."""
    return [
        [e.regime, e.compositions, 100 * e.median, 100 * e.mean, None if e.p90 is None else 100 * e.p90, 100 * e.bias]
        for e in errors
    ]


ERROR_COLUMNS = ("regime", "compositions", "median %", "mean %", "90 % within %", "bias %")


def range_rows(profile: Profile) -> list[list[object]]:
    """One row a measured regime: the ranges that matter most."""
    return [
        [regime, *(f"{features[name][0]:,.0f} to {features[name][1]:,.0f}" for name in HULL_SHOWN)]
        for regime, features in profile.step.measured_range.items()
    ]


def fact_lines(profile: Profile) -> list[str]:
    """What is known of the engine, defaults, overhead, KV, what predictions are off by or doubts, notes; one line
    each."""
    facts = ", ".join(f"{name} {value}" for name, value in profile.describe()["engine"].items() if value is not None)
    terms = ", ".join(f"{name} {ms:.4g}" for name, ms in profile.step.baseline_ms.items())
    residual = " times a LightGBM residual" if profile.step.residual else ""
    outside = ", ".join(f"{name} {ms:.4g}" for name, ms in overhead_ms(profile).items())
    lines = [f"engine: {facts}", f"step time: {terms} (ms){residual}", f"outside the step: {outside} (ms)"]
    if profile.defaults:
        lines.append("defaults: " + ", ".join(f"{name}={value}" for name, value in profile.defaults.items()))
    lines += [f"KV cache: {line}" for line in kv_lines(profile)]
    doubted = [f"in doubt: {doubt}" for doubt in profile.doubts]
    lines += doubted or [f"predictions: {expected_error(profile)['sentence']}"]
    return lines + [f"note: {note}" for note in profile.notes]
