"""What a measured engine tells of its KV cache, by the number format it has."""

from pathlib import Path
from typing import Any

import pytest

from slotune.profiler.engine.devices import Gpu
from slotune.profiler.kv_capacity import GIB
from slotune.profiler.measurement import measured_profile
from slotune.profiler.measurement.kv_starts import observation_of
from slotune.profiler.measurement.measured_profile import (
    defaults_of,
    engine_facts,
    graph_sizes,
    measured_kv,
    model_parts,
    sampling_note,
)
from slotune.profiler.model_folder import keeps_every_token
from slotune.simulator.engine_config import resolve

LLAMA: dict[str, Any] = {
    "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32, "hidden_size": 4096,
    "max_position_embeddings": 131072, "model_type": "llama",
}  # fmt: skip
LIMITS = {"max_num_batched_tokens": 8192, "max_num_seqs": 1024, "block_size": 16, "gpu_memory_utilization": 0.92}


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 140 GiB."""
    monkeypatch.setattr(measured_profile, "gpus", lambda: [Gpu("a GPU", 140 * GIB, "1")])


def facts(**others: Any) -> dict[str, Any]:
    """Of Llama-3.1-8B, in bfloat16 unless `others` say so: 65,536 bytes a token in 8-bit numbers."""
    element = 1 if others.get("cache_dtype") == "fp8" else 2
    own = {"num_gpu_blocks": 112_000, "dtype": "torch.bfloat16", "cache_dtype": "auto"}
    cache = {"kv_cache_groups": ["FullAttentionSpec"], "kv_bytes_per_block": 16 * 65536.0 * element}
    return LIMITS | own | cache | others


def test_what_a_drafting_engine_makes_of_its_budget_bounds_no_other() -> None:
    drafting = {"method": "eagle3", "num_speculative_tokens": 2, "rejection_sample_method": "synthetic"}
    settings = {"speculative_config": drafting | {"synthetic_acceptance_rates": [0.7, 0.5]}}
    known = defaults_of(settings, facts(max_num_scheduled_tokens=8192))
    assert resolve({"max_num_batched_tokens": 16384}, known, 10_000).token_budget == 16384
    asked = defaults_of(settings | {"max_num_scheduled_tokens": 4096}, facts(max_num_scheduled_tokens=4096))
    assert resolve({"max_num_batched_tokens": 16384}, asked, 10_000).token_budget == 4096


@pytest.mark.parametrize(
    ("mode", "sizes"),
    [
        ({"cudagraph_mode": "FULL_AND_PIECEWISE"}, [1, 2, 8]),
        ({"cudagraph_mode": "NONE"}, []),
        ({"cudagraph_mode": None}, []),
        ({"cudagraph_mode": "PIECEWISE", "enforce_eager": True}, []),
    ],
)
def test_an_engine_pads_only_where_it_runs_graphs(mode: dict[str, Any], sizes: list[int]) -> None:
    assert graph_sizes({"cudagraph_capture_sizes": [8, 1, 2], **mode}).tolist() == sizes


def test_what_the_engine_chose_is_a_default_unless_another_was_given() -> None:
    chosen = {"policy": "priority", "max_model_len": 4096, "gpu_memory_utilization": 0.9}
    known = defaults_of({"max_model_len": 2048}, facts(**chosen))
    assert {name: known[name] for name in ("scheduling_policy", "max_model_len", "gpu_memory_utilization")} == {
        "scheduling_policy": "priority", "max_model_len": 2048, "gpu_memory_utilization": 0.9,
    }  # fmt: skip


def test_a_cache_of_a_format_without_a_word_has_the_model_s_bytes() -> None:
    found, _ = measured_kv({"kv_cache_dtype": "auto"}, facts(dtype="torch.float32", kv_bytes_per_block=16 * 4 * 65536))
    assert found is not None
    blocks = {dtype: found.num_gpu_blocks(LIMITS | {"kv_cache_dtype": dtype}) for dtype in ("auto", "fp8")}
    assert blocks["fp8"] == pytest.approx(4 * blocks["auto"], rel=0.001)


@pytest.mark.parametrize("fixed", [{}, {"kv_cache_memory_bytes": 112_000 * 16 * 65536}])
def test_a_start_in_fp8_is_predicted_in_fp8_and_twice_too_large_in_its_own_format(fixed: Any) -> None:
    asked = {"kv_cache_dtype": "fp8"}
    seen = facts(cache_dtype="fp8", **fixed)
    found, _ = measured_kv(asked, seen)
    assert found is not None
    assert found.num_gpu_blocks(LIMITS | asked) == pytest.approx(112_000, abs=1)
    assert found.num_gpu_blocks(LIMITS | {"kv_cache_dtype": "auto"}) == pytest.approx(56_000, abs=1)
    assert found.errors() == [pytest.approx(0, abs=1e-4)] * (not fixed)


def test_a_model_whose_own_cache_is_fp8_is_not_made_smaller_by_asking_for_it() -> None:
    found, _ = measured_kv({}, facts(cache_dtype="fp8"))
    assert found is not None
    blocks = {dtype: found.num_gpu_blocks(LIMITS | {"kv_cache_dtype": dtype}) for dtype in ("auto", "fp8", "bfloat16")}
    assert blocks["auto"] == blocks["fp8"] == pytest.approx(112_000, abs=1)
    assert blocks["bfloat16"] == pytest.approx(56_000, abs=1)


def test_blocks_that_were_given_tell_nothing_of_the_memory() -> None:
    found, told = measured_kv({}, facts(num_gpu_blocks=1000, num_gpu_blocks_override=1000))
    assert found is None and told and "num_gpu_blocks_override set it" in told


def test_one_start_does_not_tell_what_the_batch_limits_take() -> None:
    small = facts(max_num_seqs=64, max_num_batched_tokens=1024, num_gpu_blocks=113_000)
    one, more = (measured_kv({}, facts(), starts) for starts in ([], [observation_of(small)]))
    assert one[1] == (
        "KV capacity is known from one start (112000 blocks of 16 on 140 GiB): how it depends on the batch limits was "
        "not measured"
    )
    assert more[1] is None and more[0] is not None
    assert more[0].num_gpu_blocks(LIMITS | {"max_num_seqs": 64, "max_num_batched_tokens": 1024}) == 113_000


def test_layers_of_several_kinds_are_not_counted_as_if_of_one() -> None:
    found, note = measured_kv({}, facts(kv_cache_groups=["FullAttentionSpec"] * 6))
    assert found is None and note is not None
    assert "in 6 groups, and a token takes a block of every group" in note and "num_gpu_blocks are too many" in note


def test_blocks_that_every_group_of_layers_takes_its_own_of_are_no_default() -> None:
    """Of 6000 blocks in six groups the simulator would give each token of one group six times as many."""
    asked = {"num_gpu_blocks_override": 6000, "max_num_seqs": 8}
    for groups, blocks in ((["FullAttentionSpec"] * 6, None), (["FullAttentionSpec"], 6000)):
        known = defaults_of(asked, facts(num_gpu_blocks_override=6000, kv_cache_groups=groups))
        assert known.get("num_gpu_blocks_override") == blocks and known["max_num_seqs"] == 8


@pytest.mark.parametrize(
    ("groups", "parts"),
    [
        (["FullAttentionSpec", "MambaSpec", "MambaSpec"], ("layers of several kinds",)),
        (["FullAttentionSpec"] * 6, ()),
        (["MLAAttentionSpec"], ()),
        (None, ()),
    ],
)
def test_groups_of_several_kinds_are_a_part_of_the_model(groups: list[str] | None, parts: tuple[str, ...]) -> None:
    assert model_parts(facts(kv_cache_groups=groups)) == parts


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"kv_cache_groups": ["SlidingWindowSpec"]}, "kind SlidingWindowSpec do not keep every token"),
        ({"kv_cache_groups": [], "kv_bytes_per_block": None}, "tells of no KV cache"),
    ],
)
def test_what_blocks_do_not_count_is_not_modelled(other: dict[str, Any], told: str) -> None:
    found, note = measured_kv({}, facts(**other))
    assert found is None and note is not None and told in note


def test_latent_attention_is_counted_in_the_engine_s_own_bytes() -> None:
    found, _ = measured_kv({}, facts(kv_cache_groups=["MLAAttentionSpec"], kv_bytes_per_block=16 * 61 * 576 * 2))
    assert found is not None and found.kv_bytes_per_token == 61 * 576 * 2
    assert found.num_gpu_blocks(LIMITS) == pytest.approx(112_000, abs=1)


@pytest.mark.parametrize(("dtype", "made_with"), [("auto", 60 * 256 * 2), ("fp8", 60 * 256)])
def test_index_keys_do_not_follow_the_format_of_the_cache(dtype: str, made_with: int) -> None:
    index = 57 * 128 * 2
    known = facts(cache_dtype=dtype, kv_bytes_per_block=16.0 * (made_with + index), kv_index_bytes_per_token=index)
    found, _ = measured_kv({} if dtype == "auto" else {"kv_cache_dtype": dtype}, known)
    assert found is not None
    plain, halved = (found.block_bytes(LIMITS | {"kv_cache_dtype": asked}) for asked in ("auto", "fp8"))
    assert (plain, halved) == (16 * (60 * 512 + index), 16 * (60 * 256 + index))


def test_on_a_device_of_unknown_size_there_are_the_blocks_that_were_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_profile, "gpus", list)
    found, note = measured_kv({}, facts())
    assert found is not None and note is not None and "112000 blocks of 16" in note
    assert found.num_gpu_blocks(LIMITS) == found.num_gpu_blocks(LIMITS | {"max_num_seqs": 8}) == 112_000
    assert found.num_gpu_blocks(LIMITS | {"block_size": 32}) == 56_000


@pytest.mark.parametrize(
    ("config", "uniform"),
    [
        ({}, True),
        ({"sliding_window": 4096}, False),
        ({"sliding_window": 4096, "use_sliding_window": False}, True),
        ({"sliding_window": 131072}, True),
        ({"layer_types": ["full_attention"] * 4}, True),
        ({"layer_types": ["sliding_attention", "full_attention"]}, False),
        ({"hybrid_override_pattern": "M-M*"}, False),
        ({"full_attention_interval": 4}, False),
        ({"attn_type_list": [1] * 62}, True),
        ({"attn_type_list": [0, 0, 1]}, False),
        ({"attn_type_list": [0, 0]}, False),
    ],
)
def test_whether_every_layer_keeps_every_token(config: dict[str, Any], uniform: bool) -> None:
    assert keeps_every_token(LLAMA | config) == keeps_every_token({"text_config": LLAMA | config}) == uniform


def test_an_observed_start_remembers_the_format_of_its_cache() -> None:
    assert observation_of(facts(cache_dtype="fp8")).settings["kv_cache_dtype"] == "fp8"


def test_of_unequal_pipeline_stages_the_largest_bounds_the_blocks() -> None:
    """61 layers in four stages: the scheduler tells of the first, 15, and the third has 16."""
    layer = 16 * 4096.0
    share = 20 * GIB
    blocks = int(share // (16 * layer))
    found, _ = measured_kv({}, facts(kv_bytes_per_block=15 * layer, num_gpu_blocks=blocks, kv_cache_memory_bytes=share))
    assert found is not None
    assert found.num_gpu_blocks(LIMITS) == pytest.approx(blocks, abs=1)


def test_a_model_folder_is_found_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert engine_facts("models/mine", facts()).model == str(tmp_path / "models" / "mine")
    assert engine_facts("models/another", facts()).model == "models/another"


@pytest.mark.parametrize(
    ("settings", "logged", "log_tells", "told"),
    [
        ({}, None, True, "as is vLLM's default, at random from all of them"),
        ({}, None, False, "as the server does by default, which its log does not tell"),
        ({}, "{'temperature': 0.6}", True, "as the server does by default, {'temperature': 0.6}"),
        (
            {"override_generation_config": {"temperature": 0}},
            None,
            False,
            "as the server does by default, {'temperature': 0}",
        ),
    ],
)
def test_how_the_engine_sampled_is_noted(
    settings: dict[str, Any], logged: str | None, log_tells: bool, told: str
) -> None:
    note = sampling_note(settings, facts(sampling_defaults=logged, log_tells=log_tells))
    assert note == f"tokens were sampled {told}; a request that asks for another way may take longer or less"
