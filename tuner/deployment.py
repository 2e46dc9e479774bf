"""From the settings of a trial to those an engine must be started with, to be the engine that was simulated."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..profiler.profile import UNLIMITED_BLOCKS, Profile
from ..simulator.engine_config import EngineConfig, Settings, resolve
from .space import DEFAULT_MEMORY_SHARE

VLLMS_OWN = {field.name: field.default for field in fields(EngineConfig)} | {
    "gpu_memory_utilization": DEFAULT_MEMORY_SHARE
}
"""What vLLM takes on a large GPU where nobody asks for anything."""
BATCH_LIMITS = ("max_num_batched_tokens", "max_num_seqs")


def deployed(profile: Profile, settings: Mapping[str, Any]) -> Settings:
    """`settings` and what the profile was made under: how weights are loaded, model length, batch limits, and so on.

    Left out is what vLLM takes by itself on a large GPU. A batch limit that nobody asked for is the resolved one, as
    the other limits may bound it. Raises InputError for settings that vLLM refuses.
    """
    resolved = resolve(settings, profile.defaults, UNLIMITED_BLOCKS, profile.engine.version)
    made_under = {**profile.parallelism, **profile.defaults, **{name: getattr(resolved, name) for name in BATCH_LIMITS}}
    needed = {k: v for k, v in made_under.items() if v is not None and (k not in VLLMS_OWN or v != VLLMS_OWN[k])}
    return needed | dict(settings)
