"""What the package's sums leave out of a step: contexts read for short chunks, logits gathered from several GPUs."""

import numpy as np
import pytest

from slotune.profiler.silicon.layout import Layout
from slotune.profiler.silicon.tables import TABLE_NOISE, KernelTables

LLAMA = "meta-llama/Meta-Llama-3.1-8B"


@pytest.mark.parametrize("system", ["l40s", "a100_sxm", "rtx_pro_6000_server"])
@pytest.mark.parametrize(("rows", "chunk", "context"), [(16, 8, 32768), (64, 2, 8192), (1, 16, 65536)])
def test_a_short_chunk_reads_the_whole_context(system: str, rows: int, chunk: int, context: int) -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    tables = KernelTables(system, LLAMA, Layout())
    taken_ms = tables.prefill_attention_ms(rows, chunk, context)
    assert taken_ms > tables.share_ms(rows, chunk, context)
    read_ms = 1e3 * rows * context * 131072 / tables.gpu["mem_bw"]  # keys and values of a token: 128 KiB
    assert taken_ms >= max(read_ms, tables.decode_attention_ms(rows, context))


def test_where_contexts_are_not_split_a_few_queries_take_as_long_as_many() -> None:
    """Measured on an RTX PRO 6000: 5.9 to 6.0 ms in all layers for 16 to 256 tokens after 8192."""
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    unsplit, split = (KernelTables(system, LLAMA, Layout()) for system in ("rtx_pro_6000_server", "h200_sxm"))
    few, many = (unsplit.prefill_attention_ms(1, chunk, 8192) for chunk in (16, 256))
    assert few == many == pytest.approx(5.95, rel=0.15)
    assert split.prefill_attention_ms(1, 256, 8192) > 2 * split.prefill_attention_ms(1, 16, 8192)
    long = [tables.prefill_attention_ms(1, 4096, 4096) / tables.share_ms(1, 4096, 4096) for tables in (unsplit, split)]
    assert long == [1.0, 1.0]


def test_logits_are_gathered_from_all_gpus() -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
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
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    tables = KernelTables(system, model, layout)
    assert tables.slowest_beside_larger()[1] > told
    for decodes_only in (False, True):
        times = np.array([tables.dense_ms(tokens, decodes_only) for tokens in range(8, 1200, 8)])
        least = np.minimum.accumulate(times[::-1])[::-1]
        assert (times <= 1.11 * least).all(), "the noise of a table and once more that of those held against it"


def test_tables_that_grow_with_the_step_are_left_as_they_are() -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    tables = KernelTables("h200_sxm", LLAMA, Layout())
    assert tables.slowest_beside_larger()[1] < TABLE_NOISE
    for tokens in (1, 7, 100, 272, 513, 900, 5000, 20000):
        assert tables.dense_ms(tokens) == tables.told_dense_ms(tokens)
