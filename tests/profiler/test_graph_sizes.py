"""Which sizes are captured as CUDA graphs: vLLM's rule, and a profile that keeps its own."""

from dataclasses import replace
from typing import Any

import pytest

from slotune.errors import InputError
from slotune.profiler.graph_sizes import captured_graph_sizes, most_captured
from slotune.profiler.profile import EngineFacts, Profile, linear_profile
from slotune.simulator.engine_config import EngineConfig, resolve
from slotune.simulator.features import DENSE_TOKENS


def engine(**settings: Any) -> EngineConfig:
    return resolve(settings, {}, 1 << 20)


def drafting(tokens: int) -> dict[str, Any]:
    return {
        "method": "eagle3",
        "num_speculative_tokens": tokens,
        "rejection_sample_method": "synthetic",
        "synthetic_acceptance_rates": [0.5] * tokens,
    }


@pytest.mark.parametrize(
    ("seqs", "drafts", "most", "last"),
    [
        (16, 0, 512, [24, 32]),
        (100, 0, 512, [184, 192, 200]),
        (1000, 0, 512, [480, 496, 512]),
        (1000, 0, 1024, [992, 1000, 1008, 1024]),
        (16, 3, 512, [112, 120, 128]),
        (100, 3, 512, [480, 496, 512]),
        (33, 7, 512, [496, 512]),
    ],
)
def test_the_largest_sizes_are_vllms(seqs: int, drafts: int, most: int, last: list[int]) -> None:
    """Every value from a run of vLLM 0.32's own VllmConfig._set_cudagraph_sizes."""
    asked = {"speculative_config": drafting(drafts)} if drafts else {}
    sizes = captured_graph_sizes(engine(max_num_seqs=seqs, max_num_batched_tokens=8192, **asked), {}, most)
    assert sizes[-len(last) :].tolist() == last


def test_decodes_of_whole_batches_are_captured_with_their_drafts() -> None:
    sizes = captured_graph_sizes(engine(max_num_seqs=33, speculative_config=drafting(2)), {}).tolist()
    assert {3.0, 6.0, 12.0, 24.0, 48.0, 72.0, 96.0, 99.0} <= set(sizes)


def test_a_largest_size_that_is_given_is_the_largest() -> None:
    sizes = captured_graph_sizes(engine(max_num_seqs=100), {"max_cudagraph_capture_size": 64})
    assert sizes[-1] == 64


@pytest.mark.parametrize(
    "settings",
    [
        {"cudagraph_capture_sizes": []},
        {"cudagraph_capture_sizes": [0]},
        {"max_cudagraph_capture_size": 0},
        {"cudagraph_capture_sizes": [1, 2, 4], "max_cudagraph_capture_size": 8},
    ],
)
def test_what_vllm_refuses_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cudagraph_capture_size"):
        captured_graph_sizes(engine(), settings)


@pytest.mark.parametrize(
    ("device", "most"),
    [("NVIDIA B200", 1024), ("gb200", 1024), ("NVIDIA H200", 512), ("rtx_pro_6000", 512), (None, 512)],
)
def test_the_ceiling_is_the_device_s(device: str | None, most: int) -> None:
    assert most_captured(device) == most


@pytest.fixture
def profile() -> Profile:
    """Made on an engine that captured 8 and 16 tokens only, of which a step's time is all padding."""
    linear = linear_profile(1e-3, 1e-6, 1e-6, 0)
    weights = linear.step.weights_s.copy()
    weights[DENSE_TOKENS] = 1e-4
    step = replace(
        linear.step, weights_s=weights, graph_sizes=captured_graph_sizes(engine(), {"cudagraph_capture_sizes": [8, 16]})
    )
    return replace(
        linear, step=step, cuda_graphs=True, engine=EngineFacts(), defaults={"cudagraph_capture_sizes": [8, 16]}
    )


@pytest.mark.parametrize("settings", [{"gpu_memory_utilization": 0.92}, {"enable_prefix_caching": False}, {}])
def test_settings_without_a_say_leave_the_captured_sizes_as_they_were(
    profile: Profile, settings: dict[str, Any]
) -> None:
    assert profile.timing(settings).step.numbers.tolist() == profile.timing().step.numbers.tolist()


def test_other_settings_count_over_the_profile_s_own(profile: Profile) -> None:
    assert (
        profile.timing({"max_num_batched_tokens": 12}).step.numbers.tolist() != profile.timing().step.numbers.tolist()
    )
    eager = profile.timing({"enforce_eager": True}).step.numbers.tolist()
    assert (
        eager
        == replace(profile, cuda_graphs=False, step=replace(profile.step, graph_sizes=profile.step.graph_sizes[:0]))
        .timing()
        .step.numbers.tolist()
    )
