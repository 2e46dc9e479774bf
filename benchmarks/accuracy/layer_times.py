"""Layer times of one GPU, measured kernel by kernel, and what a step of a whole model takes by them.

LLMServingSim's tables (github.com/casys-kaist/LLMServingSim at 5daddb21, MIT): FOLDER/profile/meta.yaml, and for each
number of GPUs profile/tpN/{dense,per_sequence}.csv, attention.csv.gz and, where they were measured, skew.csv.gz and
skew_fit.csv.gz; without .gz they are read too. A step takes

    embedding + layers * (dense kernels + attention) + final norm + lm_head + sampler + all-reduces + gap

with the dense kernels at the padded number of tokens and attention interpolated in four dimensions. The tables are of
the whole model: in those of Llama-3.1-8B on an RTX PRO 6000 gate_up_proj reads 235 MB in 159 us (1.47 TB/s of the
card's 1.6), which half of it could not; the halved shapes in meta.yaml are those of its last run, for two GPUs.
"""

import csv
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from tables import require
from thread_blocks import SMS, ThreadBlocks, fit_blocks

from slotune.arrays import F64

Row = tuple[int, int]
"""(tokens computed now, context computed before)."""

PER_LAYER = {
    "layernorm": 2,  # before attention and before the MLP
    "qkv_proj": 1,
    "qk_norm": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
"""How often a layer runs each kernel, where the model has it (profiler/models/{llama,qwen3}.yaml there)."""
OPTIONAL = {"qk_norm"}
ONCE = ("embedding", "final_layernorm")
PER_SEQUENCE = ("lm_head", "sampler")
CHUNKS = np.array([0, *(2**i for i in range(4, 12))])
CONTEXTS = np.array([0, *(2**i for i in range(4, 15))])
DECODES = np.array([0, *(2**i for i in range(9))])
"""The doubling grid, which attention.csv holds whole but for the mixed steps of 256 decodes."""
SKEW_SHARE_BINS = (0.05, 0.15, 0.40, 0.70)
SKEW_SHARES = ("sr<=5%", "sr<=15%", "sr<=40%", "sr<=70%", "sr>70%")
SKEW_LONGEST_BINS = (1024, 4096, 16384)
SKEW_LONGEST = ("kvB<=1k", "kvB<=4k", "kvB<=16k", "kvB>16k")


@dataclass(frozen=True, slots=True)
class Shape:
    """What the tables do not tell of a dense model; from its config.json and the size of its weights in 16 bits."""

    layers: int
    hidden_size: int
    weights_gb: float
    kv_bytes: int
    """Of a token's keys and values in all layers."""
    kv_heads: int = 8


SHAPES = {
    "Llama-3.1-8B": Shape(32, 4096, 16.06, 131_072),
    "Llama-3.1-70B": Shape(80, 8192, 141.1, 327_680),
    "Qwen3-8B": Shape(36, 4096, 16.38, 147_456),
    "Qwen3-14B": Shape(40, 5120, 29.54, 163_840),
    "Qwen3-32B": Shape(64, 5120, 65.52, 262_144),
}
ONE_SHOT_BYTES = 8 << 20
"""Below this vLLM's own all-reduce has each of two GPUs read all of the other's numbers at once, with NVLink or without
(vllm/distributed/device_communicators/custom_all_reduce.py, should_custom_ar; csrc/custom_all_reduce.cuh, one stage for
two)."""


@dataclass(frozen=True, slots=True)
class Link:
    """What joins GPUs, as LLMServingSim's config.json describes it."""

    bytes_per_s: float
    latency_s: float

    def all_reduce_s(self, size: float, gpus: int) -> float:
        """Between two GPUs one turn, where it is small; else a ring's 2 (n - 1) turns, in each of which every GPU sends
        an n-th part to the next."""
        if gpus == 2 and size < ONE_SHOT_BYTES:
            return self.latency_s + size / self.bytes_per_s
        return 2 * (gpus - 1) * (self.latency_s + size / gpus / self.bytes_per_s)


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Measured kernel times, seconds."""

    shape: Shape
    gpus: int
    link: Link | None
    """None for one GPU."""
    dense: dict[str, tuple[F64, F64]]
    """By layer: tokens (or sequences, for lm_head and sampler) and the time of each."""
    attention_s: F64
    """(CHUNKS, CONTEXTS, DECODES, CONTEXTS): one prefill chunk with its context beside decodes of equal contexts."""
    skew: dict[tuple[int, str, str, str], float]
    """By prefill chunk, decodes, share and longest context: how far from all-mean towards all-longest decodes lie."""
    blocks: ThreadBlocks | None
    """What unequal contexts add to decodes alone, in place of `skew`; None for a GPU whose SMs are not known."""

    @property
    def kernels(self) -> int:
        """Kernels of a step: those of the tables, and for each layer attention and its write to the KV cache."""
        return self.shape.layers * (sum(self._per_layer.values()) + 2)

    @property
    def _per_layer(self) -> dict[str, int]:
        return {name: times for name, times in PER_LAYER.items() if name in self.dense}

    def dense_s(self, layer: str, tokens: float) -> float:
        return float(np.interp(tokens, *self.dense[layer]))

    def uniform_s(self, chunk: int, chunk_context: int, decodes: int, context: float) -> float:
        """Attention of one layer, decodes all of one context; linear between measured points, the chunk by its work."""
        context = max(context, CONTEXTS[1]) if decodes else 0.0
        axes = (
            _bracket(CHUNKS, chunk, lambda n: n * (chunk_context + (n + 1) / 2)),
            _bracket(CONTEXTS, chunk_context),
            _bracket(DECODES, decodes),
            _bracket(CONTEXTS, context),
        )
        low = tuple(axis[0] for axis in axes)
        total = 0.0
        for corner in range(16):
            bits = [corner >> i & 1 for i in range(4)]
            weight = float(np.prod([axis[1] if bit else 1 - axis[1] for axis, bit in zip(axes, bits, strict=True)]))
            if weight:
                total += weight * self.attention_s[tuple(i + bit for i, bit in zip(low, bits, strict=True))]
        return float(total)

    def attention_of(self, rows: Sequence[Row], batch: int) -> float:
        """Attention of one layer: the costliest prefill beside the decodes, further ones as if alone.

        Decodes beside any prefill cost up to twice what they cost alone, and that once. What their unequal contexts
        add then is a share of the way from all decodes at the mean to all at the longest. `batch` is how many decodes a
        step of decodes alone is padded to.
        """
        decodes = [context for tokens, context in rows if tokens == 1 and context > 0]
        chunks = [row for row in rows if not (row[0] == 1 and row[1] > 0)]
        count, mean = len(decodes), float(np.mean(decodes)) if decodes else 0.0
        first, *more = sorted(chunks, key=lambda row: -row[0] * (row[1] + row[0] / 2)) or [(0, 0)]
        total = self.uniform_s(*first, count, mean)
        if self.blocks is not None and not chunks:
            return total * self.blocks.over_equal(decodes, batch)
        if count > 1:
            share = self.skew_of(decodes, sum(tokens for tokens, _ in chunks))
            total += share * (self.uniform_s(*first, count, max(decodes)) - total)
        return total + sum(self.uniform_s(*chunk, 0, 0.0) for chunk in more)

    def skew_of(self, decodes: Sequence[int], chunk: int) -> float:
        """The skew table's cell: LLMServingSim's profiler/core/fit_alpha.py has its axes; 0 where nothing was found."""
        least, mean, most = min(decodes), float(np.mean(decodes)), max(decodes)
        if most == least:
            return 0.0
        share = SKEW_SHARES[int(np.searchsorted(SKEW_SHARE_BINS, (mean - least) / (most - least)))]
        longest = SKEW_LONGEST[int(np.searchsorted(SKEW_LONGEST_BINS, most))]
        cell = f"n<={DECODES[np.searchsorted(DECODES, len(decodes))]}"
        nearest = int(CHUNKS[np.abs(CHUNKS - chunk).argmin()])
        return self.skew.get((nearest, cell, share, longest), 0.0)

    def step_s(self, rows: Sequence[Row], graph_sizes: F64, gap_s: float) -> float:
        """One step of the whole model; every row has one sequence's logits computed."""
        tokens = sum(row[0] for row in rows)
        above = graph_sizes[graph_sizes >= tokens]
        padded = float(above[0]) if len(above) else tokens
        layer_s = sum(times * self.dense_s(name, padded) for name, times in self._per_layer.items())
        head_s = sum(self.dense_s(name, len(rows)) for name in PER_SEQUENCE)
        once_s = sum(self.dense_s(name, padded) for name in ONCE)
        model_s = self.shape.layers * (layer_s + self.attention_of(rows, round(padded))) + once_s + head_s
        return gap_s + model_s + self._all_reduces_s(padded)

    def _all_reduces_s(self, tokens: float) -> float:
        """Behind attention and MLP of every layer, and behind the embedding; of activations in 16 bits."""
        if self.link is None:
            return 0.0
        size = 2 * tokens * self.shape.hidden_size
        return (2 * self.shape.layers + 1) * self.link.all_reduce_s(size, self.gpus)


def _bracket(grid: npt.NDArray[np.int64], value: float, work: Any = float) -> tuple[int, float]:
    """The grid point below, and the share of the way to the next one; beyond the last, extrapolated."""
    low = int(np.clip(np.searchsorted(grid, value, side="right") - 1, 0, len(grid) - 2))
    start, end = work(float(grid[low])), work(float(grid[low + 1]))
    return low, (work(float(value)) - start) / (end - start)


def read_layer_times(folder: Path, gpus: int = 1, link: Link | None = None) -> LayerTimes:
    """The tables in `folder` for so many GPUs, which `link` joins."""
    meta = yaml.safe_load(require(folder / "profile" / "meta.yaml").read_text())
    tables = require(folder / "profile" / f"tp{gpus}")
    if gpus > 1 and link is None:
        raise SystemExit(f"{folder / 'config.json'}: {gpus} GPUs need link_bw and link_latency")
    skew, shape = list(tables.glob("skew_fit.csv*")), shape_of(meta["model"])
    return LayerTimes(
        shape=shape,
        gpus=gpus,
        link=link if gpus > 1 else None,
        dense=_dense(tables),
        attention_s=_attention(_table(tables, "attention.csv")),
        skew=_skew(skew[0]) if skew else {},
        blocks=_blocks(tables, shape.kv_heads // gpus, SMS.get(meta.get("gpu"))),
    )


def _blocks(tables: Path, kv_heads: int, sms: int | None) -> ThreadBlocks | None:
    unequal = list(tables.glob("skew.csv*"))
    return fit_blocks(_rows(unequal[0]), kv_heads, sms) if unequal and sms else None


def shape_of(model: str) -> Shape:
    name = Path(model).name
    if name not in SHAPES:
        raise SystemExit(f"{model}: not among the dense models that are known: {', '.join(SHAPES)}")
    return SHAPES[name]


def _table(tables: Path, name: str) -> Path:
    packed = tables / f"{name}.gz"
    return packed if packed.exists() else require(tables / name)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    opening = gzip.open if path.suffix == ".gz" else open
    with opening(path, "rt") as lines:
        yield from csv.DictReader(lines)


def _dense(tables: Path) -> dict[str, tuple[F64, F64]]:
    points: dict[str, list[tuple[float, float]]] = {}
    for name, column in (("dense.csv", "tokens"), ("per_sequence.csv", "sequences")):
        for row in _rows(_table(tables, name)):
            points.setdefault(row["layer"], []).append((float(row[column]), float(row["time_us"]) / 1e6))
    known = {*PER_LAYER, *ONCE, *PER_SEQUENCE}
    if points.keys() - known or known - points.keys() - OPTIONAL:
        odd = sorted((points.keys() - known) | (known - points.keys() - OPTIONAL))
        raise SystemExit(f"{tables}: not a dense model's kernels: {', '.join(odd)}")
    return {layer: (np.array(sorted(p))[:, 0], np.array(sorted(p))[:, 1]) for layer, p in points.items()}


def _attention(path: Path) -> F64:
    table = np.full((len(CHUNKS), len(CONTEXTS), len(DECODES), len(CONTEXTS)), np.nan)
    axes = (CHUNKS, CONTEXTS, DECODES, CONTEXTS)
    for row in _rows(path):
        point = [int(row[name]) for name in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")]
        if all(value in axis for value, axis in zip(point, axes, strict=True)):
            cell = tuple(int(np.searchsorted(axis, value)) for value, axis in zip(point, axes, strict=True))
            table[cell] = float(row["time_us"]) / 1e6
    table[0, 0, 0, 0] = 0.0
    table[0] = table[0, :1]  # no chunk: its context does not matter
    table[:, :, 0] = table[:, :, 0, :1]  # no decodes: nor does theirs
    table[:, :, :, 0] = np.where(np.isnan(table[:, :, :, 0]), table[:, :, :, 1], table[:, :, :, 0])
    more = table[0, 0, -1] - table[0, 0, -2]  # what the decodes from 128 to 256 add without a chunk
    table[:, :, -1] = np.where(np.isnan(table[:, :, -1]), table[:, :, -2] + more, table[:, :, -1])
    holes = int(np.isnan(table).sum())
    if holes:
        raise SystemExit(f"{path}: {holes} points of the doubling grid are missing")
    return table


def _skew(path: Path) -> dict[tuple[int, str, str, str], float]:
    """Means over the prefill's context, which says little."""
    found: dict[tuple[int, str, str, str], list[float]] = {}
    for row in _rows(path):
        key = (int(row["pc"]), row["n_label"], row["skew_rate_label"], row["kv_big_label"])
        found.setdefault(key, []).append(float(row["alpha"]))
    return {key: float(np.mean(values)) for key, values in found.items()}
