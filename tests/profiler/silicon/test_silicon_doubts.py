"""Kernel tables that cannot be right: which are doubted, and which are not."""

import pytest

from slotune.profiler.silicon.doubts import doubts
from slotune.profiler.silicon.layout import Layout
from slotune.profiler.silicon.memory import token_cache_bytes
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
    told = list(doubts(tables, None, token_cache_bytes(tables)))
    assert ["reading their KV cache from memory only" in sentence for sentence in told] == [True] * doubted
