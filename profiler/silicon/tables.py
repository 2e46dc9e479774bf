"""Public kernel tables of one model on one GPU, over the optional package aiconfigurator-core.

The package holds kernel times measured one by one on idle GPUs (GEMM, attention, all-reduce; its systems/data). A step
is their sum for the step's composition, plus what the tables leave out (omitted.py).
"""

import logging
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from ...arrays import F64
from ...errors import InputError, one_line
from ..model_folder import keeps_every_token, text_part
from ..profile import ModelPart
from .layout import Layout
from .omitted import (
    HOPPER,
    HOPPER_MIXED_DECODES,
    MIXED_DECODES,
    OMITTED,
    SAMPLER_BYTES_PER_LOGIT,
    SPLIT_ATTENTION,
    UNPACKED_DECODES,
    UNSPLIT_QUERIES,
    UNSPLIT_SMS,
    Omitted,
    has_half_layers,
)

Operation = tuple[str, float, float, str]
"""As the package has it: name, milliseconds, energy, source."""
SCALED_ROPE = ("linear", "dynamic")
"""Kinds of rope_scaling whose factor is not in max_position_embeddings yet."""
GRID = (*range(8, 64, 8), *range(64, 1024, 64), *range(1024, 2048, 128), *range(2048, 16385, 512))
"""Tokens of the steps that smaller ones are held against: the layers of these could do as if they were so large. In the
tables those of a smaller step may take longer: GEMMs of FP8 on Hopper between multiples of 256 tokens, all-reduces of
eight B200s below 64."""
WITHIN = 4
"""Times as many tokens are looked at."""
TABLE_NOISE = 1.05
"""Times that a smaller step may take longer by chance."""
PROBED = (1, 2, 4, *(size + 1 for size in GRID if size < 2048))
"""Tokens of the steps among which the one is sought that the tables have slowest beside larger ones."""
MODELLED = frozenset({"empirical", "estimated", "sol"})
"""Sources of times that were measured on no kernel of the kind: formulas of bytes and flops, and kernels scaled to
others (sdk/performance_result.py). A "mixed" time is measured in part, and not counted."""


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
        lacking = (errors.PerfDataNotAvailableError, errors.EmpiricalNotImplementedError)
        self.system, self.model, self.layout = system, model, layout
        self.version, self.omitted = _table_version(database, system), omitted
        self._grid_ms: dict[bool, F64] = {}
        try:
            self.model_info: dict[str, Any] = utils.get_model_config_from_model_path(model)
            _check_model(model, self.model_info, layout)
            latent = self.model_info.get("raw_config", {}).get("kv_lora_rank")
            (database.logger.removeFilter if latent else database.logger.addFilter)(_bears_on_plain_attention)
            specification = database.get_database(system, "vllm", self.version).system_spec
            self.gpu: dict[str, float] = specification["gpu"]
            self.node: dict[str, float] = specification["node"]
            self.arguments = layout.arguments(self.model_info, self.gpu["sm_version"])
            self._engine = engine.EngineHandle.compile(
                model, system, "vllm", backend_version=self.version, **self.arguments
            )
            self._context_ops, self._decode_ops, names = self._operations()
        except utils.HuggingFaceDownloadError as error:
            raise _no_configuration(model, error) from error
        except (ValueError, TypeError, KeyError, AttributeError, AssertionError, OSError, *lacking) as error:
            line = one_line(error)
            asked = layout.precision is not None and layout.precision in line
            missing = f"--precision {layout.precision} is unknown" if asked else f"config.json has no {line}"
            named = missing if isinstance(error, KeyError) else line
            raise InputError(f"no kernel tables for --model {model} {layout} on {system}: {named}") from error
        self.is_latent = bool(latent) or any("mla" in name for name in names)
        self.mixed_decodes = self._mixed_decodes()

    def _operations(self) -> tuple["_Ops", "_Ops", list[str]]:
        """Those of prefills and of decodes, and the names of the latter."""
        context_ops, decode_ops = self._engine.evaluate_context_ops, self._engine.evaluate_generation_ops
        prefills = [_each(partial(context_ops, batch_size=1, s=128, prefix=context)) for context in (0, 4096)]
        decodes = [_each(partial(decode_ops, batch_size=8, s=context)) for context in (128, 4096)]
        return _split(*prefills), _split(*decodes), [name for name, *_ in decodes[0]]

    def modelled_shares(self) -> dict[str, float]:
        """What of the kernels' time was measured on none, by kind of step."""
        decodes = _each(partial(self._engine.evaluate_generation_ops, batch_size=64, s=4096))
        prefill = _each(partial(self._engine.evaluate_context_ops, batch_size=1, s=2048, prefix=0))
        steps = {"a step of 64 decodes": decodes, "a prefill of 2048 tokens": prefill}
        return {
            name: _sum([each for each in operations if each[3] in MODELLED]) / _sum(operations)
            for name, operations in steps.items()
        }

    def _mixed_decodes(self) -> float:
        """How many times longer the attention of decodes takes beside a prefill."""
        if self._has_kernel_each():
            return 1.0
        if HOPPER[0] <= self.gpu["sm_version"] < HOPPER[1]:
            return HOPPER_MIXED_DECODES
        packed = not UNPACKED_DECODES[0] <= self.gpu["sm_version"] < UNPACKED_DECODES[1]
        if packed or self.arguments["kvcache_quant_mode"] != "bfloat16":  # FlashAttention 2 reads no fp8 cache
            return MIXED_DECODES
        heads, kv_heads = (max(1, int(self.model_info[name]) // self.layout.tp) for name in ("n", "n_kv"))
        return heads / kv_heads

    @property
    def is_mixture(self) -> bool:
        """Whether the model is a mixture of experts."""
        return bool(self.model_info.get("num_experts"))

    @property
    def has_encoder(self) -> bool:
        """Whether the model reads images."""
        return bool(self.model_info.get("raw_config", {}).get("vision_config"))

    def model_parts(self) -> tuple[ModelPart, ...]:
        """What the model has besides plain dense layers."""
        config = self.model_info.get("raw_config", {})
        parts: dict[ModelPart, bool] = {
            "experts": self.is_mixture,
            "latent attention": self.is_latent,
            "layers of several kinds": not keeps_every_token(config),
            "an image encoder": self.has_encoder,
        }
        return tuple(name for name, has in parts.items() if has)

    @property
    def derived_max_model_len(self) -> int:
        """The most tokens that vLLM serves of the model (_get_and_verify_max_len, vllm/config/model.py)."""
        config = self.model_info.get("raw_config", {})
        text = text_part(config)
        rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
        is_scaled = rope.get("rope_type", rope.get("type")) in SCALED_ROPE
        scaled = float(self.model_info["context"]) * float(rope.get("factor", 1.0) if is_scaled else 1.0)
        return max(int(scaled), int(text.get("model_max_length") or 0))

    def _has_kernel_each(self) -> bool:
        """Whether prefills and decodes have an attention kernel each; so has multi-head latent attention everywhere
        (vllm/model_executor/layers/attention/mla_attention.py)."""
        return self.is_latent or SPLIT_ATTENTION[0] <= self.gpu["sm_version"] < SPLIT_ATTENTION[1]

    def _has_decode_layers(self) -> bool:
        """Whether decodes have other kernels beside attention than prefills of as many tokens: experts that run beside
        the shared ones, states that are one a sequence. Plain dense layers see tokens only."""
        return self.is_mixture or not keeps_every_token(self.model_info.get("raw_config", {}))

    def dense_ms(self, tokens: int, decodes_only: bool = False) -> float:
        """Everything but attention and logits, for a step of `tokens` tokens: no more than steps take that are a little
        larger (GRID)."""
        told_ms, least_ms = self.told_dense_ms(tokens, decodes_only), self._least_ms(tokens, decodes_only)
        return least_ms if told_ms > TABLE_NOISE * least_ms else told_ms

    def slowest_beside_larger(self) -> tuple[int, float]:
        """Of PROBED, the tokens whose layers the tables have slower by most than those of more, and how many times."""
        slower = {
            tokens: max(self.told_dense_ms(tokens, kind) / self._least_ms(tokens, kind) for kind in (False, True))
            for tokens in PROBED
        }
        worst = max(slower, key=slower.__getitem__)
        return worst, slower[worst]

    def _least_ms(self, tokens: int, decodes_only: bool) -> float:
        """The least that the tables have for steps of GRID with as many tokens or more; infinite where it has none."""
        times = self._grid_ms.get(decodes_only)
        if times is None:
            times = self._grid_ms[decodes_only] = np.array([self.told_dense_ms(size, decodes_only) for size in GRID])
        most = WITHIN * max(tokens, GRID[0])
        first, end = bisect_left(GRID, tokens), bisect_right(GRID, most)
        return float(times[first:end].min(initial=math.inf))

    def told_dense_ms(self, tokens: int, decodes_only: bool = False) -> float:
        """The same as the tables have it."""
        if decodes_only and self._has_decode_layers():
            return _sum(self._engine.evaluate_generation_ops(self._decode_ops.dense, batch_size=tokens, s=128))
        return _sum(self._engine.evaluate_context_ops(self._context_ops.dense, batch_size=1, s=tokens, prefix=0))

    def prefill_attention_ms(self, rows: int, chunk: int, context: int) -> float:
        """Attention of `rows` chunks, each after `context` tokens.

        The tables' formula for a prefix takes a share of the time of a whole prompt, which leaves out the projections
        of latent attention: never less than without a context. Of a short chunk it leaves out that all of the context
        is read: never less than `_unsplit_ms`.
        """
        shared_ms = self.share_ms(rows, chunk, context)
        if self.is_latent:
            return max(shared_ms, self.share_ms(rows, chunk, 0))
        return max(shared_ms, self._unsplit_ms(rows, chunk, context)) if context else shared_ms

    def share_ms(self, rows: int, chunk: int, context: int) -> float:
        """The same as the package has it: a share of the time of the whole prompt."""
        ops = self._context_ops.attention
        return _sum(self._engine.evaluate_context_ops(ops, batch_size=rows, s=chunk, prefix=context))

    def _unsplit_ms(self, rows: int, chunk: int, context: int) -> float:
        """What the context takes where one multiprocessor reads all of it for each tile of queries (UNSPLIT_SMS): as
        much as for a chunk that gives each of them one tile, for each time that all have one, and no less than decodes
        after it take. 0 elsewhere."""
        multiprocessors = UNSPLIT_SMS.get(int(self.gpu["sm_version"]), 0)
        if not multiprocessors or self.arguments["kvcache_quant_mode"] != "bfloat16":
            return 0.0
        heads = max(1, int(self.model_info["n"]) // self.layout.tp)
        waves = math.ceil(rows * heads * math.ceil(chunk / UNSPLIT_QUERIES) / multiprocessors)
        width = multiprocessors * UNSPLIT_QUERIES // heads
        tiles_ms = waves * (self.share_ms(1, width, context) - self.share_ms(1, width, 0))
        return max(tiles_ms, self.decode_attention_ms(rows, context))

    def decode_attention_ms(self, rows: int, context: int) -> float:
        """Attention of `rows` decodes over `context` tokens each."""
        return _sum(self._engine.evaluate_generation_ops(self._decode_ops.attention, batch_size=rows, s=context))

    def output_ms(self, rows: int) -> float:
        """Logits of `rows` sequences and the sampling of one token for each."""
        logits = _sum(self._engine.evaluate_generation_ops(self._decode_ops.logits, batch_size=rows, s=128))
        bandwidth = self.gpu["mem_bw"] * self.gpu["mem_bw_empirical_scaling_factor"]
        sampled_bytes = rows * self.model_info["vocab"] * SAMPLER_BYTES_PER_LOGIT
        gathered = self._gather_ms(rows)
        return float(logits + gathered + self.omitted.sampler_ms + 1e3 * sampled_bytes / bandwidth)

    def _gather_ms(self, rows: int) -> float:
        """The all-gather of logits, of which each GPU makes a part (_gather_logits,
        vllm/model_executor/layers/logits_processor.py): half of an all-reduce of as many values, which goes both ways.
        """
        as_embeddings = max(1, round(rows * self.model_info["vocab"] / self.model_info["hidden_size"]))
        ops = self._decode_ops.embedding_sum
        return _sum(self._engine.evaluate_generation_ops(ops, batch_size=as_embeddings, s=128)) / 2 if ops else 0.0

    def layer_gap_ms(self, captured: bool, async_scheduling: bool) -> float:
        """What a layer of a step takes besides its kernels."""
        whole = 0.5 if has_half_layers(self.model_info) else 1.0
        return whole * self.omitted.layer_ms(captured, async_scheduling)

    def step_ms(self, step: Composition, graph_sizes: F64, async_scheduling: bool = True) -> float:
        """A whole step, dense layers padded to the CUDA-graph size."""
        fits = graph_sizes[graph_sizes >= step.tokens]
        total = self.dense_ms(int(fits[0]) if len(fits) else step.tokens, decodes_only=not step.prefill_rows)
        if step.prefill_rows:
            total += self.prefill_attention_ms(step.prefill_rows, step.chunk_tokens, step.prefill_context)
        if step.decode_rows:
            slowed = self.mixed_decodes if step.prefill_rows else 1.0
            total += slowed * self.decode_attention_ms(step.decode_rows, step.decode_context)
            if step.prefill_rows and not async_scheduling:
                total += self.omitted.mixed_ms
        total += int(self.model_info["layers"]) * self.layer_gap_ms(len(fits) > 0, async_scheduling)
        return total + self.output_ms(step.prefill_rows + step.decode_rows)


@dataclass(frozen=True, slots=True)
class _Ops:
    """Positions in the package's list of operations."""

    dense: list[int]
    attention: list[int]
    logits: list[int]
    embedding_sum: list[int]
    """The all-reduce of a step's embeddings; none on one GPU, and none of some models."""


def _each(evaluate: Callable[[list[int]], list[Operation]]) -> list[Operation]:
    """Every operation, asked for one by one: the package adds up those of the same name."""
    found: list[Operation] = []
    while True:
        try:
            (operation,) = evaluate([len(found)])
        except ValueError as error:
            if "out of range" not in str(error):
                raise
            return found
        found.append(operation)


def _split(near: list[Operation], far: list[Operation]) -> _Ops:
    """Attention is what takes longer after more context, whatever the model's operations are called."""
    everything = range(len(near))
    attention = [i for i in everything if far[i][1] != near[i][1]]
    logits = [i for i in everything if "logits" in near[i][0]]
    embedding_sum = [i for i in everything if near[i][0].endswith("embedding_ar") and near[i][1] > 0]
    dense = [i for i in everything if i not in attention and i not in logits]
    return _Ops(dense, attention, logits, embedding_sum)


def _sum(operations: list[Operation]) -> float:
    return sum(ms for _, ms, _, _ in operations)


def _bears_on_plain_attention(record: logging.LogRecord) -> bool:
    """Not so the package's warnings of the tables of latent and sparse attention, which it loads for every model."""
    return not any(f"fallback rows for {kind}_" in record.getMessage() for kind in ("mla", "dsa"))


def _package() -> tuple[ModuleType, ModuleType, ModuleType, ModuleType]:
    try:
        from aiconfigurator_core.sdk import engine, errors, perf_database, utils
    except ImportError as error:
        raise InputError(
            f"kernel tables need an optional package ({error}); install it with: pip install 'slotune[silicon]'"
        ) from error
    return engine, perf_database, utils, errors


def _check_model(model: str, model_info: dict[str, Any], layout: Layout) -> None:
    """Raises InputError for what vLLM refuses and the package does not: heads that cannot be cut so (QKVParallelLinear,
    vllm/model_executor/layers/linear.py), stages without a layer; and for a number of KV heads that is left to be
    guessed, without which the package leaves out keys and values."""
    raw = model_info.get("raw_config", {})
    text = text_part(raw)
    kinds = {"rope_scaling": dict, "rope_parameters": dict, "sparse_attention_config": dict, "sliding_window": int}
    for name, kind in kinds.items():
        if not isinstance(text.get(name), kind | None):
            raise InputError(f"--model {model}: config.json: {name} is {text[name]!r}")
    sparse = text.get("sparse_attention_config") or {}
    if not isinstance(layers_with := sparse.get("sparse_attention_freq"), list | None):
        told = f"sparse_attention_freq is {layers_with!r}, and vLLM reads a list, a number for each layer"
        raise InputError(f"--model {model}: config.json: {told}")
    layers, kv_heads = int(model_info["layers"]), int(model_info.get("n_kv") or 0)
    if layers < 1 or layout.pp > layers:
        raise InputError(f"--model {model} --pp {layout.pp}: it has {layers} layers, and each stage needs one")
    if not (kv_heads or raw.get("kv_lora_rank") or raw.get("block_configs")):
        raise InputError(
            f"--model {model}: config.json has no num_key_value_heads; add it (as many as num_attention_heads where "
            "no heads share keys and values)"
        )
    if kv_heads and kv_heads % layout.tp and layout.tp % kv_heads:
        raise InputError(f"--model {model} --tp {layout.tp}: its {kv_heads} KV heads cannot be cut so")


def _no_configuration(model: str, error: Exception) -> InputError:
    """For a model that is neither in the package nor a folder, and was not to be had from the hub."""
    from aiconfigurator_core.sdk.common import DefaultHFModels

    near = get_close_matches(model, sorted(DefaultHFModels), n=2)
    known = f", or {' or '.join(near)}, which it knows" if near else ""
    return InputError(
        f"--model {model}: the package does not know it, and its config.json could not be downloaded "
        f"({one_line(error)}); give a folder with its config.json{known}"
    )


def _table_version(database: ModuleType, system: str) -> str:
    slots = database.get_version_slots(system, "vllm") if system in _systems(database) else None
    if not slots or not slots.get("current"):
        raise InputError(f"--system {system}: no vLLM kernel tables; there are {', '.join(_systems(database))}")
    return str(slots["current"])


def _systems(database: ModuleType) -> list[str]:
    """Those with tables for vLLM and a CUDA compute capability, which tells the kernels that vLLM would take."""
    found = [name for name, backends in database.get_supported_databases().items() if backends.get("vllm")]
    return sorted(name for name in found if "sm_version" in database.load_system_spec(name)["gpu"])
