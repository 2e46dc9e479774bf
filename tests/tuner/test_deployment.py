"""The engine that is started is the engine that was simulated."""

from dataclasses import replace

from slotune.profiler.profile import EngineFacts, linear_profile
from slotune.simulator.engine_config import resolve
from slotune.tuner.deployment import deployed

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
