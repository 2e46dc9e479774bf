"""What is searched: the scheduler's knobs, the values each may take on this hardware, and what vLLM is known to refuse.

Every knob is a short list of round values (four an octave for token budgets, two for sequence counts), so a
recommendation reads like something a person would have chosen, and a configuration is a vector of list indices.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ConfigSpace import ConfigurationSpace, OrdinalHyperparameter
from ConfigSpace.forbidden import (
    ForbiddenAndConjunction,
    ForbiddenEqualsClause,
    ForbiddenGreaterThanEqualsRelation,
    ForbiddenInClause,
    ForbiddenLessThanRelation,
)

from ...arrays import F64, Mask
from ...profiler.kv_capacity import DEFAULT_MEMORY_SHARE
from ...simulator.engine_config import EngineConfig
from ...simulator.settings import Settings

CPU_BLOCK_SIZES = (32, 64, 128)  # multiples of 32 preferred, 128 by default: vllm/platforms/cpu.py
GPU_BLOCK_SIZES = (16, 32, 64)  # what FlashAttention and FlashInfer both take
MEMORY_SHARES = (0.80, 0.85, 0.88, 0.90, 0.92, 0.94, 0.95)  # above 0.95 little is left for what vLLM does not count
LARGEST_BUDGET, LARGEST_SEQS = 16384, 1024
"""vLLM's defaults on the largest GPUs (EngineArgs.get_batch_defaults, vllm/engine/arg_utils.py)."""
KV_SETTLED_BY = ("num_gpu_blocks_override", "kv_cache_memory_bytes")


@dataclass(frozen=True, slots=True)
class Knob:
    """One searched setting. A knob that the user fixed has that one value."""

    name: str
    values: tuple[Any, ...]
    default: Any


@dataclass(frozen=True, slots=True, eq=False)
class SearchSpace:
    """The knobs, in alphabetical order as ConfigSpace has them; a configuration is a float vector of value indices."""

    knobs: tuple[Knob, ...]
    fixed: Settings
    """What the user asked for with --engine: part of every configuration, and of the default."""
    configspace: ConfigurationSpace

    def settings(self, vector: F64) -> Settings:
        """The settings of a configuration: what is fixed, and of the knobs those that differ from the default."""
        chosen = {knob.name: knob.values[int(i)] for knob, i in zip(self.knobs, vector, strict=True)}
        return self.fixed | {k.name: chosen[k.name] for k in self.knobs if chosen[k.name] != k.default}

    def vector(self, settings: Mapping[str, Any]) -> F64:
        """Indices of the settings' values, the default's where none is named. Raises ValueError off the lists."""
        return np.array([knob.values.index(settings.get(knob.name, knob.default)) for knob in self.knobs], float)

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Whether `vector` knows these settings: the fixed ones, and values on the lists."""
        known = {knob.name: knob.values for knob in self.knobs}
        return all(name in self.fixed or value in known.get(name, ()) for name, value in settings.items())

    def changes(self, settings: Mapping[str, Any]) -> Settings:
        """Those settings that differ from the default."""
        return {name: value for name, value in settings.items() if self.fixed.get(name) != value}

    def knob(self, name: str) -> Knob:
        """The knob of that name, which there is."""
        return next(knob for knob in self.knobs if knob.name == name)

    def is_allowed(self, vector: F64) -> bool:
        """Whether one configuration violates no known constraint."""
        return bool(self.allowed(vector[None, :])[0])

    def allowed(self, vectors: F64) -> Mask:
        """Which rows of `vectors` (n, knobs) violate no known constraint."""
        columns = np.ascontiguousarray(vectors.T)
        refused = np.zeros(len(vectors), dtype=bool)
        for clause in self.configspace.forbidden_clauses:
            refused |= clause.is_forbidden_vector_array(columns)
        return ~refused

    def repaired(self, vectors: F64) -> F64:
        """The same configurations with max_num_seqs and the threshold brought within the token budget.

        So that a smaller budget is one step away, where otherwise two knobs would have to move together.
        """
        column = {knob.name: index for index, knob in enumerate(self.knobs)}
        values = {knob.name: np.array(knob.values) for knob in self.knobs}
        mended = vectors.copy()
        budget = values["max_num_batched_tokens"][vectors[:, column["max_num_batched_tokens"]].astype(int)]
        seqs = column["max_num_seqs"]
        most = np.searchsorted(values["max_num_seqs"], budget, side="right") - 1
        mended[:, seqs] = np.minimum(mended[:, seqs], np.maximum(most, 0))
        threshold = column["long_prefill_token_threshold"]
        too_large = values["long_prefill_token_threshold"][vectors[:, threshold].astype(int)] >= budget
        mended[too_large, threshold] = 0  # the first value, off unless the user fixed another
        return mended

    def codes(self, vectors: F64) -> npt.NDArray[np.int64]:
        """One number for each row of `vectors`, equal for equal configurations only."""
        places = np.concatenate([[1], np.cumprod(self.sizes()[:-1])])
        return np.asarray(vectors.astype(np.int64) @ places)

    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of values of each knob."""
        return np.array([len(knob.values) for knob in self.knobs])


def build_space(
    default: EngineConfig,
    fixed: Settings,
    *,
    made_with: Mapping[str, Any] | None = None,
    fixed_cache: bool = False,
    without_effect: Collection[str] = (),
    reach: tuple[float, float] = (0, 0),
) -> SearchSpace:
    """The space around the configuration that `fixed` resolves to on this hardware.

    `default` is that configuration, resolved; `made_with` are the settings that hold where nobody asks for others;
    `fixed_cache` says that the KV cache has a fixed size, as on a CPU, or one that is not known, so that the share of
    the memory does not matter. Knobs named in `without_effect` keep their default. `reach` is the most tokens and the
    most decodes of a step whose time is known.

    Ranges go from a 64th of vLLM's default for this hardware to twice it, or as far as step times are known and vLLM's
    largest defaults go, whichever is more: on small GPUs a default may be far too small.
    """
    held = {**(made_with or {}), **fixed}
    settled = {*fixed, *without_effect}
    knobs = tuple(sorted(_knobs(default, settled, held, fixed_cache, reach), key=lambda knob: knob.name))
    space = ConfigurationSpace()
    space.add([OrdinalHyperparameter(k.name, list(k.values), default_value=k.default) for k in knobs])
    _forbid(space, default.max_model_len)
    return SearchSpace(knobs, dict(fixed), space)


def _knobs(
    default: EngineConfig,
    settled: Collection[str],
    held: Mapping[str, Any],
    fixed_cache: bool,
    reach: tuple[float, float],
) -> list[Knob]:
    tokens, seqs = default.max_num_batched_tokens, default.max_num_seqs
    most_tokens = max(2 * tokens, int(min(reach[0], LARGEST_BUDGET)))
    most_seqs = max(2 * seqs, int(min(reach[1], LARGEST_SEQS)))
    budgets = round_values(tokens // 64, most_tokens, (4, 5, 6, 7))
    whole_prompts = default.max_model_len <= (tokens if "max_num_batched_tokens" in settled else budgets[-1])
    thresholds = [v for v in round_values(budgets[0], tokens, (4,)) if v < default.max_model_len]
    knobs = [
        _knob("max_num_batched_tokens", budgets + [default.max_model_len] * whole_prompts, tokens, settled),
        _knob("max_num_seqs", round_values(seqs // 64, most_seqs, (4, 6)), seqs, settled),
        _knob("long_prefill_token_threshold", [0, *thresholds], default.long_prefill_token_threshold, settled),
        _knob("enable_chunked_prefill", [True] + [False] * whole_prompts, default.enable_chunked_prefill, settled),
        _knob("enable_prefix_caching", [False, True], default.enable_prefix_caching, settled),
    ]
    if held.get("num_gpu_blocks_override") is None:  # so many blocks of another size would be another memory
        sizes = GPU_BLOCK_SIZES if default.block_size <= GPU_BLOCK_SIZES[-1] else CPU_BLOCK_SIZES
        knobs.append(_knob("block_size", sizes, default.block_size, settled))
    if not fixed_cache and not any(held.get(name) for name in KV_SETTLED_BY):
        share = held.get("gpu_memory_utilization", DEFAULT_MEMORY_SHARE)
        knobs.append(_knob("gpu_memory_utilization", MEMORY_SHARES, share, settled))
    return knobs


def _knob(name: str, values: Sequence[Any], default: Any, settled: Collection[str]) -> Knob:
    if name in settled:
        return Knob(name, (default,), default)
    return Knob(name, tuple(sorted({*values, default})), default)


def round_values(low: int, high: int, quarters: Sequence[int]) -> list[int]:
    """Whole numbers from low to high of the form q/4 * 2^k with q in `quarters`: 512, 640, 768, 896, 1024, ..."""
    exponents = range(max(high, 1).bit_length() + 1)
    values = {q * 2**k // 4 for k in exponents for q in quarters if q * 2**k % 4 == 0}
    return sorted(v for v in values if max(low, 1) <= v <= high)


def _forbid(space: ConfigurationSpace, max_model_len: int) -> None:
    """Declare what vLLM refuses (SchedulerConfig.verify_max_model_len), and thresholds that would change nothing, but
    for the default's own: what it is compared with must be allowed."""
    budget, seqs = space["max_num_batched_tokens"], space["max_num_seqs"]
    threshold, chunked = space["long_prefill_token_threshold"], space["enable_chunked_prefill"]
    space.add(ForbiddenLessThanRelation(budget, seqs))
    if len(threshold.sequence) > 1 and threshold.default_value < budget.default_value:
        space.add(ForbiddenGreaterThanEqualsRelation(threshold, budget))
    if False not in chunked.sequence:
        return
    whole = ForbiddenEqualsClause(chunked, False)
    idle = [v for v in threshold.sequence if v > 0 and (chunked.default_value or v != threshold.default_value)]
    for knob, values in ((budget, [v for v in budget.sequence if v < max_model_len]), (threshold, idle)):
        if values:
            space.add(ForbiddenAndConjunction(whole, ForbiddenInClause(knob, values)))
