"""From the settings of a trial to those an engine must be started with, to be the engine that was simulated."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ...profiler.kv_capacity import DEFAULT_MEMORY_SHARE
from ...profiler.profile import CHOICES, UNLIMITED_BLOCKS, Profile
from ...profiler.provenance import KERNEL_TABLES, MEASURED
from ...profiler.unrepresented import BATCH_LIMITS
from ...simulator.engine_config import EngineConfig, resolve
from ...simulator.settings import Settings
from ...simulator.speculation import lacks_drafter

VLLMS_OWN = {field.name: field.default for field in fields(EngineConfig) if field.name != "block_size"} | {
    "gpu_memory_utilization": DEFAULT_MEMORY_SHARE
}
"""What vLLM takes where nobody asks for anything; the block size it takes by the device."""
NO_WEIGHTS = ("load_format", "dummy")
TABLE_FORMATS = {"fp8": "fp8"}
"""vLLM's quantization of a plain checkpoint for the tables' formats; any other needs a checkpoint of that format."""


def deployed(profile: Profile, settings: Mapping[str, Any]) -> Settings:
    """`settings` and what the profile was made under: how weights are loaded, model length, batch limits, and so on.

    Left out is what vLLM takes by itself, but for the batch limits, which it takes by the GPU: they are the resolved
    ones, as one may bound the other. Raises InputError for settings that vLLM refuses.
    """
    resolved = resolve(settings, profile.defaults, UNLIMITED_BLOCKS, profile.engine.version)
    limits = {name: getattr(resolved, name) for name in BATCH_LIMITS}
    made_under = {**profile.parallelism, **_given(profile), **profile.defaults}
    needed = {k: v for k, v in made_under.items() if v is not None and (k not in VLLMS_OWN or v != VLLMS_OWN[k])}
    return needed | limits | dict(settings)


def served(profile: Profile, settings: Mapping[str, Any]) -> Settings:
    """The same for people's use: with weights, also where the profile was measured without."""
    return {name: value for name, value in deployed(profile, settings).items() if (name, value) != NO_WEIGHTS}


def _given(profile: Profile) -> Settings:
    if profile.source == MEASURED:  # there the defaults hold what was given, and the engine chose the rest
        return {}
    facts = {name: getattr(profile.engine, name) for name in CHOICES}
    if profile.source == KERNEL_TABLES:
        facts["quantization"] = TABLE_FORMATS.get(facts["quantization"])
    return {name: value for name, value in facts.items() if value is not None}


def checkpoint_note(profile: Profile) -> str | None:
    """That the model served must have weights, or be of a format that no setting makes of it; None where neither."""
    if (NO_WEIGHTS[0], profile.defaults.get(NO_WEIGHTS[0])) == NO_WEIGHTS:
        return "measured without weights (load_format=dummy): serve a model that has them"
    precision = profile.engine.quantization
    if profile.source != KERNEL_TABLES or precision is None or precision in TABLE_FORMATS:
        return None
    return f"the step times are those of {precision} weights: serve a checkpoint of that format"


def drafter_note(profile: Profile, settings: Mapping[str, Any]) -> list[str]:
    """That vLLM asks which model drafts, where the settings do not say it."""
    config = {**profile.defaults, **settings}.get("speculative_config")
    told = "speculative_config: name the drafter in it (model), or vLLM does not start"
    return [told] if lacks_drafter(config) else []
