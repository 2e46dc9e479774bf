"""Profiles from public kernel tables (tables.py): for a GPU that is not at hand.

The surrogate is fitted to sampled steps exactly as to measured ones, so that a simulation needs neither the tables'
package nor a GPU.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import qmc

from ...arrays import F64
from ...errors import InputError
from ...figures import figure
from ...simulator.engine_config import EngineConfig, resolve
from ...simulator.features import DECODE_ONLY, PREFILL_ONLY, TOTALS
from ..graph_sizes import captured_graph_sizes
from ..measurement.design import geometric_between
from ..model_folder import read_model_folder
from ..profile import UNLIMITED_BLOCKS, EngineFacts, Profile
from ..provenance import KERNEL_TABLES
from ..surrogate.samples import StepSamples
from ..surrogate.surrogate import fit
from .doubts import Comparisons, doubts, fewer_graphs
from .layout import ONE_SCALE, layout_of
from .memory import estimated_kv, kv_note, layer_bytes, token_cache_bytes, weights_fit
from .model_defaults import model_defaults
from .omitted import OMITTED, OVERHEAD, Omitted
from .tables import TABLE_NOISE, Composition, KernelTables

SAMPLED_STEPS = 1 << 14
"""A power of two, as Sobol points want it; a third of each regime, and about a fifth do not fit."""
MAX_TOKENS = 16384
TABLES_CONTEXT = 131072
"""Longest context in the attention tables; the package draws a line on from there and does not say so."""
MAX_DECODE_ROWS = 1024
MAX_PREFILL_ROWS = 64
FULL_BUDGETS = 1 / 3
"""Share of the steps whose tokens are a power of two, as those that fill a budget are: kernels change their tiles
there, and a step in FP8 takes up to 1.7 times as long with one token more. Sizes at random would smooth that away."""
MOST_MODELLED = 0.05
"""Of a step's kernel time; less moves no number by more than the tables are off."""
MAX_SKEW = 4.0
"""Longest context of a batch over its mean; the tables know equal contexts only, and attention reads their sum."""


def sample_compositions(capacity_tokens: int, max_context: int, seed: int) -> Iterator[Composition]:
    """Steps of all three regimes, log-uniform in every size (Sobol points), that fit the KV cache and step limit."""
    for point in qmc.Sobol(8, rng=np.random.default_rng(seed)).random(SAMPLED_STEPS):
        regime = int(3 * point[6])
        step = _composition(point, regime != DECODE_ONLY, regime != PREFILL_ONLY, max_context)
        step = _filled(step) if point[7] < FULL_BUDGETS else step
        held = step.prefill_rows * (step.prefill_context + step.chunk_tokens) + step.decode_rows * step.decode_context
        if held <= capacity_tokens and step.tokens <= MAX_TOKENS:
            yield step


def _composition(point: F64, prefill: bool, decode: bool, max_context: int) -> Composition:
    tokens = geometric_between(2, MAX_TOKENS, point[0])
    rows = min(geometric_between(1, MAX_PREFILL_ROWS, point[1]), tokens // 2) if prefill else 0
    context = geometric_between(1, max_context - tokens, 2 * point[2] - 1) if point[2] > 0.5 else 0
    decodes = geometric_between(1, MAX_DECODE_ROWS, point[3]) if decode else 0
    mean = geometric_between(1, max_context, point[4]) if decode else 0
    skew = MAX_SKEW ** point[5] if decodes > 1 else 1.0
    longest = min(int(mean * skew), max_context)
    return Composition(
        prefill_rows=rows,
        chunk_tokens=tokens // rows if rows else 0,
        prefill_context=context if rows else 0,
        decode_rows=decodes,
        decode_context=mean,
        max_context=max(longest, context if rows else 0),
    )


def _filled(step: Composition) -> Composition:
    """The step with as many tokens as the nearest power of two."""
    tokens = 2 ** round(math.log2(step.tokens))
    if not step.prefill_rows:
        return replace(step, decode_rows=tokens)
    decodes = min(step.decode_rows, tokens // 2)
    most_rows = min(step.prefill_rows, (tokens - decodes) // 2)
    rows = 2 ** int(math.log2(most_rows))
    chunk = (tokens - decodes) // rows
    return replace(step, prefill_rows=rows, chunk_tokens=chunk, decode_rows=tokens - rows * chunk)


def import_silicon(
    system: str,
    model: str,
    tp: int,
    name: str,
    seed: int = 0,
    *,
    pp: int = 1,
    precision: str | None = None,
    settings: Mapping[str, Any] | None = None,
    omitted: Omitted = OMITTED,
) -> Profile:
    """A profile of `model` under vLLM on `tp` GPUs of `system` a stage, in `pp` pipeline stages, from kernel tables.

    `precision` is the tables' name of the weights' number format (fp8, nvfp4, ...), by default the model's own.
    `settings` become the profile's defaults; of them async_scheduling, the CUDA-graph sizes, kv_cache_dtype and
    enable_expert_parallel change step times.

    Raises InputError where the package is not installed or does not know the system or the model, for settings that the
    tables would not follow or vLLM refuses, and where nothing is left for a KV cache.
    """
    layout = layout_of(tp, pp, precision, settings or {})
    read_model_folder(model)
    tables = KernelTables(system, model, layout, omitted)
    max_context = int(tables.model_info["context"])
    limits = _batch_defaults(system, tables.gpu["mem_capacity"])
    own = model_defaults(tables.model_info, tables.gpu["sm_version"], settings or {})
    unasked = {"max_model_len": max_context, **limits, **own}
    defaults = unasked | dict(settings or {})
    facts = _facts(tables)
    engine = resolve({**(settings or {}), "pipeline_parallel_size": pp}, unasked, UNLIMITED_BLOCKS)
    facts.check_max_model_len(engine.max_model_len)
    graph_sizes = captured_graph_sizes(engine, defaults, system)
    capacity = estimated_kv(tables)
    blocks = UNLIMITED_BLOCKS
    if capacity is not None:
        blocks = capacity.num_gpu_blocks({**defaults, "block_size": engine.block_size})
    if blocks < 2 or not weights_fit(tables, defaults):
        mend = "give more GPUs or raise gpu_memory_utilization"
        raise InputError(f"--model {model} {layout}: leaves no memory for a KV cache on {system}; {mend}")
    steps = list(sample_compositions(blocks * engine.block_size, min(max_context, TABLES_CONTEXT), seed))
    samples = _samples(tables, steps, graph_sizes, engine.async_scheduling)
    return Profile(
        name=name,
        source=KERNEL_TABLES,
        step=fit(samples, graph_sizes, seed, dense=not tables.is_mixture),
        engine=facts,
        defaults=defaults,
        cuda_graphs=True,
        kv=capacity,
        overhead=OVERHEAD,
        samples=samples,
        notes=_notes(tables, engine.async_scheduling, kv_note(capacity, defaults, tables.has_encoder)),
        model_parts=tables.model_parts(),
        doubts=(
            *doubts(tables, _comparisons(tables)),
            *fewer_graphs(graph_sizes[-1], _usual_graph(tables, engine)),
        ),
    )


def _usual_graph(tables: KernelTables, engine: EngineConfig) -> float:
    """Tokens of the largest CUDA graph that vLLM itself would choose for the model and these batch limits."""
    own = model_defaults(tables.model_info, tables.gpu["sm_version"], {})
    return float(captured_graph_sizes(engine, own, tables.system)[-1])


def _facts(tables: KernelTables) -> EngineFacts:
    return EngineFacts(
        model=tables.model,
        device=tables.system,
        tensor_parallel_size=tables.layout.tp,
        pipeline_parallel_size=tables.layout.pp,
        quantization=tables.layout.precision,
        derived_max_model_len=tables.derived_max_model_len,
    )


def _samples(tables: KernelTables, steps: list[Composition], graph_sizes: F64, async_scheduling: bool) -> StepSamples:
    return StepSamples(
        np.array([step.totals() for step in steps]).reshape(-1, TOTALS),
        np.array([tables.step_ms(step, graph_sizes, async_scheduling) for step in steps]) / 1e3,
    )


def _comparisons(tables: KernelTables) -> Comparisons:
    halved = _with(tables, tp=tables.layout.tp // 2) if tables.layout.tp % 2 == 0 else None
    alone = _with(tables, tp=1, pp=1)
    weights = layer_bytes(alone) if alone else None
    kinds = ("precision", "dense_precision") if tables.is_mixture else ("precision",)
    plain = tuple(known for kind in kinds if (known := _with(tables, **{kind: "bfloat16"})))
    return Comparisons(plain, halved, alone, weights, token_cache_bytes(tables))


def _with(tables: KernelTables, **layout: Any) -> KernelTables | None:
    """Tables of the same model laid out otherwise; None where the package has none."""
    try:
        return KernelTables(tables.system, tables.model, replace(tables.layout, **layout))
    except InputError:
        return None


def _batch_defaults(system: str, memory_bytes: float) -> dict[str, int]:
    """vLLM's batch limits by GPU (vllm/engine/arg_utils.py, get_batch_defaults)."""
    if memory_bytes >= 160 * 2**30:
        return {"max_num_batched_tokens": 16384, "max_num_seqs": 1024}
    if memory_bytes >= 70 * 2**30 and "a100" not in system:
        return {"max_num_batched_tokens": 8192, "max_num_seqs": 1024}
    return {"max_num_batched_tokens": 2048, "max_num_seqs": 256}


def _notes(tables: KernelTables, async_scheduling: bool, memory: str) -> tuple[str, ...]:
    gap_ms, eager_ms = (tables.layer_gap_ms(captured, async_scheduling) for captured in (True, False))
    slowed = f"the attention of decodes beside a prefill is taken as {tables.mixed_decodes:g} times what it is alone"
    pp = tables.layout.pp
    stages = (f"{pp} pipeline stages: no measured run of any was compared with",) if pp > 1 else ()
    scales = "the weights have one scale a tensor: a checkpoint with one a block, such as Qwen3-8B-FP8, is fp8_block"
    tokens, times = tables.slowest_beside_larger()
    uneven = (
        f"the layers of {tokens} tokens take {figure(times, 2)} times as long in the tables as those of more: not here"
    )
    return (
        *stages,
        _measured(tables),
        *([scales] if tables.layout.precision in ONE_SCALE else []),
        *([uneven] if times > TABLE_NOISE else []),
        f"added to them: {gap_ms:g} ms a layer, {eager_ms:g} beyond the captured CUDA graphs, and the sampler",
        slowed,
        "held-out errors are those of the fit to the tables, not of the tables to a real engine: see docs/trust.md",
        "the time outside the engine's steps (HTTP, tokeniser) is an assumption",
        memory,
        "measure your own machine with `slotune profile measure` before you trust a decision to it",
    )


def _measured(tables: KernelTables) -> str:
    """Where kernel times come from, and what of them was not measured."""
    source = f"aiconfigurator-core's public tables, measured one kernel at a time under vLLM {tables.version}"
    shares = tables.modelled_shares().items()
    modelled = ", ".join(f"{share:.0%} of {step}" for step, share in shares if share > MOST_MODELLED)
    return f"kernel times: {source}" + (f", but for the package's own estimates: {modelled}" if modelled else "")
