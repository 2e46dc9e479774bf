"""A profile fitted to step records."""

from collections.abc import Mapping
from typing import Any

from ..arrays import F64
from ..errors import InputError
from ..simulator.engine_config import EngineConfig, resolve
from ..simulator.features import DECODE_ROWS, PREFILL_ROWS, PREFILL_TOKENS
from ..simulator.speculation import drafts_of
from .graph_sizes import GRAPH_SETTINGS, captured_graph_sizes
from .model_folder import lasting_name
from .profile import CHOICES, PARALLELISM, UNLIMITED_BLOCKS, EngineFacts, Profile
from .provenance import STEP_RECORDS
from .recorded_blocks import RecordedBlocks
from .surrogate.samples import StepSamples
from .surrogate.surrogate import first_use_note, fit, stalled_share

GRAPHS_UNLESS = 1.25
"""The factor by which CUDA-graph sizes must worsen the fit to step records to be left out. They matter most out of
range, beyond the largest captured size, which held-out steps within the range hardly show."""
OFTEN = 20
"""Steps of exactly the largest size: a limit that was met, not a chance."""
UNITS = {"max_num_batched_tokens": "tokens", "max_num_seqs": "rows"}
"""Of a step, what the batch limits bound."""
MOST_STALLED = 0.001
"""Of the recorded time. A stall holds up every request that is under way, so that a p99 lacks it long before a mean
does; recordings without stalls have none at all."""


def fitted_profile(
    samples: StepSamples,
    settings: Mapping[str, Any],
    name: str,
    model: str | None = None,
    seed: int = 0,
    version: str | None = None,
    blocks: RecordedBlocks | None = None,
) -> Profile:
    """A profile of step records, in their order in time, of a vLLM of this version that ran with `settings`, which
    become its defaults. `blocks` has looked at the records.

    Unless enforce_eager is among them, it is taken to have captured CUDA graphs, as vLLM does on a GPU; should that
    predict held-out steps much worse than no graphs, as it may for a CPU, none are assumed. Raises InputError for
    records that cannot be fitted.
    """
    refuse_stages(settings)
    facts = {key: settings[key] for key in (*PARALLELISM, *CHOICES) if key in settings}
    engine = EngineFacts(version=version, model=model and lasting_name(model), **facts)
    defaults = {key: value for key, value in settings.items() if key not in facts}
    ran = resolve(settings, {}, UNLIMITED_BLOCKS, version)
    beyond = _beyond(samples, ran, settings)
    sizes = captured_graph_sizes(ran, settings)
    eager = fit(samples, seed=seed, in_order=True)
    graphs = fit(samples, sizes, seed, in_order=True) if len(sizes) else None
    cuda_graphs = graphs is not None and graphs.held_out_error <= GRAPHS_UNLESS * eager.held_out_error
    step = graphs if graphs is not None and cuda_graphs else eager
    return Profile(
        name=name,
        source=STEP_RECORDS,
        step=step,
        engine=engine,
        defaults=defaults,
        cuda_graphs=cuda_graphs,
        samples=samples,
        notes=(
            "time outside the engine's steps (HTTP, tokeniser) is not in step records: taken as none",
            *beyond,
            *_assumed_limits(samples, ran, settings),
            *_graphs_taken(settings, sizes, cuda_graphs),
            *_overlap_taken(settings, ran),
            *_stalls(stalled_share(step, samples)),
            *filter(None, [first_use_note(step, samples)]),
            *(blocks.notes(ran.block_size) if blocks and "num_gpu_blocks_override" not in settings else ()),
        ),
    )


def _beyond(samples: StepSamples, ran: EngineConfig, settings: Mapping[str, Any]) -> list[str]:
    """That a recorded step was larger than vLLM's defaults allow, which are not the engine's then.

    Raises InputError where it was larger than the engine's own `settings` allow.
    """
    told = []
    for name, size in _limited(samples, settings).items():
        most, limit, unit = size.max(), getattr(ran, name), UNITS[name]
        if most <= limit:
            continue
        if name in settings:
            raise InputError(f"{name}={limit}: a recorded step has {most:g} {unit}; give what the engine ran with")
        told.append(f"a recorded step has {most:g} {unit}, and {name}={limit} was assumed: give --engine {name}")
    return told


def _assumed_limits(samples: StepSamples, ran: EngineConfig, settings: Mapping[str, Any]) -> list[str]:
    """The batch limits that nobody gave, and where the recorded steps speak for lower ones."""
    told = []
    for name, size in _limited(samples, settings).items():
        most, limit = size.max(), getattr(ran, name)
        if name in settings or most >= limit:
            continue
        often = int((size == most).sum())
        met = f"; {often} recorded steps have {most:g} and none has more, so it may be less" if often >= OFTEN else ""
        told.append(f"{name}={limit} is assumed, vLLM's default on a large GPU{met}: give --engine {name}")
    return told


def _limited(samples: StepSamples, settings: Mapping[str, Any]) -> dict[str, F64]:
    """By the setting that limits it, (steps,): tokens and rows of each step; a decode's drafts are of its row."""
    decodes = samples.totals[:, DECODE_ROWS]
    return {
        "max_num_batched_tokens": samples.totals[:, PREFILL_TOKENS] + decodes,
        "max_num_seqs": samples.totals[:, PREFILL_ROWS] + decodes / (1 + drafts_of(settings)),
    }


def _graphs_taken(settings: Mapping[str, Any], sizes: F64, cuda_graphs: bool) -> list[str]:
    """What was taken of CUDA graphs where the settings do not say it."""
    if len(sizes) and not cuda_graphs:
        return ["no CUDA graphs are assumed: with vLLM's, steps that were held out are predicted much worse"]
    if not len(sizes) or GRAPH_SETTINGS & settings.keys():
        return []
    return [f"CUDA graphs of up to {sizes[-1]:g} tokens are assumed; --engine enforce_eager=true assumes none"]


def _overlap_taken(settings: Mapping[str, Any], ran: EngineConfig) -> list[str]:
    """That steps are taken to be scheduled ahead where the settings do not say it: a request that arrives then waits
    one step more, and nothing in the records tells it."""
    if "async_scheduling" in settings or not ran.async_scheduling:
        return []
    return [
        "async_scheduling=true is assumed, vLLM's default on a GPU: give --engine async_scheduling=false if the engine "
        "ran without (the recorder writes what it ran with to the file that SLOTUNE_FACTS names)"
    ]


def _stalls(share: float) -> list[str]:
    if share < MOST_STALLED:
        return []
    return [
        f"{share:.1%} of the recorded time was in stalls of the machine that are not in these step times: p99 "
        "latencies are too low by them"
    ]


def refuse_stages(settings: Mapping[str, Any]) -> None:
    """Raise InputError for pipeline stages: records tell how often a step ends, not how long one is under way."""
    stages = int(settings.get("pipeline_parallel_size") or 1)
    if stages > 1:
        raise InputError(
            f"pipeline_parallel_size={stages}: step records do not tell how long a step is in the stages; only "
            "`slotune profile import silicon --pp` knows such engines"
        )
