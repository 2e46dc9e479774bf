"""The engine that is started is the engine that was simulated."""

from dataclasses import replace

import pytest

from slotune.profiler.profile import EngineFacts, linear_profile
from slotune.profiler.provenance import KERNEL_TABLES, MEASURED, STEP_RECORDS
from slotune.simulator.engine_config import resolve
from slotune.tuner.study.deployment import checkpoint_note, deployed, drafter_note, served

MADE_UNDER = {
    "load_format": "dummy",
    "max_model_len": 4096,
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 128,
    "block_size": 128,
    "async_scheduling": False,
    "enable_chunked_prefill": True,
    "watermark": 0.0,
    "gpu_memory_utilization": 0.92,
    "max_num_active_seqs": None,
}
PROFILE = replace(linear_profile(0.01, 1e-4, 1e-4, 0), defaults=MADE_UNDER)


def test_what_the_profile_was_made_under_is_asked_for_and_what_vllm_does_anyway_is_not():
    assert deployed(PROFILE, {"max_num_seqs": 64}) == {
        "load_format": "dummy",
        "max_model_len": 4096,
        "max_num_batched_tokens": 2048,
        "max_num_seqs": 64,
        "block_size": 128,
        "async_scheduling": False,
    }


def test_a_batch_limit_bounded_by_another_is_the_one_that_was_simulated():
    assert deployed(PROFILE, {"max_num_batched_tokens": 96})["max_num_seqs"] == 96


def test_starting_it_so_resolves_to_the_same_engine():
    for settings in ({}, {"max_num_seqs": 64}, {"max_num_batched_tokens": 96, "enable_prefix_caching": False}):
        assert resolve(deployed(PROFILE, settings), {}, 1000) == resolve(settings, MADE_UNDER, 1000)


def test_parallelism_goes_along():
    parallel = replace(PROFILE, engine=EngineFacts(tensor_parallel_size=2))
    assert deployed(parallel, {})["tensor_parallel_size"] == 2


def test_batch_limits_are_always_asked_for_as_vllm_takes_them_by_the_gpu():
    limits = {"max_num_batched_tokens": 8192, "max_num_seqs": 1024}
    assert deployed(linear_profile(0.01, 1e-4, 1e-4, 0), {}) == limits


def test_nobody_is_told_to_serve_without_weights():
    assert (
        "load_format" not in served(PROFILE, {}) and served(PROFILE, {"load_format": "auto"})["load_format"] == "auto"
    )


@pytest.mark.parametrize(
    ("source", "quantization", "given", "checkpoint"),
    [
        (STEP_RECORDS, "awq", {"dtype": "float16", "kv_cache_dtype": "fp8", "quantization": "awq"}, False),
        (KERNEL_TABLES, "fp8", {"dtype": "float16", "kv_cache_dtype": "fp8", "quantization": "fp8"}, False),
        (KERNEL_TABLES, "nvfp4", {"dtype": "float16", "kv_cache_dtype": "fp8"}, True),
        (MEASURED, "awq", {}, False),
    ],
)
def test_number_formats_that_were_asked_for_go_along(source, quantization, given, checkpoint):
    facts = EngineFacts(dtype="float16", kv_cache_dtype="fp8", quantization=quantization)
    defaults = {name: value for name, value in MADE_UNDER.items() if name != "load_format"}
    profile = replace(PROFILE, source=source, engine=facts, defaults=defaults)
    found = deployed(profile, {})
    assert {name: found[name] for name in ("dtype", "kv_cache_dtype", "quantization") if name in found} == given
    assert bool(checkpoint_note(profile)) == checkpoint


def test_the_block_size_is_asked_for_as_vllm_takes_it_by_the_device():
    small = replace(PROFILE, defaults=MADE_UNDER | {"block_size": 16})
    assert deployed(small, {})["block_size"] == 16


def test_what_vllm_would_ask_for_is_told():
    assert "measured without weights" in checkpoint_note(PROFILE)
    eagle = {"method": "eagle3", "num_speculative_tokens": 3}
    told = [
        drafter_note(PROFILE, {"speculative_config": config})
        for config in (None, eagle, eagle | {"model": "a/drafter"}, eagle | {"method": "ngram"})
    ]
    assert [bool(notes) for notes in told] == [False, True, False, False]
