"""Which batch sizes vLLM captures as CUDA graphs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..simulator.engine_config import EngineConfig

DEFAULT_MAX_CAPTURE, BLACKWELL_MAX_CAPTURE = 512, 1024
"""Largest size captured by default, and on data-centre Blackwell (compute capability 10) by versions that know it."""
BLACKWELL = ("b200", "b300")
"""In the name of such a GPU, as its driver and the kernel tables have it."""
GRAPH_SETTINGS = frozenset({"enforce_eager", "cudagraph_capture_sizes", "max_cudagraph_capture_size"})
"""Settings that choose the sizes."""
FINE_GRID = 32
"""Up to how many tokens every size is captured for the least padding, with performance_mode=interactivity."""
CAPTURE_FOLLOWS = GRAPH_SETTINGS | {"max_num_seqs", "max_num_batched_tokens", "speculative_config"}
"""Settings that the sizes follow."""


def captured_graph_sizes(
    engine: EngineConfig, settings: Mapping[str, Any], device: str | None = None
) -> npt.NDArray[np.float64]:
    """Token counts up to which a step is padded, ascending; empty under enforce_eager.

    By default 1, 2, 4, multiples of 8 below 256, multiples of 16 up to the largest, and by the engine's version
    max_num_batched_tokens itself and the decodes of whole batches, drafts included. Raises InputError for what vLLM
    refuses. Source: vllm/config/vllm.py, _set_cudagraph_sizes.
    """
    if settings.get("enforce_eager"):
        return np.empty(0)
    chosen, largest = settings.get("cudagraph_capture_sizes"), settings.get("max_cudagraph_capture_size")
    if chosen is not None:
        return _chosen(chosen, largest, engine.max_num_batched_tokens)
    if largest is not None and int(largest) < 1:
        raise InputError(f"max_cudagraph_capture_size={largest}: must be 1 or more; enforce_eager=true captures none")
    tokens, default_max = engine.max_num_batched_tokens, most_captured(engine, device)
    most = min(int(largest or _ceiling(engine, default_max)), tokens)
    sizes = _grid(most) | (set(range(1, min(most, FINE_GRID) + 1)) if is_interactive(settings) else set())
    sizes |= {tokens} if engine.version_rules.captures_token_budget and tokens <= most else set()
    if largest is None:
        sizes |= {size for size in _decode_sizes(engine, default_max) if size <= tokens}
    return np.array(sorted(map(float, sizes)))


def is_interactive(settings: Mapping[str, Any]) -> bool:
    """Whether small batches are captured size by size; of what performance_mode can be, it changes this alone."""
    return settings.get("performance_mode") == "interactivity"


def _grid(most: int) -> set[int]:
    return {size for size in (1, 2, 4, *range(8, 256, 8), *range(256, most + 1, 16)) if size <= most}


def most_captured(engine: EngineConfig, device: str | None) -> int:
    """The largest size that is captured by default on a device of this name."""
    is_blackwell = any(mark in (device or "").lower() for mark in BLACKWELL)
    knows_it = engine.version_rules.captures_more_on_blackwell
    return BLACKWELL_MAX_CAPTURE if is_blackwell and knows_it else DEFAULT_MAX_CAPTURE


def _chosen(sizes: Any, largest: Any, tokens: int) -> npt.NDArray[np.float64]:
    within = sorted({float(size) for size in sizes if 1 <= size <= tokens})
    if not within:
        raise InputError(f"cudagraph_capture_sizes={sizes}: holds no size from 1 to max_num_batched_tokens={tokens}")
    if largest is not None and int(largest) != within[-1]:
        raise InputError(f"max_cudagraph_capture_size={largest}: is not the largest of cudagraph_capture_sizes={sizes}")
    return np.array(within)


def _query_tokens(engine: EngineConfig) -> int:
    """Tokens of a decode: the sampled one and its drafts."""
    return 1 + (engine.speculative_config.num_speculative_tokens if engine.speculative_config else 0)


def _ceiling(engine: EngineConfig, default_max: int) -> int:
    return min(2 * engine.max_num_seqs * _query_tokens(engine), default_max)


def _decode_sizes(engine: EngineConfig, default_max: int) -> set[int]:
    """Tokens of steps of decodes alone: of max_num_seqs of them and, with drafts, of fewer; by the engine's version."""
    query, counts, rules = _query_tokens(engine), {engine.max_num_seqs}, engine.version_rules
    if not (rules.captures_draft_batches if query > 1 else rules.captures_max_num_seqs):
        return set()
    if query > 1:
        most = min(engine.max_num_seqs, default_max)
        counts = _grid(most) | {most}
    return {count * query for count in counts if count * query <= _ceiling(engine, default_max)}
