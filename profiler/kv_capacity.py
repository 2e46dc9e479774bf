"""KV-cache blocks as a function of the settings: the engine's own memory formula, refined by real starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..arrays import F64
from ..errors import InputError

KV_DTYPE_BYTES = {"fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "bfloat16": 2.0, "float16": 2.0, "float32": 4.0}
"""Bytes an element of the KV cache takes, by `kv_cache_dtype` (vllm/config/cache.py); "auto" is the model's own."""

DEFAULT_MEMORY_SHARE = 0.92
"""vLLM's own gpu_memory_utilization (vllm/config/cache.py, CacheConfig)."""
GIB = float(1 << 30)


@dataclass(frozen=True, slots=True)
class KvObservation:
    """One start of the real engine: the settings that it ran with, every default filled in, and the blocks it made."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    settings: dict[str, Any]
    num_gpu_blocks: int


@dataclass(frozen=True, slots=True)
class KvCapacity:
    """num_gpu_blocks = floor(cache bytes / (block_size * kv_bytes_per_token)), where

        cache bytes = gpu_memory_utilization * total_bytes - fixed_bytes
                      - bytes_per_batched_token * max_num_batched_tokens - bytes_per_seq * max_num_seqs

    Fixed are the weights, the CUDA context and the captured graphs; the two others are the activations of the largest
    step and the logits and sampler state of the largest batch, which the engine measures in a dry run at start.
    Source: vllm/v1/worker/gpu_worker.py, determine_available_memory; vllm/v1/core/kv_cache_utils.py, get_num_blocks.

    Where `kv_cache_memory_bytes` is set (by the user, or here for a device that gets a fixed share, as
    VLLM_CPU_KVCACHE_SPACE gives on a CPU) it takes the place of the whole right side. All of one GPU: with tensor
    parallelism, weights and kv_bytes_per_token are those of one rank.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    kv_bytes_per_token: float
    """Of all layers: 2 * layers * KV heads * head size * bytes of the element, in the model's own dtype."""
    total_bytes: float | None = None
    fixed_bytes: float = 0.0
    bytes_per_batched_token: float = 0.0
    bytes_per_seq: float = 0.0
    kv_cache_memory_bytes: float | None = None
    element_bytes: float = 2.0
    """Bytes of one element of kv_bytes_per_token."""
    index_bytes_per_token: float = 0.0
    """Of kv_bytes_per_token, those of sparse attention's index keys, which have a format of their own, whatever
    kv_cache_dtype is."""
    error_bytes: float = 0.0
    """How far the reservations may be off where no start has told them."""
    observations: tuple[KvObservation, ...] = ()

    def __post_init__(self) -> None:
        for name in ("kv_bytes_per_token", "element_bytes"):
            if (size := getattr(self, name)) <= 0:
                raise InputError(f"KV capacity: {name}={size} must be above 0")
        if min(self.bytes_per_batched_token, self.bytes_per_seq) < 0:
            raise InputError("KV capacity: bytes_per_batched_token and bytes_per_seq must be 0 or more")
        if self.total_bytes is None and self.kv_cache_memory_bytes is None:
            raise InputError("KV capacity: needs total_bytes or kv_cache_memory_bytes")

    def cache_bytes(self, settings: Mapping[str, Any]) -> float:
        """Bytes left for the KV cache under resolved settings; negative where not even the weights fit."""
        if (fixed := self._given_bytes(settings)) is not None:
            return fixed
        assert self.total_bytes is not None
        return _utilization(settings) * self.total_bytes - self.reserved_bytes(settings)

    def _given_bytes(self, settings: Mapping[str, Any]) -> float | None:
        """`kv_cache_memory_bytes`, of the settings or else of the device; 0 is as good as none, as in vLLM
        (vllm/v1/worker/gpu_worker.py, determine_available_memory)."""
        given = settings.get("kv_cache_memory_bytes") or self.kv_cache_memory_bytes
        return float(given) if given else None

    def reserved_bytes(self, settings: Mapping[str, Any]) -> float:
        """What the engine keeps for everything but the KV cache."""
        variable = np.dot(_activation_terms(settings), (self.bytes_per_batched_token, self.bytes_per_seq))
        return self.fixed_bytes + float(variable)

    def block_bytes(self, settings: Mapping[str, Any]) -> float:
        """Bytes of one block of block_size tokens in all layers."""
        dtype = str(settings.get("kv_cache_dtype", "auto"))
        element_bytes = KV_DTYPE_BYTES.get(dtype, self.element_bytes)
        followed = (self.kv_bytes_per_token - self.index_bytes_per_token) * element_bytes / self.element_bytes
        return int(settings["block_size"]) * (followed + self.index_bytes_per_token)

    def num_gpu_blocks(self, settings: Mapping[str, Any]) -> int:
        """Blocks that the engine would make; 0 where it would find no memory for any."""
        return max(0, int(self.cache_bytes(settings) // self.block_bytes(settings)))

    def error_share(self, settings: Mapping[str, Any]) -> float:
        """`error_bytes` over the bytes left for the cache; 0 where none are, or the settings say how many."""
        blocks_given = settings.get("num_gpu_blocks_override") is not None
        if not self.error_bytes or blocks_given or self._given_bytes(settings) is not None:
            return 0.0
        left = self.cache_bytes(settings)
        return self.error_bytes / left if left > 0 else 0.0

    def checked_blocks(self, settings: Mapping[str, Any]) -> int:
        """num_gpu_blocks_override or else `num_gpu_blocks`; an InputError where vLLM would refuse to start.

        Source: vllm/v1/core/kv_cache_utils.py, get_kv_cache_configs: one sequence of max_model_len must fit, one block
        being the null block, and an override takes the place of the memory that was found.
        """
        override = settings.get("num_gpu_blocks_override")
        blocks = self.num_gpu_blocks(settings) if override is None else int(override)
        if blocks < 2:
            raise InputError(
                f"{self._named(settings)}: no memory is left for the KV cache; raise {self._set_by(settings)}"
            )
        max_model_len, capacity = settings.get("max_model_len"), (blocks - 1) * int(settings["block_size"])
        if max_model_len is not None and int(max_model_len) > capacity:
            raise InputError(
                f"max_model_len={max_model_len}: larger than the KV cache of {capacity} tokens "
                f"({self._named(settings)}); raise {self._set_by(settings)} or lower max_model_len"
            )
        return blocks

    def _set_by(self, settings: Mapping[str, Any]) -> str:
        """The setting that makes the cache larger."""
        if settings.get("num_gpu_blocks_override") is not None:
            return "num_gpu_blocks_override"
        return "gpu_memory_utilization" if self._given_bytes(settings) is None else "kv_cache_memory_bytes"

    def _named(self, settings: Mapping[str, Any]) -> str:
        """The settings that the size of the cache follows, with their values."""
        by = self._set_by(settings)
        if by != "gpu_memory_utilization":
            size = self._given_bytes(settings) if by == "kv_cache_memory_bytes" else settings[by]
            return f"{by}={size:.0f}"
        names = (by, "max_num_batched_tokens", "max_num_seqs")
        return ", ".join(f"{name}={settings[name]}" for name in names if settings.get(name) is not None)

    def observed(self, observations: Sequence[KvObservation]) -> "KvCapacity":
        """This formula, corrected so that it gives what real starts gave, and remembering them.

        The corrections of the three reservations are the smallest (in units of what each moves in these starts) that
        explain the observations by least squares: one start moves fixed_bytes, more tell the terms apart.
        """
        everything = (*self.observations, *observations)
        usable = [o for o in everything if self._given_bytes(o.settings) is None]
        if not usable:
            return replace(self, observations=everything)
        surplus = np.array([self._surplus_bytes(o) for o in usable])
        known = (self.bytes_per_batched_token, self.bytes_per_seq)
        fixed, per_token, per_seq = _corrections(
            surplus, np.array([_activation_terms(o.settings) for o in usable]), known
        )
        return replace(
            self,
            fixed_bytes=self.fixed_bytes + fixed,
            bytes_per_batched_token=self.bytes_per_batched_token + per_token,
            bytes_per_seq=self.bytes_per_seq + per_seq,
            error_bytes=0.0,
            observations=everything,
        )

    def _surplus_bytes(self, observation: KvObservation) -> float:
        """How much more the formula leaves for the cache than the engine took; the half block undoes the floor."""
        taken = (observation.num_gpu_blocks + 0.5) * self.block_bytes(observation.settings)
        return self.cache_bytes(observation.settings) - taken

    def errors(self) -> list[float]:
        """Relative error of the formula for each observed start."""
        return [self.num_gpu_blocks(o.settings) / o.num_gpu_blocks - 1 for o in self.observations]


def _utilization(settings: Mapping[str, Any]) -> float:
    return float(settings.get("gpu_memory_utilization", DEFAULT_MEMORY_SHARE))


def _activation_terms(settings: Mapping[str, Any]) -> tuple[float, float]:
    return float(settings["max_num_batched_tokens"]), float(settings["max_num_seqs"])


def _corrections(surplus: F64, terms: F64, known: tuple[float, float]) -> tuple[float, float, float]:
    """Least-squares corrections of (fixed, per token, per sequence); a term that the starts did not vary stays.

    No term falls below 0: one that would is held there, and the others explain what is left.
    """
    least, slopes, free = -np.array(known), np.zeros(2), [0, 1]
    while free:
        rest = surplus - terms @ slopes
        centred = terms[:, free] - terms[:, free].mean(axis=0)
        found, *_ = np.linalg.lstsq(centred, rest - rest.mean(), rcond=1e-9)
        below = [i for i, slope in zip(free, found, strict=True) if slope < least[i]]
        if not below:
            slopes[free] = found
            break
        slopes[below], free = least[below], [i for i in free if i not in below]
    return float((surplus - terms @ slopes).mean()), float(slopes[0]), float(slopes[1])
