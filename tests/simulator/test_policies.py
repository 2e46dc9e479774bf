"""Which settings the policies that are no vLLM obey."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.profiler.profile import linear_profile
from slotune.simulator.engine_config import SIMULATED, EngineConfig
from slotune.simulator.misses import reasons
from slotune.simulator.policy_names import POLICIES, disobeyed
from slotune.simulator.request_table import FAILED, FINISHED
from slotune.simulator.simulation import simulate
from slotune.traces.generate import plain
from slotune.traces.trace import Trace

OTHERS = [name for name in POLICIES if name != "vllm-v1"]
CHANGES: dict[str, Any] = {
    "async_scheduling": False,
    "block_size": 32,
    "enable_chunked_prefill": False,
    "enable_prefix_caching": False,
    "long_prefill_token_threshold": 64,
    "max_model_len": 600,
    "max_num_active_seqs": 8,
    "max_num_batched_tokens": 1500,
    "max_num_queued_reqs": 3,
    "max_num_queued_tokens": 500,
    "max_num_scheduled_tokens": 950,
    "max_num_seqs": 8,
    "prefill_schedule_interval": 4,
    "scheduler_reserve_full_isl": False,
    "scheduling_policy": "priority",
    "stream_interval": 4,
    "watermark": 0.2,
}
NOT_VARIED = {
    "long_prefill_token_threshold_adaptive",  # nothing without the threshold
    "tensor_parallel_size",  # a fact of the profile
    "pipeline_parallel_size",  # refused, as is the next
    "speculative_config",
}


@cache
def busy() -> Trace:
    """Twenty requests a second with priorities, which share the first tokens of their prompts: more than is served."""
    rng = np.random.default_rng(0)
    prompts, outputs = rng.integers(10, 900, 200).astype(np.int32), rng.integers(2, 60, 200).astype(np.int32)
    trace = plain(np.sort(rng.uniform(0, 10, 200)), prompts, outputs)
    return replace(
        trace,
        priority=rng.integers(0, 3, 200).astype(np.int32),
        run_offsets=np.arange(201, dtype=np.int64),
        run_name=np.zeros(200, np.int64),
        run_tokens=np.minimum(prompts, 64),
    )


def served(policy: str, **changes: Any) -> np.ndarray:
    """Every moment that a client sees."""
    base = {"num_gpu_blocks": 200, "max_num_seqs": 32, "max_num_batched_tokens": 1024, "max_model_len": 1000}
    base["vllm_version"] = "0.33.0"  # the first that obeys all of them
    timing = linear_profile(5e-3, 2e-5, 3e-4, 1e-8).timing()
    result = simulate(busy(), EngineConfig(**(base | changes)), timing, policy=policy)
    return np.concatenate([result.requests.first_token_s, result.requests.finish_s, np.sort(result.gaps.gap_s)])


@pytest.mark.parametrize("policy", OTHERS)
def test_stages_that_a_policy_does_not_have_are_refused(policy: str) -> None:
    with pytest.raises(InputError, match=f"pipeline_parallel_size: the {policy} policy has no steps in several stages"):
        served(policy, pipeline_parallel_size=2)


def test_every_simulated_setting_is_tried() -> None:
    assert CHANGES.keys() | NOT_VARIED == SIMULATED


@pytest.mark.parametrize("policy", OTHERS)
def test_what_a_policy_does_not_obey_is_known_by_name_and_nothing_else_is(policy: str) -> None:
    before = served(policy)
    ignored = {name for name, value in CHANGES.items() if np.array_equal(served(policy, **{name: value}), before, True)}
    assert ignored == disobeyed(policy) & CHANGES.keys()


def test_vllm_obeys_them_all() -> None:
    assert disobeyed("vllm-v1") == frozenset()


def test_under_v0_what_outgrew_the_budget_does_not_hold_up_the_others() -> None:
    """The second is preempted at 81 tokens, which no step of 64 can compute again."""
    trace = plain(np.array([0.0, 0.001, 0.130]), np.array([60, 60, 10], np.int32), np.array([60, 40, 1], np.int32))
    engine = EngineConfig(num_gpu_blocks=11, max_num_seqs=4, max_num_batched_tokens=64)
    done = simulate(trace, engine, linear_profile(5e-3, 5e-5, 3e-4, 0.0).timing(), policy="vllm-v0").requests
    told = reasons(done, trace.output_tokens, engine, "vllm-v0")
    assert told == ["1 were preempted, outgrew the 64 tokens of a step with their answers, and may not be chunked"]
    assert done.status.tolist() == [FINISHED, FAILED, FINISHED]
    assert done.ttft_s[2] < 0.03, "it waited for the first to end"
