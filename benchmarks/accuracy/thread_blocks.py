"""What unequal contexts add to the attention of decodes: FlashAttention-2's thread blocks on the SMs of one GPU.

A batch of few decodes is split so that all SMs (streaming multiprocessors) have as much to read; unequal contexts add
next to nothing then. A larger one is not split: a block reads one sequence's keys and values of one head, blocks begin
in the order of the batch, head by head, as SMs get free, and the step waits for those that end late. Source:
csrc/flash_attn/flash_api.cpp, num_splits_heuristic, which is told twice the SMs, and the grid of
run_flash_splitkv_fwd in src/flash_fwd_launch_template.h (github.com/Dao-AILab/flash-attention).

One number is fitted, on batches of two lengths that LLMServingSim measured beside equal ones (skew.csv): by how much a
block reads faster than at an equal share of the memory's bandwidth, when others have ended.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

SMS = {"NVIDIA RTX PRO 6000 Blackwell Server Edition": 188, "NVIDIA GeForce RTX 4090": 128}
"""Of GPUs on which vLLM takes FlashAttention-2."""
SPLIT_BELOW = 0.8
"""Of twice the SMs."""
MOST_REACH = 8.0


@dataclass(frozen=True, slots=True)
class ThreadBlocks:
    """Of the decodes of one layer on one GPU."""

    kv_heads: int
    sms: int
    reach: float
    """The most that one block reads, in equal shares of the memory's bandwidth."""
    error: float = 0.0
    """Mean of the absolute errors, as shares, on the batches that the reach was fitted on."""

    def are_split(self, batch: int) -> bool:
        """Whether the contexts of so many sequences are."""
        return batch * self.kv_heads < SPLIT_BELOW * 2 * self.sms

    def over_equal(self, contexts: Sequence[int], batch: int) -> float:
        """How many times as long as decodes that all have the mean context; `batch` is padded to its CUDA graph."""
        if self.are_split(batch):
            return 1.0
        equal = [float(np.mean(contexts))] * len(contexts)
        return self._makespan(contexts) / self._makespan(equal)

    def _makespan(self, contexts: Sequence[float]) -> float:
        """Until all is read; 1 is the time for one token at an equal share."""
        running: list[float] = []
        each = took = 0.0  # what a block that began at first would have read
        for tokens in [*contexts] * self.kv_heads:
            if len(running) < self.sms:
                heapq.heappush(running, tokens)
                continue
            ends = running[0]
            took, each = took + ends - each, ends
            heapq.heapreplace(running, each + tokens)
        for left, ends in zip(range(len(running), 0, -1), sorted(running), strict=True):
            took, each = took + (ends - each) / min(self.reach, self.sms / left), ends
        return took


def fit_blocks(rows: Iterable[Mapping[str, str]], kv_heads: int, sms: int) -> ThreadBlocks:
    """By the rows of skew.csv that are decodes alone and not split."""
    unsplit = ThreadBlocks(kv_heads, sms, 1.0).are_split
    pure = [row for row in rows if row["regime"] == "pure" and not unsplit(int(row["n"]))]
    measured = np.array([float(row["t_skew_us"]) / float(row["t_mean_us"]) for row in pure])

    def off(reach: float) -> float:
        blocks = ThreadBlocks(kv_heads, sms, reach)
        told = [blocks.over_equal(_contexts(row), int(row["n"])) for row in pure]
        return float(np.mean(np.abs(told / measured - 1)))

    best = minimize_scalar(off, bounds=(1.0, MOST_REACH), method="bounded")
    return ThreadBlocks(kv_heads, sms, float(best.x), float(best.fun))


def _contexts(row: Mapping[str, str]) -> list[int]:
    """Long ones come first (profiler/core/skew.py there)."""
    long, batch = int(row["nb"]), int(row["n"])
    return [int(row["kv_big"])] * long + [int(row["kvs"])] * (batch - long)
