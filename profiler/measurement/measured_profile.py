"""A profile made of what was measured on a running engine."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...arrays import F64
from ...simulator.engine_config import SIMULATED
from ...simulator.timing import Overhead
from ..engine.devices import gpus, processor
from ..engine.launch import Launch
from ..engine.server import Server
from ..kv_capacity import GIB, KV_DTYPE_BYTES, KvCapacity, KvObservation
from ..model_folder import lasting_name
from ..profile import EngineFacts, ModelPart, Profile
from ..provenance import MEASURED
from ..surrogate.model import FittedStepTime
from ..surrogate.samples import StepSamples
from ..surrogate.surrogate import first_use_note, fit
from .kv_starts import observation_of
from .overhead import fit_overhead, ways_out_note
from .session import Collected

KEEP_EVERY_TOKEN = ("FullAttentionSpec", "MLAAttentionSpec")
"""Kinds of layers of which a block holds block_size tokens of one request (vllm/v1/kv_cache_interface.py)."""

NOTHING_OUTSIDE = "time outside the engine's steps (HTTP, tokeniser) was not measured: taken as none"


def measured_profile(
    model: str,
    settings: Mapping[str, Any],
    launch: Launch,
    server: Server,
    collected: Collected,
    starts: Sequence[KvObservation],
    ended: str | None,
    name: str,
    seed: int,
) -> Profile:
    """Fit what was collected. `ended` says why the measurement was cut short, if it was.

    Raises InputError where there are too few steps for a fit.
    """
    facts = server.facts
    sizes = graph_sizes(facts)
    samples, step, steadied = _better_fit(collected, sizes, seed)
    kv, kv_note = measured_kv(settings, facts, starts)
    overhead = fit_overhead(collected.ways)
    notes = [
        f"cut short: {ended}" if ended else None,
        drift_note(collected.drift().spread, steadied),
        kv_note,
        ways_out_note(collected.ways) if overhead != Overhead() else NOTHING_OUTSIDE,
        first_use_note(step, samples),
        sampling_note(settings, facts),
        "environment: " + " ".join(f"{key}={value}" for key, value in launch.recorded_environment().items()),
    ]
    return Profile(
        name=name,
        source=MEASURED,
        step=step,
        engine=engine_facts(model, facts),
        defaults=defaults_of(settings, facts),
        cuda_graphs=len(sizes) > 0,
        kv=kv,
        overhead=overhead,
        samples=samples,
        notes=tuple(note for note in notes if note),
        model_parts=model_parts(facts),
    )


def drift_note(spread: float | None, steadied: bool) -> str:
    """What the sentinel told of the machine."""
    if spread is None:
        return "how much the machine's speed drifted is not known: there was no time to repeat the reference steps"
    drift = f"the machine's speed drifted by {spread:.0%} (10th to 90th percentile of the sentinel)"
    return drift + (", which was taken out of the step times" if steadied else "")


def sampling_note(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """How tokens were sampled, which the requests left to the server."""
    told = facts.get("sampling_defaults") or settings.get("override_generation_config")
    how = f"as the server does by default, {told}" if told else "as is vLLM's default, at random from all of them"
    if not told and not facts.get("log_tells"):
        how = "as the server does by default, which its log does not tell"
    return f"tokens were sampled {how}; a request that asks for another way may take longer or less"


def _better_fit(collected: Collected, sizes: F64, seed: int) -> tuple[StepSamples, FittedStepTime, bool]:
    """The fit of the times as they are, or with the drift taken out: whichever predicts held-out steps better.

    Both are judged by steps as they were. The sentinel is a sample too: where the machine stutters within seconds,
    dividing by it adds noise.
    """
    plain, steadied = collected.samples(), collected.samples(steadied=True)
    of_plain, of_steadied = (
        fit(samples, sizes, seed, in_order=True, as_measured_s=plain.duration_s) for samples in (plain, steadied)
    )
    if of_steadied.held_out_error < of_plain.held_out_error:
        return steadied, of_steadied, True
    return plain, of_plain, False


def graph_sizes(facts: Mapping[str, Any]) -> F64:
    """CUDA-graph sizes that the engine captured."""
    if str(facts.get("cudagraph_mode")) in ("NONE", "None") or facts.get("enforce_eager"):
        return np.empty(0)
    return np.array(sorted(float(size) for size in facts.get("cudagraph_capture_sizes") or ()))


def engine_facts(model: str, facts: Mapping[str, Any]) -> EngineFacts:
    """Which engine it was, on which device."""
    devices = gpus() if facts.get("device_type") == "cuda" else []
    return EngineFacts(
        version=facts.get("vllm_version"),
        model=lasting_name(model),
        device=devices[0].name if devices else processor(),
        driver=devices[0].driver if devices else None,
        tensor_parallel_size=int(facts.get("tensor_parallel_size") or 1),
        pipeline_parallel_size=int(facts.get("pipeline_parallel_size") or 1),
        dtype=_dtype(facts),
        kv_cache_dtype=facts.get("cache_dtype"),
        quantization=facts.get("quantization"),
        attention_backend=facts.get("attention_backend"),
    )


def model_parts(facts: Mapping[str, Any]) -> tuple[ModelPart, ...]:
    """What the groups of layers in the KV cache tell of the model."""
    kinds = set(facts.get("kv_cache_groups") or ())
    return ("layers of several kinds",) if len(kinds) > 1 else ()


FOLLOWS_OTHERS = frozenset({"max_num_scheduled_tokens", "max_num_active_seqs"})
"""What an engine that drafts sets by its token budget (VllmConfig._set_max_num_scheduled_tokens, vllm/config/vllm.py):
kept, it would bound every other budget."""


def defaults_of(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's settings where nobody asks for others: those it was measured with, and those it chose itself.

    Without the blocks that it was given where every group of layers takes its own of them: the simulator has one group.
    """
    chosen = {name: facts[name] for name in SIMULATED - FOLLOWS_OTHERS if facts.get(name) is not None}
    if facts.get("policy") is not None:
        chosen["scheduling_policy"] = facts["policy"]
    if facts.get("gpu_memory_utilization") is not None:
        chosen["gpu_memory_utilization"] = facts["gpu_memory_utilization"]
    grouped = len(facts.get("kv_cache_groups") or ()) > 1
    given = {name: value for name, value in settings.items() if not (grouped and name == "num_gpu_blocks_override")}
    return {**chosen, **given}


def measured_kv(
    settings: Mapping[str, Any], facts: Mapping[str, Any], starts: Sequence[KvObservation] = ()
) -> tuple[KvCapacity | None, str | None]:
    """The KV-memory model that the measured start and further `starts` tell of, and what it leaves open.

    Its bytes are those of a cache of the model's own format, which is what the engine chose unless `settings` did.
    """
    groups, bytes_per_block = facts.get("kv_cache_groups") or [], facts.get("kv_bytes_per_block")
    if len(groups) != 1 or groups[0] not in KEEP_EVERY_TOKEN or not bytes_per_block:
        return None, f"KV capacity is not modelled: {_layers(groups)}"
    if facts.get("num_gpu_blocks_override") and not facts.get("kv_cache_memory_bytes"):
        return None, "KV capacity is not known: num_gpu_blocks_override set it; measure without it where it matters"
    used = KV_DTYPE_BYTES.get(str(facts.get("cache_dtype")))
    element = KV_DTYPE_BYTES.get(_dtype(facts) or "", 2.0)
    if used is not None and "kv_cache_dtype" not in settings:
        element = used
    blocks, block_size = int(facts["num_gpu_blocks"]), int(facts["block_size"])
    index = float(facts.get("kv_index_bytes_per_token") or 0.0)
    per_token = _in_format(bytes_per_block / block_size, index, element / (used or element))
    capacity_of = partial(KvCapacity, element_bytes=element, index_bytes_per_token=index)
    if fixed_share := facts.get("kv_cache_memory_bytes"):
        if not facts.get("num_gpu_blocks_override"):  # of pipeline stages, the one with the most layers bounds all
            shared = _in_format(fixed_share / (blocks * block_size), index, element / (used or element))
            per_token = max(per_token, shared)
        return capacity_of(per_token, kv_cache_memory_bytes=float(fixed_share)), None
    devices = gpus()
    if not devices or not devices[0].total_bytes:
        seen = capacity_of(per_token, kv_cache_memory_bytes=float(blocks * bytes_per_block))
        return seen, (
            f"KV capacity is what one start had ({blocks} blocks of {block_size}), whatever the batch limits and "
            "gpu_memory_utilization: nvidia-smi does not tell the device's memory"
        )
    total_bytes = devices[0].total_bytes
    capacity = capacity_of(per_token, total_bytes=total_bytes)
    capacity = capacity.observed([observation_of(facts), *starts])
    if starts:
        return capacity, None
    known = f"KV capacity is known from one start ({blocks} blocks of {block_size} on {total_bytes / GIB:.0f} GiB)"
    return capacity, f"{known}: how it depends on the batch limits was not measured"


def _in_format(token_bytes: float, index_bytes: float, ratio: float) -> float:
    """Bytes of a token in a format of `ratio` times the bytes, which those of index keys do not follow."""
    return (token_bytes - index_bytes) * ratio + index_bytes


def _layers(groups: Sequence[str]) -> str:
    """Why the blocks of these groups of layers are not counted, and what to give instead: vLLM's own count of tokens
    heeds the groups (get_kv_cache_capacity, vllm/v1/core/kv_cache_utils.py)."""
    if len(groups) > 1:
        return (
            f"the layers are in {len(groups)} groups, and a token takes a block of every group, so that vLLM's "
            "num_gpu_blocks are too many here; where it matters, give as num_gpu_blocks_override the tokens of its log "
            "line 'KV cache size' over block_size"
        )
    why = f"layers of the kind {groups[0]} do not keep every token" if groups else "the engine tells of no KV cache"
    return f"{why}; give num_gpu_blocks_override where it matters"


def _dtype(facts: Mapping[str, Any]) -> str | None:
    return None if facts.get("dtype") is None else str(facts["dtype"]).removeprefix("torch.")
