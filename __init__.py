"""slotune: find the vLLM settings that meet latency targets.

The public API, each name loaded from its module when it is first used, so that importing the package costs nothing:

    from slotune import load_profile, read_trace, simulate, summarise
"""

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import compile_cache

if TYPE_CHECKING:
    from .errors import EngineError as EngineError
    from .errors import InfeasibleError as InfeasibleError
    from .errors import InputError as InputError
    from .errors import SlotuneError as SlotuneError

compile_cache.use(os.environ, Path(__file__).parent)

_MODULES = {
    "EngineError": ".errors",
    "InfeasibleError": ".errors",
    "InputError": ".errors",
    "SlotuneError": ".errors",
}

__all__ = ["EngineError", "InfeasibleError", "InputError", "SlotuneError"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'slotune' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)
