"""Kernel tables of a model, summed to steps: which kernels a step takes, and what the package's sums leave out."""

import numpy as np
import pytest

from slotune.profiler.silicon.layout import Layout
from slotune.profiler.silicon.memory import estimated_kv
from slotune.profiler.silicon.omitted import HOPPER_MIXED_DECODES, MIXED_DECODES, OMITTED
from slotune.profiler.silicon.tables import TABLE_NOISE, Composition, KernelTables

pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")

LLAMA = "meta-llama/Meta-Llama-3.1-8B"


@pytest.mark.parametrize("system", ["l40s", "a100_sxm", "rtx_pro_6000_server"])
@pytest.mark.parametrize(("rows", "chunk", "context"), [(16, 8, 32768), (64, 2, 8192), (1, 16, 65536)])
def test_a_short_chunk_reads_the_whole_context(system: str, rows: int, chunk: int, context: int) -> None:
    tables = KernelTables(system, LLAMA, Layout())
    taken_ms = tables.prefill_attention_ms(rows, chunk, context)
    assert taken_ms > tables.share_ms(rows, chunk, context)
    read_ms = 1e3 * rows * context * 131072 / tables.gpu["mem_bw"]  # keys and values of a token: 128 KiB
    assert taken_ms >= max(read_ms, tables.decode_attention_ms(rows, context))


def test_where_contexts_are_not_split_a_few_queries_take_as_long_as_many() -> None:
    """Measured on an RTX PRO 6000: 5.9 to 6.0 ms in all layers for 16 to 256 tokens after 8192."""
    unsplit, split = (KernelTables(system, LLAMA, Layout()) for system in ("rtx_pro_6000_server", "h200_sxm"))
    few, many = (unsplit.prefill_attention_ms(1, chunk, 8192) for chunk in (16, 256))
    assert few == many == pytest.approx(5.95, rel=0.15)
    assert split.prefill_attention_ms(1, 256, 8192) > 2 * split.prefill_attention_ms(1, 16, 8192)
    long = [tables.prefill_attention_ms(1, 4096, 4096) / tables.share_ms(1, 4096, 4096) for tables in (unsplit, split)]
    assert long == [1.0, 1.0]


def test_logits_are_gathered_from_all_gpus() -> None:
    one, four = (KernelTables("l40s", LLAMA, Layout(tp)) for tp in (1, 4))
    rows = 256
    gigabytes = rows * 128256 * 2 * 3 / 4 / 1e9  # each GPU gets what the other three made
    assert four.output_ms(rows) - one.output_ms(rows) / 4 > 1e3 * gigabytes / 32, "over PCIe at 32 GB/s"
    assert one.output_ms(2 * rows) < 2.0 * one.output_ms(rows)


@pytest.mark.parametrize(
    ("system", "model", "layout", "told"),
    [
        ("h200_sxm", "meta-llama/Meta-Llama-3.1-70B", Layout(precision="fp8"), 1.5),
        ("b200_sxm", "openai/gpt-oss-120b", Layout(), 1.15),
        ("b200_sxm", "meta-llama/Meta-Llama-3.1-70B", Layout(8), 1.15),
    ],
)
def test_no_layers_take_longer_than_those_of_a_larger_step(
    system: str, model: str, layout: Layout, told: float
) -> None:
    """In the tables they do: GEMMs of FP8 on Hopper between multiples of 256 tokens, all-reduces of eight B200s."""
    tables = KernelTables(system, model, layout)
    assert tables.slowest_beside_larger()[1] > told
    for decodes_only in (False, True):
        times = np.array([tables.dense_ms(tokens, decodes_only) for tokens in range(8, 1200, 8)])
        least = np.minimum.accumulate(times[::-1])[::-1]
        assert (times <= 1.11 * least).all(), "the noise of a table and once more that of those held against it"


def test_tables_that_grow_with_the_step_are_left_as_they_are() -> None:
    tables = KernelTables("h200_sxm", LLAMA, Layout())
    assert tables.slowest_beside_larger()[1] < TABLE_NOISE
    for tokens in (1, 7, 100, 272, 513, 900, 5000, 20000):
        assert tables.dense_ms(tokens) == tables.told_dense_ms(tokens)


@pytest.mark.parametrize(
    ("model", "tp", "parts"),
    [
        (LLAMA, 1, ()),
        ("Qwen/Qwen3-30B-A3B", 1, ("experts",)),
        ("deepseek-ai/DeepSeek-V3", 8, ("experts", "latent attention")),
        ("openai/gpt-oss-120b", 1, ("experts", "layers of several kinds")),
        ("Qwen/Qwen3-VL-8B-Instruct", 1, ("an image encoder",)),
    ],
)
def test_what_a_model_has_besides_dense_layers(model: str, tp: int, parts: tuple[str, ...]) -> None:
    assert KernelTables("h200_sxm", model, Layout(tp)).model_parts() == parts


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 40960),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 163840),
        ({"model_max_length": 65536}, 65536),
    ],
)
def test_the_longest_context_is_vllm_s(config: dict[str, object], most: int) -> None:
    tables = KernelTables("h200_sxm", "Qwen/Qwen3-8B", Layout())
    tables.model_info = {**tables.model_info, "raw_config": {**tables.model_info["raw_config"], **config}}
    assert tables.derived_max_model_len == most


def test_experts_are_cut_like_vllm_cuts_them() -> None:
    model, step = "Qwen/Qwen3-30B-A3B", Composition(0, 0, 0, 64, 512, 512)
    cut, whole = (KernelTables("h200_sxm", model, Layout(8, expert_parallel=spread)) for spread in (False, True))
    one = KernelTables("h200_sxm", model, Layout())
    times = {name: tables.step_ms(step, np.array([64.0])) for name, tables in {"cut": cut, "whole": whole}.items()}
    assert times["cut"] != times["whole"]
    assert max(times.values()) < one.step_ms(step, np.array([64.0]))


def test_latent_attention_has_kernels_of_its_own_for_decodes() -> None:
    assert KernelTables("h200_sxm", "deepseek-ai/DeepSeek-V3", Layout(8)).mixed_decodes == 1.0


@pytest.mark.parametrize(
    ("system", "times"),
    [("h100_sxm", HOPPER_MIXED_DECODES), ("b200_sxm", 1.0), ("a100_sxm", 4.0), ("l40s", 4.0)],
)
def test_decodes_beside_a_prefill_take_longer_where_one_kernel_serves_both(system: str, times: float) -> None:
    tables = KernelTables(system, LLAMA, Layout())
    prefill, both, sizes = Composition(1, 64, 0, 0, 0, 0), Composition(1, 64, 0, 64, 512, 512), np.array([128.0])
    added_ms = tables.step_ms(both, sizes) - tables.step_ms(prefill, sizes)
    attention_ms = added_ms - (tables.output_ms(65) - tables.output_ms(1))
    assert attention_ms == pytest.approx(times * tables.decode_attention_ms(64, 512))


@pytest.mark.parametrize(
    ("model", "layout", "times"),
    [
        ("Qwen/Qwen3-32B", Layout(), 8.0),
        ("Qwen/Qwen3-32B", Layout(4), 8.0),
        ("Qwen/Qwen3-32B", Layout(16), 4.0),
        (LLAMA, Layout(kv_cache_dtype="fp8"), MIXED_DECODES),
    ],
)
def test_flash_attention_2_reads_a_decode_s_cache_once_a_query_head(model: str, layout: Layout, times: float) -> None:
    """Of the heads that one GPU has; a cache of fp8 is for another kernel."""
    system = "l40s" if layout.kv_cache_dtype == "fp8" else "a100_sxm"
    assert KernelTables(system, model, layout).mixed_decodes == times


def test_without_async_scheduling_a_prefill_beside_decodes_costs_the_host_more() -> None:
    tables, sizes = KernelTables("h100_sxm", LLAMA, Layout()), np.array([128.0])
    gaps_ms = 32 * (OMITTED.gap_layer_ms - OMITTED.async_gap_layer_ms)
    for step, more_ms in ((Composition(1, 64, 0, 64, 512, 512), OMITTED.mixed_ms), (Composition(1, 64, 0, 0, 0, 0), 0)):
        hidden, waited = (tables.step_ms(step, sizes, async_scheduling) for async_scheduling in (True, False))
        assert waited - hidden == pytest.approx(gaps_ms + more_ms)


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 52 / 2),
        ("nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-FP8", 108 / 2),
        ("Qwen/Qwen3-30B-A3B", 48),
        ("Qwen/Qwen3.5-35B-A3B", 40),
    ],
)
def test_layers_that_are_a_mixer_or_a_feed_forward_part_alone_count_in_pairs(model: str, layers: float) -> None:
    """Told by a pattern of letters or by a list of kinds; layers of several kinds may be whole."""
    tables, sizes, step = KernelTables("h200_sxm", model, Layout()), np.array([8.0]), Composition(0, 0, 0, 8, 512, 512)
    hidden, waited = (tables.step_ms(step, sizes, async_scheduling) for async_scheduling in (True, False))
    assert waited - hidden == pytest.approx(layers * (OMITTED.gap_layer_ms - OMITTED.async_gap_layer_ms))


def test_operations_of_one_name_are_told_apart() -> None:
    """gpt-oss has attention with and without a window under one name."""
    tables = KernelTables("h200_sxm", "openai/gpt-oss-120b", Layout(2))
    assert len(tables._context_ops.attention) >= 1 and len(tables._decode_ops.attention) >= 1
    assert estimated_kv(tables) is None


def test_a_decode_step_of_experts_is_made_of_decode_kernels() -> None:
    tables = KernelTables("h200_sxm", "deepseek-ai/DeepSeek-V3", Layout(8))
    assert tables.dense_ms(64, decodes_only=True) < 0.9 * tables.dense_ms(64)
    plain = KernelTables("h200_sxm", LLAMA, Layout())
    assert plain.dense_ms(64, decodes_only=True) == plain.dense_ms(64)


def test_a_chunk_of_latent_attention_is_not_cheaper_after_a_context() -> None:
    tables = KernelTables("h200_sxm", "deepseek-ai/DeepSeek-V3", Layout(8))
    for chunk in (2, 128, 2048):
        assert tables.prefill_attention_ms(1, chunk, 4096) >= tables.prefill_attention_ms(1, chunk, 0)
