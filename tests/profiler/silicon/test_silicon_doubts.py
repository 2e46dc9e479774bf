"""Kernel tables that cannot be right: which are doubted, and which are not."""

import pytest

from slotune.profiler.silicon.doubts import Comparisons, doubts, fewer_graphs
from slotune.profiler.silicon.layout import Layout
from slotune.profiler.silicon.memory import layer_bytes, token_cache_bytes
from slotune.profiler.silicon.silicon_profile import _comparisons
from slotune.profiler.silicon.tables import KernelTables


@pytest.mark.parametrize(
    ("system", "model", "layout", "doubted"),
    [
        ("b200_sxm", "nvidia/DeepSeek-V3.1-NVFP4", Layout(8), True),
        ("b200_sxm", "deepseek-ai/DeepSeek-V3", Layout(8), False),
        ("b200_sxm", "deepseek-ai/DeepSeek-V3", Layout(8, pp=4), False),
        ("b200_sxm", "nvidia/Kimi-K2.5-NVFP4", Layout(8), False),
        ("h200_sxm", "deepseek-ai/DeepSeek-V3.2", Layout(8), False),
    ],
)
def test_latent_attention_that_takes_many_times_the_reading_of_its_cache_is_doubted(
    system: str, model: str, layout: Layout, doubted: bool
) -> None:
    """228 ms for what 29 would read; DeepSeek-V3's cache of twice the bytes is read in 82."""
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    tables = KernelTables(system, model, layout)
    told = doubts(tables, Comparisons((), None, None, None, token_cache_bytes(tables)))
    assert any("reading their KV cache from memory only" in sentence for sentence in told) == doubted


@pytest.mark.parametrize(
    ("system", "model", "layout", "told"),
    [
        ("l40s", "meta-llama/Meta-Llama-3.1-8B", Layout(1), None),
        ("l40s", "meta-llama/Meta-Llama-3.1-8B", Layout(2), "2 GPUs without NVLink"),
        ("h100_sxm", "meta-llama/Meta-Llama-3.1-8B", Layout(2), None),
        ("h100_sxm", "meta-llama/Meta-Llama-3.1-8B", Layout(1, kv_cache_dtype="fp8"), None),
        ("l40s", "meta-llama/Meta-Llama-3.1-8B", Layout(1, kv_cache_dtype="fp8"), "with an fp8 cache on this GPU"),
        ("b200_sxm", "meta-llama/Meta-Llama-3.1-70B", Layout(1, precision="fp8"), None),
        ("b200_sxm", "meta-llama/Meta-Llama-3.1-70B", Layout(2, precision="fp8"), "but those of 8 only"),
        ("h100_sxm", "Qwen/Qwen3-32B", Layout(1), None),
        ("h100_sxm", "Qwen/Qwen3-32B-FP8", Layout(1), "but reading their weights from memory only"),
    ],
)
def test_what_contradicts_itself_or_the_memory_is_doubted(
    system: str, model: str, layout: Layout, told: str | None
) -> None:
    """More GPUs that take longer, a batch that takes less than one of it, and layers that take twice their reading."""
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    tables = KernelTables(system, model, layout)
    halved = KernelTables(system, model, Layout(layout.tp // 2)) if layout.tp > 1 and not layout.precision else None
    found = doubts(tables, Comparisons((), halved, tables if layout.tp == 1 else None, layer_bytes(tables), None))
    assert len(found) == (told is not None) and (told or "") in "".join(found)


@pytest.mark.parametrize(
    ("system", "model", "layout", "doubted"),
    [
        ("h100_sxm", "MiniMaxAI/MiniMax-M2.5", Layout(4), True),
        ("h100_sxm", "MiniMaxAI/MiniMax-M2.5", Layout(4, expert_parallel=True), True),
        ("h100_sxm", "openai/gpt-oss-120b", Layout(2), False),
        ("b200_sxm", "nvidia/MiniMax-M2.5-NVFP4", Layout(4), False),
    ],
)
def test_dense_weights_are_compared_where_there_is_no_table_of_experts_in_bfloat16(
    system: str, model: str, layout: Layout, doubted: bool
) -> None:
    """Layers of MiniMax-M2.5 take 1.4 to 2.1 times as long with dense weights in blocks of FP8 as in bfloat16."""
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    tables = KernelTables(system, model, layout)
    told = "".join(doubts(tables, _comparisons(tables)))
    assert ("with weights in bfloat16, all but those of the experts, which are more bytes" in told) == doubted
    assert bool(told) == doubted


@pytest.mark.parametrize(
    ("model", "tp", "end"),
    [
        ("deepseek-ai/DeepSeek-V3", 8, "more bytes (not so steps of 8 or 64 or 256)"),
        ("MiniMaxAI/MiniMax-M2.5", 4, "more bytes"),
    ],
)
def test_steps_that_take_no_longer_than_in_bfloat16_are_told(model: str, tp: int, end: str) -> None:
    """Of DeepSeek-V3's only those of two tokens do, of MiniMax-M2.5's all that are compared."""
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    tables = KernelTables("h200_sxm", model, Layout(tp))
    (told,) = doubts(tables, Comparisons(_comparisons(tables).plain, None, None, None, None))
    assert told.startswith("in the kernel tables, the layers of a step of 2 tokens take") and told.endswith(end)


@pytest.mark.parametrize(
    ("system", "model", "told"),
    [
        ("h200_sxm", "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8", "64 decodes take 150 ms on one GPU"),
        ("b200_sxm", "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8", None),
        ("h200_sxm", "openai/gpt-oss-120b", None),
        ("h200_sxm", "openai/gpt-oss-20b", None),
    ],
)
def test_layers_of_experts_that_take_twice_the_reading_of_all_of_them_are_doubted(
    system: str, model: str, told: str | None
) -> None:
    """24.9 ms would read the first model once."""
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    tables = KernelTables(system, model, Layout())
    found = doubts(tables, Comparisons((), None, tables, layer_bytes(tables), None))
    assert len(found) == (told is not None) and (told or "") in "".join(found)


def test_all_reduces_that_take_longer_on_more_gpus_are_doubted() -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    halved, tables = (KernelTables("l40s", "meta-llama/Meta-Llama-3.1-8B", Layout(tp)) for tp in (2, 4))
    slower, over_pcie = doubts(tables, Comparisons((), halved, None, None, None))
    assert "ms on 4 GPUs, but" in slower and "4 GPUs without NVLink" in over_pcie


def test_steps_that_vllm_would_have_captured_and_are_not_wait_for_the_host() -> None:
    assert fewer_graphs(512, 512) == [] == fewer_graphs(1024, 512)
    (told,) = fewer_graphs(8, 512)
    assert "has 8 tokens, where vLLM itself captures up to 512" in told
