"""Further starts of the engine, only to see how many KV blocks it makes under other batch limits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import EngineError
from ..engine.launch import Launch
from ..engine.server import Server, running_server
from ..kv_capacity import KvObservation

OBSERVED = ("max_num_batched_tokens", "max_num_seqs", "block_size", "gpu_memory_utilization")
"""Settings that the number of blocks depends on, where the device's memory is shared out by the engine."""


def observation_of(facts: Mapping[str, Any]) -> KvObservation:
    """The blocks that a start made, and under which settings."""
    settings = {name: facts[name] for name in OBSERVED}
    return KvObservation(
        settings | {"kv_cache_dtype": facts.get("cache_dtype") or "auto"}, int(facts["num_gpu_blocks"])
    )


def depends_on_limits(facts: Mapping[str, Any]) -> bool:
    """Whether the engine sizes its cache by what the other settings leave of the device's memory."""
    fixed = facts.get("kv_cache_memory_bytes") or facts.get("num_gpu_blocks_override")
    return facts.get("device_type") == "cuda" and not fixed


def variations(facts: Mapping[str, Any]) -> list[dict[str, int]]:
    """Batch limits to start with: half of one, then half of the other. Less never needs more memory."""
    tokens, seqs = int(facts["max_num_batched_tokens"]), int(facts["max_num_seqs"])
    fewer_tokens = {"max_num_batched_tokens": max(tokens // 2, seqs), "max_num_seqs": seqs}
    fewer_seqs = {"max_num_batched_tokens": tokens, "max_num_seqs": max(1, seqs // 2)}
    return [wanted for wanted in (fewer_tokens, fewer_seqs) if wanted != _limits(facts)]


def _limits(facts: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(facts[name]) for name in ("max_num_batched_tokens", "max_num_seqs")}


def expected_s(first: Server) -> float:
    """How long `observe_starts` takes; 0 where there is nothing to be learned."""
    return len(variations(first.facts)) * first.start_s if depends_on_limits(first.facts) else 0.0


def observe_starts(
    launch: Launch, model: str, settings: Mapping[str, Any], first: Server, folder: Path
) -> list[KvObservation]:
    """Start the engine under each variation, after the first has ended.

    One that fails tells nothing; Ctrl-C ends it with what is known.
    """
    found: list[KvObservation] = []
    for index, limits in enumerate(variations(first.facts)):
        try:
            with running_server(launch, model, {**settings, **limits}, folder / f"start-{index}") as server:
                found.append(observation_of(server.facts))
        except EngineError:
            continue
        except KeyboardInterrupt:
            break
    return found
