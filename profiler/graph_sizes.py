"""Which batch sizes vLLM captures as CUDA graphs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..simulator.engine_config import EngineConfig

DEFAULT_MAX_CAPTURE = 512
"""Largest size captured by default; 1024 on data-centre Blackwell (compute capability 10)."""
GRAPH_SETTINGS = frozenset({"enforce_eager", "cudagraph_capture_sizes", "max_cudagraph_capture_size"})
"""Settings that choose the sizes."""


def captured_graph_sizes(
    engine: EngineConfig, settings: Mapping[str, Any], default_max: int = DEFAULT_MAX_CAPTURE
) -> npt.NDArray[np.float64]:
    """Token counts up to which a step is padded, ascending; empty under enforce_eager.

    Without speculative decoding: 1, 2, 4, multiples of 8 below 256, multiples of 16 up to the largest, and by the
    engine's version max_num_batched_tokens and max_num_seqs themselves where they fit. Source: vllm/config/vllm.py,
    _set_cudagraph_sizes.
    """
    if settings.get("enforce_eager"):
        return np.empty(0)
    chosen = settings.get("cudagraph_capture_sizes")
    tokens = engine.max_num_batched_tokens
    if chosen:
        return np.array(sorted({float(size) for size in chosen if size <= tokens}))
    largest = settings.get("max_cudagraph_capture_size") or min(2 * engine.max_num_seqs, default_max)
    largest = min(int(largest), tokens)
    sizes = {1, 2, 4, *range(8, min(largest + 1, 256), 8), *range(256, largest + 1, 16)}
    sizes |= {tokens} if engine.version_rules.captures_token_budget else set()
    sizes |= {engine.max_num_seqs} if engine.version_rules.captures_max_num_seqs else set()
    return np.array(sorted(float(size) for size in sizes if size <= largest))
