"""slotune: find the vLLM settings that meet latency targets.

The public API, each name loaded from its module when it is first used, so that importing the package costs nothing:

    from slotune import load_profile, read_trace, simulate, summarise

    profile = load_profile("h200-llama-3.1-8b")
    result = simulate(read_trace("chat"), profile.engine_config({"max_num_seqs": 64}), profile.timing())
    print(summarise(result.requests, result.gaps)["p99_ttft_ms"])
"""

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import compile_cache

if TYPE_CHECKING:
    from .errors import EngineError, InfeasibleError, InputError, SlotuneError
    from .profiler.profile import Profile
    from .profiler.profile_folder import load_profile
    from .simulator.engine_config import EngineConfig
    from .simulator.metrics import summarise
    from .simulator.settings import parse_settings
    from .simulator.simulation import SimulationResult, simulate
    from .simulator.slo import Slo, parse_slo
    from .traces.read import read_trace
    from .traces.trace import Trace

__all__ = [
    "EngineConfig",
    "EngineError",
    "InfeasibleError",
    "InputError",
    "Profile",
    "SimulationResult",
    "Slo",
    "SlotuneError",
    "Trace",
    "load_profile",
    "parse_settings",
    "parse_slo",
    "read_trace",
    "simulate",
    "summarise",
]

_MODULES = {
    ".errors": ("EngineError", "InfeasibleError", "InputError", "SlotuneError"),
    ".profiler.profile": ("Profile",),
    ".profiler.profile_folder": ("load_profile",),
    ".simulator.engine_config": ("EngineConfig",),
    ".simulator.metrics": ("summarise",),
    ".simulator.settings": ("parse_settings",),
    ".simulator.simulation": ("SimulationResult", "simulate"),
    ".simulator.slo": ("Slo", "parse_slo"),
    ".traces.read": ("read_trace",),
    ".traces.trace": ("Trace",),
}

compile_cache.use(os.environ, Path(__file__).parent)


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module, __name__), name)
    raise AttributeError(f"module 'slotune' has no attribute {name!r}")
