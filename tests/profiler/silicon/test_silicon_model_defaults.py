"""Settings that vLLM chooses by the model."""

from typing import Any

import pytest

from slotune.profiler.graph_sizes import captured_graph_sizes
from slotune.profiler.profile import Profile
from slotune.profiler.silicon import silicon_profile
from slotune.profiler.silicon.model_defaults import model_defaults
from slotune.profiler.silicon.silicon_profile import import_silicon


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Profile:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    monkeypatch.setattr(silicon_profile, "SAMPLED_STEPS", 1 << 9)
    return import_silicon("h200_sxm", "openai/gpt-oss-20b", 1, "p")


def test_graphs_of_gpt_oss_reach_1024_tokens_whatever_max_num_seqs_is(imported: Profile) -> None:
    limit = {"max_cudagraph_capture_size": 1024}
    sizes = captured_graph_sizes(imported.engine_config({}), limit).tolist()
    assert imported.step.graph_sizes.tolist() == sizes and sizes[-1] == 1024
    same, others = ({"max_num_seqs": 32}, {"cudagraph_capture_sizes": [1, 4]})
    plain, few, chosen = (imported.timing(settings).step.numbers.tolist() for settings in ({}, same, others))
    assert few == plain != chosen


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"rope_scaling": {"type": "su"}}, 4096),
        ({"rope_scaling": {"rope_type": "longrope"}}, 4096),
        ({"rope_parameters": {"rope_type": "longrope"}}, 4096),
        ({"rope_scaling": {"rope_type": "yarn"}}, None),
        ({}, None),
    ],
)
def test_a_model_with_longrope_serves_the_context_it_was_first_trained_for(
    rope: dict[str, Any], context: int | None
) -> None:
    """It takes more if asked."""
    config = {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096, **rope}
    assert model_defaults({"raw_config": config}, 90, {}).get("max_model_len") == context


@pytest.mark.parametrize(
    ("config", "sm_version", "block_size"),
    [
        ({"sparse_attention_config": {"sparse_block_size": 128}}, 90, 128),
        ({"text_config": {"sparse_attention_config": {"sparse_block_size": 128}}}, 100, 128),
        ({"kv_lora_rank": 512, "index_topk": 2048}, 90, 64),
        ({"kv_lora_rank": 512, "index_topk": 2048}, 100, 64),
        ({"kv_lora_rank": 512}, 100, 32),
        ({"kv_lora_rank": 512}, 90, None),
        ({}, 100, None),
    ],
)
def test_blocks_are_as_large_as_the_model_s_attention_kernels_need(
    config: dict[str, Any], sm_version: int, block_size: int | None
) -> None:
    assert model_defaults({"raw_config": config}, sm_version, {}).get("block_size") == block_size
