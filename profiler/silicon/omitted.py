"""What kernel tables leave out of a step, and what was put in its place; each number names its source."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...simulator.timing import Overhead
from ..model_folder import text_part

SAMPLER_BYTES_PER_LOGIT = 30.0
"""Memory traffic of vllm/v1/sample/sampler.py for random sampling: bf16 read and float32 written (6), scaled by
temperature (8), softmax (8), noise and argmax (8)."""
OVERHEAD = Overhead(before_s=0.005, before_token_s=2e-6, after_s=0.001)
"""Assumed: HTTP, tokeniser at 500,000 tokens/s, two process hops. Measured elsewhere: 3 ms on an idle CPU server with
the client beside it; about 20 ms in inference-perf's run on an H100 (benchmarks/accuracy/kubecon.py)."""


MIXED_DECODES = 1.58
"""How many times longer the attention of decodes takes in a step that has a prefill too, where one kernel serves all
rows (vllm/v1/attention/backends/flash_attn.py): the median of measured layer times of an RTX PRO 6000 under vLLM 0.19
(benchmarks/accuracy/mixed_attention.py), from 1.3 to 2.9. The tables know each kind of row by itself only."""
UNPACKED_DECODES = (80, 90)
"""GPUs from the first to below the second of these compute capabilities (A100, L40S) run FlashAttention 2, which packs
the query heads of a KV head into one tile only if every row of the step has one query: seqlenq_ngroups_swapped in
csrc/flash_attn/flash_api.cpp requires max_seqlen_q == 1, and only then does it split a long context too. Beside a
prefill a decode's keys and values are read once for each query head, so its attention is taken as so many times longer
as a KV head has query heads. Where no heads share one, nothing was packed, and it takes what it does alone. It is an
upper limit, since reads may hit the L2 cache: the RTX PRO 6000 of MIXED_DECODES has the same kernel
(get_flash_attn_version in vllm/v1/attention/backends/fa_utils.py), four query heads a KV head and 128 MB of L2, and
takes 1.2 to 3.1 times as long, most with many long decodes. The rule was looked for because published A100 runs were
slower than predicted (benchmarks/accuracy/public_runs.py); its value is not fitted to them."""
UNSPLIT_SMS = {80: 108, 89: 142, 120: 188}
"""Multiprocessors of the GPUs in the tables, by compute capability, whose FlashAttention 2 lets one of them read all of
a context for UNSPLIT_QUERIES queries of a prompt: a short chunk after a long context takes as long as the first such
tile does, where the package takes a share of a whole prompt's time, down to a ninth of what an RTX PRO 6000 takes
(benchmarks/accuracy/chunks_after_context.py)."""
UNSPLIT_QUERIES = 64
"""kBlockM of run_mha_fwd_splitkv_dispatch, csrc/flash_attn/src/flash_fwd_launch_template.h, which paged caches take."""
HOPPER = (90, 100)
"""GPUs from the first to below the second of these compute capabilities (H100, H200) run FlashAttention 3, which packs
the query heads of a KV head into one tile in every step of rows of several lengths (should_pack_gqa in its
hopper/heuristics.h), whatever the number format of the cache."""
HOPPER_MIXED_DECODES = 1.12
"""MIXED_DECODES there, by step times of an H100 with one new prompt of five tokens beside up to 399 decodes
(benchmarks/accuracy/mixed_steps.py): 1.14 for Llama-3.1-8B, below 1 for Qwen-2.5-7B, whose attention is short."""
SPLIT_ATTENTION = (100, 110)
"""GPUs from the first to below the second of these compute capabilities (times ten) have a kernel for each kind of row:
vLLM chooses FlashInfer there (vllm/platforms/cuda.py)."""
HALF_LAYERS = frozenset({"-", "E", "mlp", "moe"})
"""Of the kinds in Nemotron-H's hybrid_override_pattern and layers_block_type, those of layers that are a feed-forward
part alone; the others of such a model have none (ALL_DECODER_LAYER_TYPES, vllm/model_executor/models/nemotron_h.py)."""


def has_half_layers(model_info: Mapping[str, Any]) -> bool:
    """Whether each layer of the model of which the package tells `model_info` is attention, a state or a feed-forward
    part, and not one of the former before one of the latter."""
    config = model_info.get("raw_config", {})
    text = text_part(config)
    return not HALF_LAYERS.isdisjoint(text.get("hybrid_override_pattern") or text.get("layers_block_type") or ())


@dataclass(frozen=True, slots=True)
class Omitted:
    """Time of a step that is in no kernel table. Milliseconds a layer, since launches and gaps grow with the layers:
    one of attention and a feed-forward part, as in the models of the points that it was calibrated on. Two layers that
    are half of that (has_half_layers) count for one."""

    gap_layer_ms: float
    """Of every step: gaps between kernels, and the wait for the scheduler and the next inputs."""
    async_gap_layer_ms: float
    """The same with async scheduling, which schedules while the GPU computes."""
    eager_layer_ms: float
    """More in a step beyond the captured CUDA-graph sizes, whose kernels are launched one by one from Python; under
    async scheduling this too happens while the GPU computes."""
    mixed_ms: float = 0.43
    """More in a step of decodes that has a prefill too. Under async scheduling it is taken to pass while the GPU
    computes: the kernels of so short a prompt take none of it, and the host has a request to end and one to begin."""
    sampler_ms: float = 0.1
    """Launches of the sampler's dozen small kernels at about 8 us each; they lie outside the captured graph."""

    def layer_ms(self, captured: bool, async_scheduling: bool) -> float:
        """What a layer of a step takes besides its kernels."""
        if async_scheduling:
            return self.async_gap_layer_ms
        return self.gap_layer_ms + (0.0 if captured else self.eager_layer_ms)


OMITTED = Omitted(gap_layer_ms=0.023, async_gap_layer_ms=0.01, eager_layer_ms=0.09)
"""eager_layer_ms: step times of another H100 (benchmarks/surrogate_h100.py names them): decodes of Llama-3.1-8B take
2.9 ms more from 600 sequences on, where no graph was captured, than a line through up to 400 promises (Qwen-2.5-7B:
6.6), without async scheduling. mixed_ms: the same H100 (benchmarks/accuracy/mixed_steps.py). The others, given these:
benchmarks/accuracy/silicon_sample.py --calibrate, TPOT of 32B and 70B models on H100s."""
