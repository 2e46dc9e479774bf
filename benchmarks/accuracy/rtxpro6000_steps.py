"""Layer times of one GPU, put together to step records that slotune fits like any others.

    python benchmarks/accuracy/rtxpro6000_steps.py --data FOLDER --out steps.jsonl
    slotune profile fit steps.jsonl --engine max_num_seqs=128 --engine max_num_batched_tokens=2048 --out P

FOLDER is LLMServingSim's measurement (github.com/casys-kaist/LLMServingSim at 5daddb21, MIT) of Llama-3.1-8B on an RTX
PRO 6000: profile/tp1/{dense,per_sequence}.csv, {attention,skew_fit}.csv.gz. A step takes

    embedding + layers * (dense kernels + attention) + final norm + lm_head + sampler + gap

with the dense kernels at the padded number of tokens and attention interpolated in four dimensions. The tables are of
the whole model: gate_up_proj reads 235 MB in 159 us (1.47 TB/s of the card's 1.6), which half of it could not; the
halved shapes in meta.yaml are those of its last run, for two GPUs.
"""

import argparse
import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slotune.profiler.graph_sizes import captured_graph_sizes
from slotune.simulator.engine_config import EngineConfig
from slotune.simulator.steps import StepRecord, format_step

F64 = npt.NDArray[np.float64]
Row = tuple[int, int]
"""(tokens computed now, context computed before)."""

LAYERS = 32
"""Llama-3.1-8B's config.json, num_hidden_layers."""
PER_LAYER = {
    "layernorm": 2,  # before attention and before the MLP
    "qkv_proj": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
ONCE = ("embedding", "final_layernorm")
CHUNKS = np.array([0, *(2**i for i in range(4, 12))])
CONTEXTS = np.array([0, *(2**i for i in range(4, 15))])
DECODES = np.array([0, *(2**i for i in range(9))])
"""The doubling grid, which attention.csv holds whole but for the mixed steps of 256 decodes."""
KV_BLOCKS = 29_000
"""Not recorded; 96 GB * 0.9 less 16 GB of weights, in blocks of 16 tokens of 128 KiB. The run preempts nothing."""
ENGINE = EngineConfig(num_gpu_blocks=KV_BLOCKS, max_num_seqs=128, max_num_batched_tokens=2048)
"""The arguments in vllm/meta.json; async scheduling, chunked prefill and prefix caching by vLLM's default."""
GRAPH_SIZES = captured_graph_sizes(ENGINE, {})
SKEW_SHARE_BINS = (0.05, 0.15, 0.40, 0.70)
SKEW_SHARES = ("sr<=5%", "sr<=15%", "sr<=40%", "sr<=70%", "sr>70%")
SKEW_LONGEST_BINS = (1024, 4096, 16384)
SKEW_LONGEST = ("kvB<=1k", "kvB<=4k", "kvB<=16k", "kvB>16k")


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Measured kernel times, seconds."""

    dense: dict[str, tuple[F64, F64]]
    """By layer: tokens (or sequences, for lm_head and sampler) and the time of each."""
    attention_s: F64
    """(CHUNKS, CONTEXTS, DECODES, CONTEXTS): one prefill chunk with its context beside decodes of equal contexts."""
    skew: dict[tuple[int, str, str, str], float]
    """By prefill chunk, decodes, share and longest context: how far from all-mean towards all-longest decodes lie."""

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

    def attention_of(self, rows: Sequence[Row]) -> float:
        """Attention of one layer: the costliest prefill beside the decodes, further ones as if alone.

        Decodes beside any prefill cost up to twice what they cost alone, and that once. What their unequal contexts
        add is a share of the way from all decodes at the mean to all at the longest.
        """
        decodes = [context for tokens, context in rows if tokens == 1 and context > 0]
        chunks = [row for row in rows if not (row[0] == 1 and row[1] > 0)]
        count, mean = len(decodes), float(np.mean(decodes)) if decodes else 0.0
        first, *more = sorted(chunks, key=lambda row: -row[0] * (row[1] + row[0] / 2)) or [(0, 0)]
        total = self.uniform_s(*first, count, mean)
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
        layer_s = sum(times * self.dense_s(name, padded) for name, times in PER_LAYER.items())
        head_s = self.dense_s("lm_head", len(rows)) + self.dense_s("sampler", len(rows))
        once_s = sum(self.dense_s(name, padded) for name in ONCE)
        return gap_s + LAYERS * (layer_s + self.attention_of(rows)) + once_s + head_s


def _bracket(grid: npt.NDArray[np.int64], value: float, work: Any = float) -> tuple[int, float]:
    """The grid point below, and the share of the way to the next one; beyond the last, extrapolated."""
    low = int(np.clip(np.searchsorted(grid, value, side="right") - 1, 0, len(grid) - 2))
    start, end = work(float(grid[low])), work(float(grid[low + 1]))
    return low, (work(float(value)) - start) / (end - start)


def read_layer_times(folder: Path) -> LayerTimes:
    tables = folder / "profile" / "tp1"
    points: dict[str, list[tuple[float, float]]] = {}
    for name, column in (("dense.csv", "tokens"), ("per_sequence.csv", "sequences")):
        with (tables / name).open() as lines:
            for row in csv.DictReader(lines):
                points.setdefault(row["layer"], []).append((float(row[column]), float(row["time_us"]) / 1e6))
    dense = {layer: (np.array(sorted(p))[:, 0], np.array(sorted(p))[:, 1]) for layer, p in points.items()}
    return LayerTimes(dense, _attention(tables / "attention.csv.gz"), _skew(tables / "skew_fit.csv.gz"))


def _attention(path: Path) -> F64:
    table = np.full((len(CHUNKS), len(CONTEXTS), len(DECODES), len(CONTEXTS)), np.nan)
    axes = (CHUNKS, CONTEXTS, DECODES, CONTEXTS)
    with gzip.open(path, "rt") as lines:
        for row in csv.DictReader(lines):
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
    with gzip.open(path, "rt") as lines:
        for row in csv.DictReader(lines):
            key = (int(row["pc"]), row["n_label"], row["skew_rate_label"], row["kv_big_label"])
            found.setdefault(key, []).append(float(row["alpha"]))
    return {key: float(np.mean(values)) for key, values in found.items()}


def compositions(count: int, rng: np.random.Generator) -> list[list[Row]]:
    """Steps as a server makes them: decodes alone, prefills alone and both, a third each, any that the engine allows.

    The traffic to be predicted does not enter: sizes are log-uniform over what was measured.
    """
    steps = []
    for kind in range(count):
        rows: list[Row] = []
        if kind % 3 != 1:
            rows += _decodes(rng)
        if kind % 3 != 0:
            rows += _prefills(rng, ENGINE.max_num_batched_tokens - len(rows))
        steps.append(rows)
    return steps


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> int:
    return round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))


def _decodes(rng: np.random.Generator) -> list[Row]:
    most = ENGINE.max_num_seqs
    count = int(rng.integers(1, most + 1)) if rng.random() < 0.6 else _log_uniform(rng, 1, most)
    typical, spread = _log_uniform(rng, 64, 8192), rng.uniform(0.0, 1.0)
    contexts = np.clip(rng.lognormal(np.log(typical), spread, count), 16, CONTEXTS[-1])
    fitting = np.cumsum(contexts) <= KV_BLOCKS * ENGINE.block_size
    return [(1, int(context)) for context in contexts[fitting]]


def _prefills(rng: np.random.Generator, budget: int) -> list[Row]:
    """New prompts, of which the first may continue one that an earlier step began."""
    left = budget if rng.random() < 0.4 else _log_uniform(rng, 16, budget)
    rows: list[Row] = []
    while left > 1 and len(rows) < 8:
        tokens = min(left, _log_uniform(rng, 16, 4096))
        begun = rng.random() < (0.4 if not rows else 0.1)
        rows.append((max(tokens, 2), _log_uniform(rng, 16, 8192) if begun else 0))
        left -= tokens
    return rows


def step_records(times: LayerTimes, count: int, seed: int, gap_s: float) -> list[StepRecord]:
    """`count` steps, each on its own: no two share a request, so that idle time lies between them."""
    records, clock_s = [], 0.0
    for number, rows in enumerate(compositions(count, np.random.default_rng(seed))):
        end_s = clock_s + times.step_s(rows, GRAPH_SIZES, gap_s)
        named = tuple((f"{number}-{i}", tokens, context) for i, (tokens, context) in enumerate(rows))
        records.append(StepRecord(number, clock_s, end_s, named))
        clock_s = end_s
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--gap-ms", type=float, default=0.0, help="time between the kernels of two steps")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    records = step_records(read_layer_times(asked.data), asked.count, asked.seed, asked.gap_ms / 1e3)
    asked.out.write_text("".join(format_step(record, False) + "\n" for record in records))


if __name__ == "__main__":
    main()
