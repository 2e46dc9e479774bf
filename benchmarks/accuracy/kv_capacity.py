"""KV capacity of kernel-table profiles beside what starts of vLLM found, by their public logs.

    python benchmarks/accuracy/kv_capacity.py

Needs slotune[silicon]. "Predicted" is profiler/silicon/memory.py's estimate for vLLM 0.32, without CUDA graphs where
the start was of a version that did not subtract them (before 0.21). "With its sampler" also takes off what 0.32 does
not show any more: the dry run of the older samplers held several float32 copies of the logits of max_num_seqs sequences
(vllm/v1/sample/sampler.py), with 1024 seats more than the model's own needed. How many was taken from the marked
starts, as were the constants of profiler/silicon/memory.py: those rows test nothing. Not in the list is the start that
told the CUDA graphs (Llama-3.1-8B on an A100 under a nightly build): its log has no address that could be given. "The
package" is the estimate that comes with the tables.

Settings that a log does not tell are its version's defaults on that GPU. llm-d's tokens are its GiB over the bytes of a
token. The mixture is in no median: its version is taken from the date, and what its LMCache connector takes is unknown.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tables import row as line

from slotune.profiler.kv_capacity import GIB, KvCapacity
from slotune.profiler.silicon.layout import Layout
from slotune.profiler.silicon.memory import GRAPHS_GIB, estimated_kv
from slotune.profiler.silicon.tables import KernelTables

LLM_D = "https://github.com/llm-d/llm-d-benchmark/blob/4f4d449/config_explorer/empirical-vllm-memory-results.md"
QWEN2 = "https://github.com/dennislee22/vLLM-benchmarking/tree/main/log"
INFERNO = "https://github.com/llm-inferno/server-sim/blob/main/docs/example-runs/qwen2.5-14b-h100/README.md"
MIXTURE = "https://github.com/vllm-project/vllm/issues/21348"

COPIES = {"0.9": 9.7, "0.10.1": 2.9, "0.11": 9.7, "0.21": 0.0}
"""Of the logits, in float32, that the sampler's dry run held at once (2.9: with FlashInfer's sampler); 0 where it took
less than the model's."""
NO_GRAPHS = ("0.9", "0.10.1", "0.11")
"""Versions that did not subtract the CUDA graphs."""

QWEN2_SIZES = {"vocab_size": 152064, "max_position_embeddings": 32768, "tie_word_embeddings": False}
CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2-7B": {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
    },
    "Qwen/Qwen2.5-14B": {
        "hidden_size": 5120,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "intermediate_size": 13824,
    },
}
"""Sizes of models that the package has no configuration of, from their own config.json."""


@dataclass(frozen=True, slots=True)
class Start:
    """A start of vLLM, and the tokens that its KV cache held."""

    source: str
    version: str
    system: str
    model: str
    tp: int
    gpu_memory_utilization: float
    max_num_batched_tokens: int
    max_num_seqs: int
    tokens: int
    precision: str | None = None
    is_known: bool = False
    """Constants were taken from it."""

    @property
    def settings(self) -> dict[str, Any]:
        names = ("gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs")
        return {"block_size": 16, **{name: getattr(self, name) for name in names}}


LLAMA_8B, LLAMA_70B = "meta-llama/Meta-Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-70B"
STARTS = (
    Start(LLM_D, "0.11", "h100_sxm", LLAMA_8B, 1, 0.9, 8192, 1024, 420_905, is_known=True),
    Start(LLM_D, "0.11", "h100_sxm", "Qwen/Qwen3-0.6B", 1, 0.9, 8192, 1024, 603_399),
    Start(LLM_D, "0.11", "h100_sxm", "Qwen/Qwen3-32B", 1, 0.9, 8192, 1024, 18_227),
    Start(LLM_D, "0.11", "h100_sxm", "Qwen/Qwen3-32B", 2, 0.9, 8192, 1024, 282_542, is_known=True),
    Start(LLM_D, "0.11", "h100_sxm", LLAMA_70B, 2, 0.9, 8192, 1024, 209_715, "fp8"),
    Start(QWEN2, "0.10.1", "a100_sxm", "Qwen/Qwen2-7B", 1, 0.25, 2048, 256, 93_872, is_known=True),
    Start(QWEN2, "0.10.1", "a100_sxm", "Qwen/Qwen2-7B", 1, 0.5, 2048, 256, 464_848),
    Start(QWEN2, "0.10.1", "a100_sxm", "Qwen/Qwen2-7B", 2, 0.25, 2048, 256, 450_192),
    Start(QWEN2, "0.10.1", "a100_sxm", "Qwen/Qwen2-7B", 2, 0.5, 2048, 256, 1_192_160),
    Start(INFERNO, "0.21", "h100_sxm", "Qwen/Qwen2.5-14B", 1, 0.9, 8192, 256, 226_240),
    Start(MIXTURE, "0.9", "h100_sxm", "Qwen/Qwen3-235B-A22B-FP8", 4, 0.9, 8192, 1024, 178_880),
)


@dataclass(frozen=True, slots=True)
class Compared:
    """Tokens that were predicted for a start: its package's, slotune's, and slotune's with the version's sampler."""

    start: Start
    token_bytes: float
    predicted: tuple[float, float, float]

    def errors(self) -> list[tuple[float, float]]:
        """Of each: per cent of the tokens, and GiB a GPU."""
        off = [tokens - self.start.tokens for tokens in self.predicted]
        return [(100 * tokens / self.start.tokens, tokens * self.token_bytes / GIB) for tokens in off]


def compare(start: Start, folder: Path) -> Compared:
    model, layout = _model_path(start.model, folder), Layout(start.tp, precision=start.precision)
    tables = KernelTables(start.system, model, layout)
    graphs = 0.0 if start.version in NO_GRAPHS else GRAPHS_GIB
    capacity = estimated_kv(tables, graphs)
    assert capacity is not None
    token_bytes = capacity.block_bytes(start.settings) / 16
    left = capacity.cache_bytes(start.settings)
    sampled = left - sampler_excess_bytes(start, capacity, tables.model_info)
    own = own_estimate(start, model, tables)
    return Compared(start, token_bytes, (own, left / token_bytes, sampled / token_bytes))


def sampler_excess_bytes(start: Start, capacity: KvCapacity, model_info: Mapping[str, Any]) -> float:
    """By how much the sampler's dry run took more than the model's, which counts where it is the smaller."""
    hidden = 2 * start.max_num_batched_tokens * model_info["hidden_size"]
    peak = 4 * COPIES[start.version] * start.max_num_seqs * model_info["vocab"] + hidden
    return float(max(0.0, peak - capacity.bytes_per_batched_token * start.max_num_batched_tokens))


def own_estimate(start: Start, model: str, tables: KernelTables) -> float:
    """What the table package says."""
    from aiconfigurator_core.sdk.memory import estimate_kv_cache

    found = estimate_kv_cache(
        model,
        start.system,
        "vllm",
        backend_version=tables.version,
        max_num_tokens=start.max_num_batched_tokens,
        max_batch_size=start.max_num_seqs,
        memory_fraction_kind="of_total",
        memory_fraction_value=start.gpu_memory_utilization,
        **tables.arguments,
    )
    return float(found["total_kv_size_tokens"])


def _model_path(model: str, folder: Path) -> str:
    """The model's name, or a folder with its configuration where the package has none."""
    if model not in CONFIGS:
        return model
    path = folder / model
    path.mkdir(parents=True, exist_ok=True)
    kind = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "torch_dtype": "bfloat16"}
    (path / "config.json").write_text(json.dumps(kind | QWEN2_SIZES | CONFIGS[model]))
    return str(path)


HEADS = ("vLLM", "GPU", "model", "GPUs", "share", "tokens", "predicted", "off", "with its sampler", "the package")


def shown(compared: Compared) -> str:
    start, (own, ours, sampled) = compared.start, compared.errors()
    mark = " *" if start.is_known else ""
    cells = [f"{part:+.1f} %, {gib:+.2f} GiB" for part, gib in (ours, sampled, own)]
    facts = start.version, start.system, start.model.split("/")[-1] + mark, start.tp, start.gpu_memory_utilization
    return line(*facts, f"{start.tokens:,}", f"{round(compared.predicted[1]):,}", *cells)


def medians(name: str, part: list[Compared]) -> str:
    """Of the absolute errors."""
    own, ours, sampled = np.median(np.abs([compared.errors() for compared in part]), axis=0)
    cells = [f"{share:.1f} %, {gib:.2f} GiB" for share, gib in (ours, sampled, own)]
    return line(f"median, {name}", *[""] * 6, *cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [compare(start, Path(folder)) for start in STARTS]
    print("* constants were taken from it. Off: predicted / measured - 1, and GiB a GPU\n")
    print(f"{line(*HEADS)}\n{line(*['---'] * len(HEADS))}")
    print("\n".join(map(shown, found)))
    dense = [compared for compared in found if compared.start.source != MIXTURE]
    for name, is_known in (("constants taken from", True), ("the other dense ones", False)):
        print(medians(name, [compared for compared in dense if compared.start.is_known == is_known]))
    print("\n" + "\n".join(dict.fromkeys(start.source for start in STARTS)))


if __name__ == "__main__":
    main()
