"""Which sizes are captured as CUDA graphs: vLLM's rule, and a profile that keeps its own."""

import json
import random
import subprocess
from dataclasses import replace
from pathlib import Path
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
    ("seqs", "drafts", "device", "last"),
    [
        (16, 0, "h200", [24, 32]),
        (100, 0, "h200", [184, 192, 200]),
        (1000, 0, "h200", [480, 496, 512]),
        (1000, 0, "b200", [992, 1000, 1008, 1024]),
        (16, 3, "h200", [112, 120, 128]),
        (100, 3, "h200", [480, 496, 512]),
        (33, 7, "h200", [496, 512]),
    ],
)
def test_the_largest_sizes_are_vllms(seqs: int, drafts: int, device: str, last: list[int]) -> None:
    """The values of vLLM 0.32's own rule, which the test at the end runs."""
    asked = {"speculative_config": drafting(drafts)} if drafts else {}
    sizes = captured_graph_sizes(engine(max_num_seqs=seqs, max_num_batched_tokens=8192, **asked), {}, device)
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
    assert most_captured(engine(), device) == most
    assert most_captured(replace(engine(), vllm_version="0.27.1"), device) == 512, "0.28 was the first to capture more"


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


def test_settings_that_leave_no_size_are_refused_wherever_an_engine_is_asked_for(profile: Profile) -> None:
    with pytest.raises(InputError, match=r"sizes=\[8, 16\]: holds no size from 1 to max_num_batched_tokens=4"):
        profile.engine_config({"max_num_batched_tokens": 4})
    assert replace(profile, cuda_graphs=False).engine_config({"max_num_batched_tokens": 4}).max_num_seqs == 4


VLLMS_OWN = """
import json, sys
from types import SimpleNamespace as Part
from vllm import platforms
from vllm.config.compilation import CUDAGraphMode
from vllm.config.vllm import VllmConfig

found = []
for seqs, tokens, drafts, blackwell, largest in json.load(sys.stdin):
    platforms._current_platform = Part(is_device_capability_family=lambda family: blackwell)
    compilation = Part(
        cudagraph_mode=CUDAGraphMode.FULL,
        max_cudagraph_capture_size=largest,
        cudagraph_capture_sizes=None,
        compile_sizes=None,
        post_init_cudagraph_sizes=lambda: None,
    )
    config = Part(
        model_config=Part(enforce_eager=False),
        compilation_config=compilation,
        scheduler_config=Part(max_num_seqs=seqs, max_num_batched_tokens=tokens),
        uniform_decode_query_len=1 + drafts,
        speculative_config=None,
        performance_mode="balanced",
    )
    VllmConfig._set_cudagraph_sizes(config)
    found.append(compilation.cudagraph_capture_sizes)
print(json.dumps(found))
"""


@pytest.mark.engine
def test_every_size_is_vllms(vllm_python: str, tmp_path: Path) -> None:
    rng = random.Random(0)
    cases = []
    for _ in range(1000):
        seqs = rng.choice([1, 2, 3, 5, 7, 16, 17, 33, 64, 100, 128, 200, 256, 300, 512, 1000])
        tokens = max(seqs, rng.choice([64, 300, 512, 1000, 2048, 8192]))
        cases.append(
            [seqs, tokens, rng.choice([0, 0, 1, 3, 7]), rng.random() < 0.5, rng.choice([None, 1, 30, 100, 600])]
        )
    words = [vllm_python, "-c", VLLMS_OWN]
    done = subprocess.run(words, input=json.dumps(cases), capture_output=True, text=True, check=True, cwd=tmp_path)
    theirs = json.loads(done.stdout.splitlines()[-1])
    for (seqs, tokens, drafts, blackwell, largest), sizes in zip(cases, theirs, strict=True):
        asked = {"speculative_config": drafting(drafts)} if drafts else {}
        resolved = engine(max_num_seqs=seqs, max_num_batched_tokens=tokens, **asked)
        limit = {} if largest is None else {"max_cudagraph_capture_size": largest}
        ours = captured_graph_sizes(resolved, limit, "b200" if blackwell else "h200")
        assert ours.tolist() == sizes, (seqs, tokens, drafts, blackwell, largest)
