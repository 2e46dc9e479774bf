"""Measured vLLM runs that people have published, with what their pages say of the settings: data of public_runs.py.

Figures are the sources' own. What a source does not say is vLLM's default for its version and GPU. Left out are runs
whose page contradicts itself or another (a "single H100" as slow as an A100), or does not tell the lengths.

G: vLLM 0.11, `vllm bench serve`. K: 0.19, means over three seeds. D: 0.10.1.1; one startup log is public, and what the
hit rates logged say was cached by the run before is taken as cached. C: 0.19, one seed for all runs, so later runs find
the prompts of earlier ones in the cache (C1 is the mean of the warm runs 2 and 3; C3 has the prompts of C2; Qwen2.5-7B
has the shape of Qwen2-7B). A: of April 2025, whose files hold lengths and loads; the prompts share a beginning.
"""

from dataclasses import dataclass, field
from typing import Any

GPUSTACK = "https://github.com/gpustack/gpustack/blob/main/docs/performance-lab/"
KVCACHED = "https://github.com/ovg-project/kvcached/blob/main/benchmarks/bench_layout/H100_results.md"
DENNISLEE = "https://github.com/dennislee22/vLLM-benchmarking"
CSSNOEASY = (
    "https://github.com/cssnoeasy/a100-vllm-benchmark-blog/blob/main/docs/reports/a100-tp1-vs-tp2-formal-baseline.md"
)
AUROTRIPATHY = "https://github.com/aurotripathy/vllm-bench"

STEADY, BURST = "not overloaded", "burst or overload"
PCIE = "PCIe card, SXM tables"
UNKNOWN_VERSION = "vLLM version unknown"
UNKNOWN_CARD = "A100 of unknown form, SXM tables"


def _qwen(architecture: str, hidden: int, inner: int, layers: int, heads: int, kv_heads: int, **more: Any) -> Any:
    """What the table package reads of a config.json on the Hugging Face hub."""
    return {
        "architectures": [architecture],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        **more,
    }


_QWEN2 = {"model_type": "qwen2", "vocab_size": 152064}
CONFIGS: dict[str, Any] = {
    "Qwen/Qwen2-7B": _qwen("Qwen2ForCausalLM", 3584, 18944, 28, 28, 4, max_position_embeddings=32768, **_QWEN2),
    "Qwen/Qwen2.5-32B": _qwen("Qwen2ForCausalLM", 5120, 27648, 64, 40, 8, max_position_embeddings=131072, **_QWEN2),
    "Qwen/Qwen3-14B": _qwen(
        "Qwen3ForCausalLM", 5120, 17408, 40, 40, 8, max_position_embeddings=40960, model_type="qwen3", vocab_size=151936
    ),
}
"""Of models that the package does not hold itself."""


@dataclass(frozen=True, slots=True)
class Served:
    """What one profile serves."""

    system: str
    model: str
    precision: str | None = None
    async_scheduling: bool = True
    """vLLM's default since 0.14."""


@dataclass(frozen=True, slots=True)
class Load:
    """What was sent. Lengths in tokens: one for all, or (least, most), or (mean, median, 99 %, least, most)."""

    requests: int
    prompt: int | tuple[int, ...]
    output: int | tuple[int, ...]
    rate: float | None = None
    """Requests/s, exponential gaps; None: all at once."""
    in_flight: int | None = None
    """At most so many at a time."""
    passes: int = 1
    """The same prompts so often, each time found in the cache."""
    counted_from: int = 0
    """The first of the passes that the figures are of."""
    cached: int = 0
    """So many of the prompts were sent before, by the run before this one."""
    shared: int = 0
    """Tokens that all prompts begin with."""

    def __str__(self) -> str:
        sent = f"{self.requests}" if self.passes == 1 else f"{self.passes} x {self.requests}"
        limit = f", {self.in_flight} in flight" if self.in_flight else ""
        rate = f" at {self.rate:g}/s" if self.rate and not self.in_flight else ""
        return f"{sent} of {_nominal(self.prompt)} + {_nominal(self.output)}{rate}{limit}"


def _nominal(length: int | tuple[int, ...]) -> str:
    return str(length) if isinstance(length, int) else "~" + str(length[0])


@dataclass(frozen=True, slots=True)
class Run:
    """A published run: settings, load, and the figures by name (milliseconds and requests/s)."""

    name: str
    source: str
    served: Served
    settings: dict[str, Any]
    load: Load
    kind: str
    measured: dict[str, float]
    """Means (ttft, tpot), or what the source gives in their place: ttft_p50, tpot_p99."""
    mark: str = ""
    """What is known to differ from what is simulated."""
    seeds: tuple[int, ...] = field(default=(0,))


_H100_QWEN_SMALL = Served("h100_sxm", "Qwen/Qwen3-0.6B")
_KVCACHED = {"gpu_memory_utilization": 0.5, "max_model_len": 2048}
_A100_14B = Served("a100_sxm", "Qwen/Qwen3-14B", async_scheduling=False)
_A100_32B = Served("a100_sxm", "Qwen/Qwen3-32B", async_scheduling=False)
_DEFAULT = {"gpu_memory_utilization": 0.9}
_SHORTER = _DEFAULT | {"max_model_len": 32768, "num_gpu_blocks_override": 2450}
"""The page tells no KV cache; 39,200 tokens are what another report tells of this model on an A100 of 80 GB
(a100-quantization-capacity.md beside CSSNOEASY)."""
_DENNIS_7B = Served("a100_sxm", "Qwen/Qwen2-7B", async_scheduling=False)
_DENNIS_32B = Served("a100_sxm", "Qwen/Qwen2.5-32B", async_scheduling=False)
_24_GIB = {"gpu_memory_utilization": 0.5, "max_model_len": 16384, "num_gpu_blocks_override": 29053}
"""The log's 464,848 tokens of KV cache (24.83 GiB)."""
_9_GIB = {"gpu_memory_utilization": 0.9, "max_model_len": 16384, "num_gpu_blocks_override": 2483}
"""The page's 9.70 GiB of KV cache, at 262,144 bytes a token."""
_CSS_7B = Served("a100_sxm", "Qwen/Qwen2-7B")
_CSS = {"gpu_memory_utilization": 0.75, "max_model_len": 4096}
_L40S = Served("l40s", "meta-llama/Meta-Llama-3.1-8B", "fp8", async_scheduling=False)
_AURO = {"gpu_memory_utilization": 0.9, "max_model_len": 8192}


def _figures(ttft: float, tpot: float, rps: float | None = None, **more: float) -> dict[str, float]:
    return {"ttft": ttft, "tpot": tpot, **({} if rps is None else {"rps": rps}), **more}


def _dennis(name: str, served: Served, settings: dict[str, Any], load: Load, kind: str, *figures: float) -> Run:
    return Run(name, DENNISLEE, served, settings, load, kind, _figures(*figures), UNKNOWN_CARD)


def _auro(name: str, prompt: tuple[int, int], output: int, in_flight: int, *figures: float) -> Run:
    load = Load(100, prompt, output, rate=16.0, in_flight=in_flight, shared=200)
    return Run(name, AUROTRIPATHY, _L40S, _AURO, load, STEADY, _figures(*figures), UNKNOWN_VERSION)


def _gpustack(name: str, page: str, served: Served, settings: dict[str, Any], load: Load, *figures: float) -> Run:
    return Run(name, GPUSTACK + page, served, settings, load, BURST, _figures(*figures))


RUNS = (
    Run(
        "G1",
        GPUSTACK + "qwen3-8b/h100-latency.md",
        Served("h100_sxm", "Qwen/Qwen3-8B", async_scheduling=False),
        _DEFAULT,
        Load(100, (242, 110, 1000, 12, 1040), (221, 150, 800, 4, 1500), in_flight=4),
        STEADY,
        _figures(64.0, 7.38, 2.25),
        "ShareGPT: mean lengths known",
        (0, 1, 2),
    ),
    _gpustack("G7", "qwen3-14b/a100.md", _A100_14B, _DEFAULT, Load(500, 4009, 200), 197625.03, 254.61, 1.228),
    _gpustack("G8", "qwen3-14b/a100.md", _A100_14B, _DEFAULT, Load(500, 2009, 100), 86908.30, 301.73, 2.846),
    _gpustack("G13", "qwen3-32b/a100.md", _A100_32B, _SHORTER, Load(500, 2009, 100), 208397.03, 143.23, 1.203),
    _gpustack("G14", "qwen3-32b/a100.md", _A100_32B, _SHORTER, Load(500, 4009, 200), 566579.70, 96.19, 0.438),
    Run("K1", KVCACHED, _H100_QWEN_SMALL, _KVCACHED, Load(500, 512, 128), BURST, _figures(2905, 5.45, 94.91)),
    Run(
        "K2",
        KVCACHED,
        _H100_QWEN_SMALL,
        _KVCACHED,
        Load(500, 512, 128, rate=16.0),
        STEADY,
        _figures(38.9, 2.39, 15.87),
        seeds=(0, 1, 2),
    ),
    _dennis("D1", _DENNIS_7B, _24_GIB, Load(1, 1024, 1024, cached=1), STEADY, 36.23, 11.75),
    _dennis("D2", _DENNIS_7B, _24_GIB, Load(10, 1024, 1024), STEADY, 488.52, 13.47, 0.70),
    _dennis("D3", _DENNIS_7B, _24_GIB, Load(50, 1020, 1022), BURST, 2580.51, 18.47, 2.30),
    _dennis("D4", _DENNIS_7B, _24_GIB, Load(75, 1021, 1023, cached=10), BURST, 2598.85, 22.21, 2.92),
    _dennis("D5", _DENNIS_7B, _24_GIB, Load(100, 1021, 1016), BURST, 3983.10, 25.26, 3.30),
    _dennis("D6", _DENNIS_7B, _24_GIB, Load(200, 1020, 1002, cached=100), BURST, 3158.70, 40.34, 4.43),
    _dennis("D7", _DENNIS_32B, _9_GIB, Load(10, 1024, 1024), STEADY, 2017.23, 51.64, 0.182),
    _dennis("D8", _DENNIS_32B, _9_GIB, Load(50, 1020, 1024, cached=10), BURST, 21486.84, 79.95, 0.312),
    Run(
        "C1",
        CSSNOEASY,
        _CSS_7B,
        _CSS,
        Load(100, 512, 256, in_flight=8, passes=3, counted_from=1),
        STEADY,
        {"ttft_p50": 72.3, "tpot_p99": 11.33, "rps": 2.63},
        PCIE,
    ),
    Run(
        "C2",
        CSSNOEASY,
        _CSS_7B,
        _CSS,
        Load(100, 2048, 128, in_flight=16, passes=3),
        STEADY,
        {"ttft_p50": 351.41, "tpot_p99": 16.80, "rps": 7.08},
        PCIE,
    ),
    Run(
        "C3",
        CSSNOEASY,
        _CSS_7B,
        _CSS,
        Load(100, 2048, 512, in_flight=32, passes=2, counted_from=1),
        STEADY,
        {"ttft_p50": 228.9, "tpot_p99": 14.75, "rps": 3.43},
        PCIE,
    ),
    _auro("A1", (915, 965), 170, 1, 67.9, 14.42, 0.40),
    _auro("A2", (915, 965), 170, 16, 113.7, 21.14, 3.94),
    _auro("A3", (915, 965), 170, 64, 200.3, 38.99, 6.83),
    _auro("A4", (445, 485), 256, 1, 42.9, 14.32, 0.27),
    _auro("A5", (445, 485), 256, 64, 81.5, 26.41, 6.53),
)
