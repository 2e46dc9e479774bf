"""Profiles from public kernel tables: for a GPU that is not at hand. Over the optional package aiconfigurator-core.

The package holds kernel times measured one by one on idle GPUs (GEMM, attention, all-reduce; its systems/data). A step
is their sum for the step's composition, plus what the tables leave out (silicon_omitted.py). The surrogate is fitted to
sampled steps exactly as to measured ones, so that a simulation needs neither package nor GPU.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from ..errors import InputError
from ..simulator.engine_config import resolve
from ..simulator.features import DECODE_ONLY, PREFILL_ONLY, TOTALS
from .graph_sizes import captured_graph_sizes, most_captured
from .model_folder import keeps_every_token
from .profile import UNLIMITED_BLOCKS, EngineFacts, ModelPart, Profile
from .provenance import KERNEL_TABLES
from .silicon_doubts import doubts
from .silicon_layout import Layout, layout_of
from .silicon_memory import GRAPHS_GIB, kv_capacity, kv_note, token_cache_bytes, weights_fit
from .silicon_omitted import (
    MIXED_DECODES,
    OMITTED,
    OVERHEAD,
    SAMPLER_BYTES_PER_LOGIT,
    SPLIT_ATTENTION,
    UNPACKED_DECODES,
    Omitted,
)
from .surrogate import fit
from .surrogate_samples import StepSamples

F64 = npt.NDArray[np.float64]

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
MAX_SKEW = 4.0
"""Longest context of a batch over its mean; the tables know equal contexts only, and attention reads their sum."""


@dataclass(frozen=True, slots=True)
class Composition:
    """A step of equal prefill rows and equal decode rows."""

    prefill_rows: int
    chunk_tokens: int
    prefill_context: int
    decode_rows: int
    decode_context: int
    max_context: int

    @property
    def tokens(self) -> int:
        """Tokens that the step computes."""
        return self.prefill_rows * self.chunk_tokens + self.decode_rows

    def totals(self) -> F64:
        """As simulator/features.py would sum the rows."""
        rows, chunk, context = self.prefill_rows, self.chunk_tokens, self.prefill_context
        work = rows * chunk * (context + (chunk + 1) / 2)
        decode = [self.decode_rows, self.decode_rows * self.decode_context, self.max_context]
        return np.array([rows * chunk, rows, work, rows * context, *decode], dtype=np.float64)


class KernelTables:
    """Kernel times of one model on one system, summed to the parts of a step. Milliseconds, as in the tables."""

    def __init__(
        self,
        system: str,
        model: str,
        layout: Layout,
        omitted: Omitted = OMITTED,
    ) -> None:
        """Raises InputError where the package lacks the system, the model, or tables for them."""
        engine, database, utils, errors = _package()
        lacking = (
            errors.PerfDataNotAvailableError,
            errors.EmpiricalNotImplementedError,
            utils.HuggingFaceDownloadError,
        )
        self.version, self.omitted = _table_version(database, system), omitted
        try:
            self.model_info: dict[str, Any] = utils.get_model_config_from_model_path(model)
            arguments = layout.arguments(self.model_info)
            self._engine = engine.EngineHandle.compile(model, system, "vllm", backend_version=self.version, **arguments)
            self._context_ops, self._decode_ops, names = self._operations()
        except (ValueError, KeyError, AssertionError, OSError, *lacking) as error:
            line = " ".join(str(error).split())
            raise InputError(f"no kernel tables for --model {model} {layout} on {system}: {line}") from error
        self.gpu: dict[str, float] = database.get_database(system, "vllm", self.version).system_spec["gpu"]
        latent = self.model_info.get("raw_config", {}).get("kv_lora_rank")
        self.is_latent = bool(latent) or any("mla" in name for name in names)
        self.mixed_decodes = self._mixed_decodes(layout)

    def _operations(self) -> tuple["_Ops", "_Ops", list[str]]:
        """Those of prefills and of decodes, and the names of the latter."""
        context_ops, decode_ops = self._engine.evaluate_context_ops, self._engine.evaluate_generation_ops
        prefills = [_each(partial(context_ops, batch_size=1, s=128, prefix=context)) for context in (0, 4096)]
        decodes = [_each(partial(decode_ops, batch_size=8, s=context)) for context in (128, 4096)]
        return _split(*prefills), _split(*decodes), [name for name, _ in decodes[0]]

    def _mixed_decodes(self, layout: Layout) -> float:
        """How many times longer the attention of decodes takes beside a prefill."""
        if self._has_kernel_each():
            return 1.0
        packed = not UNPACKED_DECODES[0] <= self.gpu["sm_version"] < UNPACKED_DECODES[1]
        if packed or layout.cache_format(self.model_info) != "bfloat16":  # FlashAttention 2 reads no fp8 cache
            return MIXED_DECODES
        heads, kv_heads = (max(1, int(self.model_info[name]) // layout.tp) for name in ("n", "n_kv"))
        return heads / kv_heads

    @property
    def is_mixture(self) -> bool:
        """Whether the model is a mixture of experts."""
        return bool(self.model_info.get("num_experts"))

    def model_parts(self) -> tuple[ModelPart, ...]:
        """What the model has besides plain dense layers."""
        config = self.model_info.get("raw_config", {})
        parts: dict[ModelPart, bool] = {
            "experts": self.is_mixture,
            "latent attention": self.is_latent,
            "layers of several kinds": not keeps_every_token(config),
            "an image encoder": bool(config.get("vision_config")),
        }
        return tuple(name for name, has in parts.items() if has)

    def _has_kernel_each(self) -> bool:
        """Whether prefills and decodes have an attention kernel each; so has multi-head latent attention everywhere
        (vllm/model_executor/layers/attention/mla_attention.py)."""
        return self.is_latent or SPLIT_ATTENTION[0] <= self.gpu["sm_version"] < SPLIT_ATTENTION[1]

    def _has_decode_layers(self) -> bool:
        """Whether decodes have other kernels beside attention than prefills of as many tokens: experts that run beside
        the shared ones, states that are one a sequence. Plain dense layers see tokens only."""
        return self.is_mixture or not keeps_every_token(self.model_info.get("raw_config", {}))

    def dense_ms(self, tokens: int, decodes_only: bool = False) -> float:
        """Everything but attention and logits, for a step of `tokens` tokens."""
        if decodes_only and self._has_decode_layers():
            return _sum(self._engine.evaluate_generation_ops(self._decode_ops.dense, batch_size=tokens, s=128))
        return _sum(self._engine.evaluate_context_ops(self._context_ops.dense, batch_size=1, s=tokens, prefix=0))

    def prefill_attention_ms(self, rows: int, chunk: int, context: int) -> float:
        """Attention of `rows` chunks, each after `context` tokens.

        The tables' formula for a prefix takes a share of the time of a whole prompt, which leaves out the projections
        of latent attention: never less than without a context.
        """
        ops = self._context_ops.attention
        contexts = {0, context} if self.is_latent else {context}
        return max(
            _sum(self._engine.evaluate_context_ops(ops, batch_size=rows, s=chunk, prefix=before)) for before in contexts
        )

    def decode_attention_ms(self, rows: int, context: int) -> float:
        """Attention of `rows` decodes over `context` tokens each."""
        return _sum(self._engine.evaluate_generation_ops(self._decode_ops.attention, batch_size=rows, s=context))

    def output_ms(self, rows: int) -> float:
        """Logits of `rows` sequences and the sampling of one token for each."""
        logits = _sum(self._engine.evaluate_generation_ops(self._decode_ops.logits, batch_size=rows, s=128))
        bandwidth = self.gpu["mem_bw"] * self.gpu["mem_bw_empirical_scaling_factor"]
        sampled_bytes = rows * self.model_info["vocab"] * SAMPLER_BYTES_PER_LOGIT
        return float(logits + self.omitted.sampler_ms + 1e3 * sampled_bytes / bandwidth)

    def step_ms(self, step: Composition, graph_sizes: F64, async_scheduling: bool = True) -> float:
        """A whole step, dense layers padded to the CUDA-graph size."""
        fits = graph_sizes[graph_sizes >= step.tokens]
        total = self.dense_ms(int(fits[0]) if len(fits) else step.tokens, decodes_only=not step.prefill_rows)
        if step.prefill_rows:
            total += self.prefill_attention_ms(step.prefill_rows, step.chunk_tokens, step.prefill_context)
        if step.decode_rows:
            slowed = self.mixed_decodes if step.prefill_rows else 1.0
            total += slowed * self.decode_attention_ms(step.decode_rows, step.decode_context)
        total += int(self.model_info["layers"]) * self.omitted.layer_ms(len(fits) > 0, async_scheduling)
        return total + self.output_ms(step.prefill_rows + step.decode_rows)


@dataclass(frozen=True, slots=True)
class _Ops:
    """Positions in the package's list of operations."""

    dense: list[int]
    attention: list[int]
    logits: list[int]


def _each(evaluate: Callable[[list[int]], list[tuple[str, float, float, str]]]) -> list[tuple[str, float]]:
    """Name and milliseconds of every operation, asked for one by one: the package adds up those of the same name."""
    found: list[tuple[str, float]] = []
    while True:
        try:
            (operation,) = evaluate([len(found)])
        except ValueError as error:
            if "out of range" not in str(error):
                raise
            return found
        found.append(operation[:2])


def _split(near: list[tuple[str, float]], far: list[tuple[str, float]]) -> _Ops:
    """Attention is what takes longer after more context, whatever the model's operations are called."""
    everything = range(len(near))
    attention = [i for i in everything if far[i] != near[i]]
    logits = [i for i in everything if "logits" in near[i][0]]
    return _Ops([i for i in everything if i not in attention and i not in logits], attention, logits)


def _sum(operations: list[tuple[str, float, float, str]]) -> float:
    return sum(ms for _, ms, _, _ in operations)


def _package() -> tuple[ModuleType, ModuleType, ModuleType, ModuleType]:
    try:
        from aiconfigurator_core.sdk import engine, errors, perf_database, utils
    except ImportError as error:
        raise InputError(
            f"kernel tables need an optional package ({error}); install it with: pip install 'slotune[silicon]'"
        ) from error
    return engine, perf_database, utils, errors


def _table_version(database: ModuleType, system: str) -> str:
    slots = database.get_version_slots(system, "vllm") if system in _systems(database) else None
    if not slots or not slots.get("current"):
        raise InputError(f"--system {system}: no vLLM kernel tables; there are {', '.join(_systems(database))}")
    return str(slots["current"])


def _systems(database: ModuleType) -> list[str]:
    """Those with tables for vLLM and a CUDA compute capability, which tells the kernels that vLLM would take."""
    found = [name for name, backends in database.get_supported_databases().items() if backends.get("vllm")]
    return sorted(name for name in found if "sm_version" in database.load_system_spec(name)["gpu"])


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
    tokens = _log_between(point[0], 2, MAX_TOKENS)
    rows = min(_log_between(point[1], 1, MAX_PREFILL_ROWS), tokens // 2) if prefill else 0
    context = _log_between(2 * point[2] - 1, 1, max_context - tokens) if point[2] > 0.5 else 0
    decodes = _log_between(point[3], 1, MAX_DECODE_ROWS) if decode else 0
    mean = _log_between(point[4], 1, max_context) if decode else 0
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


def _log_between(share: float, low: int, high: int) -> int:
    return round(float(low * (max(high, low) / low) ** share))


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
    tables would not follow, and where nothing is left for a KV cache.
    """
    layout = layout_of(tp, pp, precision, settings or {})
    tables = KernelTables(system, model, layout, omitted)
    asked = tables, system, model, layout
    max_context = int(tables.model_info["context"])
    limits = _batch_defaults(system, tables.gpu["mem_capacity"])
    defaults = {"max_model_len": max_context, **limits, **(settings or {})}
    engine = resolve({"pipeline_parallel_size": pp}, defaults, UNLIMITED_BLOCKS)
    graph_sizes = captured_graph_sizes(engine, defaults, most_captured(system))
    capacity = kv_capacity(*asked, GRAPHS_GIB if len(graph_sizes) else 0.0)
    blocks = UNLIMITED_BLOCKS
    if capacity is not None:
        blocks = capacity.num_gpu_blocks({**defaults, "block_size": engine.block_size})
    if blocks < 2 or not weights_fit(*asked, defaults):
        mend = "give more GPUs or raise gpu_memory_utilization"
        raise InputError(f"--model {model} {layout}: leaves no memory for a KV cache on {system}; {mend}")
    steps = list(sample_compositions(blocks * engine.block_size, min(max_context, TABLES_CONTEXT), seed))
    samples = StepSamples(
        np.array([step.totals() for step in steps]).reshape(-1, TOTALS),
        np.array([tables.step_ms(step, graph_sizes, engine.async_scheduling) for step in steps]) / 1e3,
    )
    return Profile(
        name=name,
        source=KERNEL_TABLES,
        step=fit(samples, graph_sizes, seed),
        engine=EngineFacts(
            model=model, device=system, tensor_parallel_size=tp, pipeline_parallel_size=pp, quantization=precision
        ),
        defaults=defaults,
        cuda_graphs=True,
        kv=capacity,
        overhead=OVERHEAD,
        samples=samples,
        notes=_notes(tables, layout, engine.async_scheduling, kv_note(capacity, defaults)),
        model_parts=tables.model_parts(),
        doubts=tuple(doubts(tables, _in_bfloat16(system, model, layout), token_cache_bytes(*asked))),
    )


def _in_bfloat16(system: str, model: str, layout: Layout) -> KernelTables | None:
    """Tables of the same model with weights in bfloat16; None where the package has none."""
    try:
        return KernelTables(system, model, replace(layout, precision="bfloat16"))
    except InputError:
        return None


def _batch_defaults(system: str, memory_bytes: float) -> dict[str, int]:
    """vLLM's batch limits by GPU (vllm/engine/arg_utils.py, get_batch_defaults)."""
    if memory_bytes >= 160 * 2**30:
        return {"max_num_batched_tokens": 16384, "max_num_seqs": 1024}
    if memory_bytes >= 70 * 2**30 and "a100" not in system:
        return {"max_num_batched_tokens": 8192, "max_num_seqs": 1024}
    return {"max_num_batched_tokens": 2048, "max_num_seqs": 256}


def _notes(tables: KernelTables, layout: Layout, async_scheduling: bool, memory: str) -> tuple[str, ...]:
    gap_ms, eager_ms = (tables.omitted.layer_ms(captured, async_scheduling) for captured in (True, False))
    slowed = f"the attention of decodes beside a prefill is taken as {tables.mixed_decodes:g} times what it is alone"
    stages = (f"{layout.pp} pipeline stages: no measured run of any was compared with",) if layout.pp > 1 else ()
    return (
        *stages,
        f"kernel times: aiconfigurator-core's public tables, measured one kernel at a time under vLLM {tables.version}",
        f"added to them: {gap_ms:g} ms a layer, {eager_ms:g} beyond the captured CUDA graphs, and the sampler",
        slowed,
        "held-out errors are those of the fit to the tables, not of the tables to a real engine: see docs/trust.md",
        "the time outside the engine's steps (HTTP, tokeniser) is an assumption",
        memory,
        "measure your own machine with `slotune profile measure` before you trust a decision to it",
    )
