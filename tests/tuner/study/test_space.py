"""The space offers what vLLM takes, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotune.errors import InputError
from slotune.profiler.profile import EngineFacts
from slotune.profiler.profile_folder import write_profile
from slotune.simulator.engine_config import EngineConfig, resolve
from slotune.simulator.slo import parse_slo
from slotune.traces.mooncake import write_trace
from slotune.tuner.study.space import build_space, round_values
from slotune.tuner.study.task import ask, load_task

DEFAULT = EngineConfig(num_gpu_blocks=10_000, max_model_len=8192)
SPACE = build_space(DEFAULT, {})


def values(space, name):
    return next(knob.values for knob in space.knobs if knob.name == name)


def test_every_required_knob_is_searched():
    assert [knob.name for knob in SPACE.knobs] == [
        "block_size",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "gpu_memory_utilization",
        "long_prefill_token_threshold",
        "max_num_batched_tokens",
        "max_num_seqs",
    ]


@pytest.mark.parametrize("held", [{"max_num_batched_tokens"}, {"enable_prefix_caching", "enable_chunked_prefill"}])
def test_knobs_that_do_nothing_keep_their_default(held):
    space = build_space(DEFAULT, {}, without_effect=held)
    searched = {knob.name for knob in space.knobs if len(knob.values) > 1}
    assert searched == {knob.name for knob in SPACE.knobs} - held
    assert space.settings(space.vector({})) == {} and space.fixed == {}


def test_round_values_are_quarters_of_powers_of_two():
    assert round_values(500, 2100, (4, 5, 6, 7)) == [512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048]
    assert round_values(0, 3, (4, 6)) == [1, 2, 3]


def test_the_default_is_the_empty_settings():
    assert SPACE.settings(SPACE.vector({})) == {}
    assert SPACE.allowed(SPACE.vector({})[None, :])[0]


@pytest.mark.parametrize(
    ("fixed", "made_with"),
    [
        ({"max_num_batched_tokens": 512}, {"long_prefill_token_threshold": 1024, "max_num_seqs": 64}),
        ({"enable_chunked_prefill": False, "max_model_len": 4096}, {"long_prefill_token_threshold": 512}),
        ({}, {"enable_chunked_prefill": False, "max_model_len": 4096, "long_prefill_token_threshold": 512}),
    ],
)
def test_a_default_whose_threshold_does_nothing_is_searched_from(fixed, made_with):
    space = build_space(resolve(fixed, made_with, 10_000), fixed, made_with=made_with)
    assert space.allowed(space.vector({})[None, :])[0]
    assert any(len(knob.values) > 1 for knob in space.knobs)


def test_settings_are_python_values_that_json_takes():
    settings = SPACE.settings(SPACE.vector({"max_num_seqs": 64, "enable_prefix_caching": False}))
    assert settings == {"max_num_seqs": 64, "enable_prefix_caching": False}
    assert {type(value) for value in settings.values()} == {int, bool}


def test_a_fixed_setting_is_in_every_configuration_and_is_no_change():
    fixed = {"max_num_seqs": 100, "tensor_parallel_size": 2}
    space = build_space(resolve(fixed, {}, 1000), fixed)
    assert values(space, "max_num_seqs") == (100,)
    settings = space.settings(space.vector({"block_size": 32}))
    assert settings == {**fixed, "block_size": 32}
    assert space.changes(settings) == {"block_size": 32}


@pytest.mark.parametrize("name", ["num_gpu_blocks_override", "kv_cache_memory_bytes"])
def test_memory_share_is_not_searched_where_it_changes_nothing(name):
    space = build_space(DEFAULT, {name: 5000})
    assert "gpu_memory_utilization" not in [knob.name for knob in space.knobs]
    fixed_cache = build_space(DEFAULT, {}, fixed_cache=True)
    assert "gpu_memory_utilization" not in [knob.name for knob in fixed_cache.knobs]


def test_long_models_cannot_do_without_chunked_prefill():
    space = build_space(EngineConfig(num_gpu_blocks=10_000, max_model_len=131072), {})
    assert values(space, "enable_chunked_prefill") == (True,)


def test_large_default_blocks_mean_a_cpu():
    assert values(build_space(EngineConfig(num_gpu_blocks=100, block_size=128), {}), "block_size") == (32, 64, 128)


@pytest.mark.parametrize(
    ("driver", "own", "searched"),
    [("570.86", 64, (64,)), ("570.86", 128, (128,)), ("570.86", 16, (16, 32, 64)), (None, 128, (32, 64, 128))],
)
def test_larger_blocks_than_vllm_s_default_are_kept_on_a_gpu(
    tmp_path, small_profile, small_trace, driver, own, searched
):
    """Its attention kernels may read no others."""
    made = replace(small_profile, engine=EngineFacts(driver=driver), defaults={"block_size": own})
    write_profile(made, tmp_path / "profile")
    write_trace(small_trace(), tmp_path / "trace.jsonl")
    slos = [parse_slo("p99:ttft:500")]
    task = load_task(ask(str(tmp_path / "profile"), str(tmp_path / "trace.jsonl"), slos=slos))
    assert values(task.space, "block_size") == searched


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=7, max_size=7))
def test_what_the_space_allows_vllm_takes(point):
    vector = np.floor(np.array(point) * SPACE.sizes())
    settings = SPACE.settings(vector)
    chosen = {knob.name: knob.values[int(i)] for knob, i in zip(SPACE.knobs, vector, strict=True)}
    allowed = bool(SPACE.allowed(vector[None, :])[0])
    if allowed:
        engine = resolve(settings, {"max_model_len": 8192}, 10_000)
        for name, value in chosen.items():
            assert getattr(engine, name, value) == value
        assert np.array_equal(SPACE.vector(settings), vector)
        return
    pointless = chosen["long_prefill_token_threshold"] >= chosen["max_num_batched_tokens"]
    pointless |= not chosen["enable_chunked_prefill"] and chosen["long_prefill_token_threshold"] > 0
    if not pointless:
        with pytest.raises(InputError):
            resolve(chosen, {"max_model_len": 8192}, 10_000)


def test_repair_brings_sequences_and_threshold_within_the_budget():
    wrong = SPACE.vector({"max_num_batched_tokens": 448, "max_num_seqs": 1024, "long_prefill_token_threshold": 512})
    mended = SPACE.repaired(np.array([wrong, SPACE.vector({})]))
    assert SPACE.settings(mended[0]) == {"max_num_batched_tokens": 448, "max_num_seqs": 384}
    assert SPACE.settings(mended[1]) == {}


def test_so_many_blocks_of_another_size_would_be_another_memory():
    for where in ({"fixed": {"num_gpu_blocks_override": 1000}}, {"made_with": {"num_gpu_blocks_override": 1000}}):
        space = build_space(DEFAULT, where.get("fixed", {}), made_with=where.get("made_with"))
        assert "block_size" not in {knob.name for knob in space.knobs}
    assert len(values(SPACE, "block_size")) > 1


def test_the_share_of_the_memory_starts_from_the_profile_s():
    knob = next(
        k for k in build_space(DEFAULT, {}, made_with={"gpu_memory_utilization": 0.4}).knobs if "memory" in k.name
    )
    assert knob.default == 0.4 and {0.4, 0.92} <= set(knob.values)


@pytest.mark.parametrize(
    ("reach", "budget", "seqs"),
    [((0, 0), 4096, 512), ((3000, 300), 4096, 512), ((9000, 800), 8192, 768), ((np.inf, np.inf), 16384, 1024)],
)
def test_ranges_go_as_far_as_step_times_are_known(reach, budget, seqs):
    """On a small GPU, whose default budget is 2048, twice it may be far too little for long prompts."""
    small = EngineConfig(num_gpu_blocks=10_000, max_num_batched_tokens=2048, max_num_seqs=256)
    space = build_space(small, {}, reach=reach)
    assert values(space, "max_num_batched_tokens")[-1] == budget and values(space, "max_num_seqs")[-1] == seqs
    assert values(build_space(small, {"max_num_seqs": 64}, reach=reach), "max_num_seqs") == (256,)
    large = build_space(EngineConfig(num_gpu_blocks=10_000), {}, reach=reach)
    assert values(large, "max_num_batched_tokens")[-1] == 16384 and values(large, "max_num_seqs")[-1] == 2048
