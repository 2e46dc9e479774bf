"""Which sizes are captured as CUDA graphs: vLLM's rule, and a profile that keeps its own."""

import json
import random
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.profiler.graph_sizes import captured_graph_sizes, most_captured
from slotune.profiler.profile import EngineFacts, Profile, linear_profile
from slotune.profiler.profile_folder import load_profile
from slotune.simulator.engine_config import EngineConfig, resolve
from slotune.simulator.features import CONSTANT, DENSE_TOKENS, EAGER, PHYSICS, totals_of
from slotune.simulator.step_time import FAR, new_memo, reach_of, step_time_s


def engine(**settings: Any) -> EngineConfig:
    return resolve(settings, {}, 1 << 20)


def drafting(tokens: int) -> dict[str, Any]:
    return {
        "method": "eagle3",
        "num_speculative_tokens": tokens,
        "rejection_sample_method": "synthetic",
        "synthetic_acceptance_rates": [0.5] * tokens,
    }


def test_default_capture_sizes_are_vllms() -> None:
    engine = EngineConfig(num_gpu_blocks=100, max_num_seqs=132, max_num_batched_tokens=8192)
    sizes = captured_graph_sizes(engine, {})
    assert sizes.tolist() == [1, 2, 4, *range(8, 128, 8), 128, 132, *range(136, 256, 8), 256]
    assert captured_graph_sizes(replace(engine, max_num_seqs=1024), {})[-3:].tolist() == [480, 496, 512]


def test_captured_sizes_follow_the_settings() -> None:
    profile = linear_profile(4e-3, 4e-5, 1.1e-4, 2.1e-7)
    weights = np.zeros(PHYSICS)
    weights[DENSE_TOKENS] = 1.0
    step = replace(profile.step, weights_s=weights, graph_sizes=np.array([4.0]))
    graphs = replace(profile, cuda_graphs=True, step=step)
    decodes = totals_of(np.ones(3, np.int64), np.full(3, 10))

    def dense_tokens(settings: dict[str, object] | None) -> float:
        model = graphs.timing(settings).step
        return float(step_time_s(model, decodes, new_memo(model)))

    assert dense_tokens(None) == 4
    assert dense_tokens({"cudagraph_capture_sizes": [8, 16]}) == 8
    assert dense_tokens({"enforce_eager": True}) == 4, "what eager steps wait for the host is not known"


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


def test_for_interactivity_small_batches_are_captured_size_by_size() -> None:
    fine = captured_graph_sizes(engine(max_num_seqs=32), {"performance_mode": "interactivity"}).tolist()
    assert fine == [*range(1, 33), 40, 48, 56, 64]
    assert captured_graph_sizes(engine(max_num_seqs=3), {"performance_mode": "interactivity"}).tolist() == [
        *range(1, 7)
    ]
    chosen = {"performance_mode": "interactivity", "cudagraph_capture_sizes": [8]}
    assert captured_graph_sizes(engine(), chosen).tolist() == [8]


def test_a_performance_mode_changes_step_times_by_its_sizes_alone(profile: Profile) -> None:
    usual = replace(profile, step=replace(profile.step, graph_sizes=captured_graph_sizes(engine(), {})), defaults={})
    numbers = {
        mode: usual.timing({"performance_mode": mode} if mode else {}).step.numbers.tolist()
        for mode in (None, "balanced", "throughput", "interactivity")
    }
    assert numbers[None] == numbers["balanced"] == numbers["throughput"] != numbers["interactivity"]
    assert usual.ignored({"performance_mode": "interactivity"}) == []
    made = replace(usual, defaults={"performance_mode": "interactivity"})
    assert made.timing({"performance_mode": "interactivity"}).step.numbers.tolist() == numbers[None], "its own sizes"


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


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_num_batched_tokens": 12},
        {"max_num_batched_tokens": 4},  # which would leave no size to capture
        {"gpu_memory_utilization": 0.8},
    ],
)
def test_without_graphs_steps_are_not_predicted_to_be_faster_than_with_them(
    profile: Profile, settings: dict[str, Any]
) -> None:
    """What padding costs is known and what the host takes without graphs is not; a line says so."""
    eager = {**settings, "enforce_eager": True}
    same = {} if settings.get("max_num_batched_tokens") == 4 else settings
    assert profile.timing(eager).step.numbers.tolist() == profile.timing(same).step.numbers.tolist()
    assert profile.timing({**eager, "cudagraph_capture_sizes": [1]}).step.numbers.tolist() == (
        profile.timing(same).step.numbers.tolist()
    )
    (told,) = profile.trust(eager)["not_represented"]
    assert told.startswith("enforce_eager=True: profile linear was made with False; its effect on step times")


def test_a_profile_of_an_engine_without_graphs_stays_as_it_is(profile: Profile) -> None:
    step = replace(profile.step, graph_sizes=profile.step.graph_sizes[:0])
    eager = replace(profile, cuda_graphs=False, step=step, defaults={"enforce_eager": True})
    assert eager.timing({"enforce_eager": True}).step.numbers.tolist() == eager.timing().step.numbers.tolist()
    assert eager.timing().step.numbers.tolist() != profile.timing().step.numbers.tolist()


def with_eager(profile: Profile, share: float) -> Profile:
    """Steps of 1 to 64 tokens were measured, those beyond 16 without a graph, for `share` of the least time more."""
    weights, hull = profile.step.weights_s.copy(), profile.step.hull.copy()
    weights[EAGER] = share * weights[CONSTANT]
    hull[..., 0], hull[..., 1] = 1, 1e6
    return replace(profile, step=replace(profile.step, weights_s=weights, hull=hull))


def far(profile: Profile, settings: dict[str, Any]) -> list[int]:
    """Numbers of decodes at which steps are FAR."""
    model, counts = profile.timing(settings).step, (1, 8, 9, 16, 17, 32, 33, 64)
    steps = [totals_of(np.ones(count, np.int64), np.full(count, 9)) for count in counts]
    return [count for count, step in zip(counts, steps, strict=True) if reach_of(model, step) == FAR]


@pytest.mark.parametrize(
    ("settings", "share", "steps", "told"),
    [
        ({}, 0.2, [], None),
        ({"cudagraph_capture_sizes": [4, 16]}, 0.2, [], None),
        ({"cudagraph_capture_sizes": [8]}, 0.2, [9, 16], "from 16 tokens, where profile linear was made, to 8; "),
        ({"cudagraph_capture_sizes": [8, 32]}, 0.2, [17, 32], "cudagraph_capture_sizes up to 16 keep it there"),
        ({"cudagraph_capture_sizes": [8]}, 0.1, [], None),
        ({"max_num_batched_tokens": 8, "max_num_seqs": 8}, 0.2, [9, 16], None),  # where no step has so many
    ],
)
def test_between_an_old_and_a_new_largest_graph_nothing_tells_what_it_is_worth(
    profile: Profile, settings: dict[str, Any], share: float, steps: list[int], told: str | None
) -> None:
    made = with_eager(profile, share)
    assert far(made, settings) == steps
    found = made.trust(settings)["not_represented"]
    assert [told in line for line in found] == [True] if told else not found


def test_fewer_sequences_can_keep_the_largest_graph(profile: Profile) -> None:
    step = replace(with_eager(profile, 0.2).step, graph_sizes=captured_graph_sizes(engine(), {}))
    made = replace(with_eager(profile, 0.2), step=step, defaults={})
    assert made.step.graph_sizes[-1] == 512
    fewer = {"max_num_seqs": 16}
    assert far(made, fewer) == [33, 64]
    (told,) = made.trust(fewer)["not_represented"]
    assert told.startswith("max_num_seqs=16: moves the largest CUDA graph from 512 tokens, where")
    assert told.endswith("max_cudagraph_capture_size=512 keeps it there")
    kept = {**fewer, "max_cudagraph_capture_size": 512}
    assert far(made, kept) == [] and not made.trust(kept)["not_represented"]


@pytest.fixture
def gpt_oss(profile: Profile) -> Profile:
    """An engine that captured up to 1024 tokens, as vLLM has it for gpt-oss, and not up to 512 as for others."""
    sizes = captured_graph_sizes(engine(), {"max_cudagraph_capture_size": 1024})
    made = with_eager(profile, 0.2)
    return replace(made, step=replace(made.step, graph_sizes=sizes), defaults={})


@pytest.mark.parametrize("settings", [{"max_num_batched_tokens": 4096}, {"max_num_seqs": 33}])
def test_a_limit_that_the_engine_has_for_its_model_stays_whatever_the_batch_limits_are(
    gpt_oss: Profile, settings: dict[str, Any]
) -> None:
    assert not gpt_oss.trust(settings)["not_represented"]
    assert gpt_oss.timing(settings).step.numbers.tolist() == gpt_oss.timing().step.numbers.tolist()


def test_sizes_that_vllm_rounded_to_whole_drafts_are_no_limit_of_the_model(gpt_oss: Profile) -> None:
    """adjust_cudagraph_sizes_for_spec_decode, vllm/config/compilation.py: 504 is left of 512."""
    sizes = np.arange(3.0, 505.0, 3.0)
    made = replace(gpt_oss, step=replace(gpt_oss.step, graph_sizes=sizes))
    assert made.graph_sizes({"max_num_seqs": 32})[-1] == 64


def test_graph_sizes_that_are_asked_for_replace_the_limit_of_the_model(gpt_oss: Profile) -> None:
    (told,) = gpt_oss.trust({"max_cudagraph_capture_size": 512})["not_represented"]
    assert "from 1024 tokens" in told and "to 512;" in told
    imported = replace(gpt_oss, defaults={"max_cudagraph_capture_size": 1024})
    (told,) = imported.trust({"cudagraph_capture_sizes": [8, 32]})["not_represented"]
    assert "to 32;" in told


def test_kernel_tables_do_not_tell_what_a_graph_is_worth() -> None:
    """The fit of those of the bundled profile finds next to nothing, so that steps are not FAR."""
    bundled = load_profile("h200-llama-3.1-8b")
    assert far(bundled, {"max_num_seqs": 8}) == []
    (told,) = bundled.trust({"max_num_seqs": 8})["not_represented"]
    assert "from 512 tokens" in told and "to 16; what steps in between wait for the host is not in" in told
    assert not bundled.trust({"max_num_seqs": 256})["not_represented"]


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
for seqs, tokens, drafts, blackwell, largest, mode in json.load(sys.stdin):
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
        performance_mode=mode,
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
        largest, mode = rng.choice([None, 1, 30, 100, 600]), rng.choice(["balanced", "interactivity"])
        cases.append([seqs, tokens, rng.choice([0, 0, 1, 3, 7]), rng.random() < 0.5, largest, mode])
    words = [vllm_python, "-c", VLLMS_OWN]
    done = subprocess.run(words, input=json.dumps(cases), capture_output=True, text=True, check=True, cwd=tmp_path)
    theirs = json.loads(done.stdout.splitlines()[-1])
    for (seqs, tokens, drafts, blackwell, largest, mode), sizes in zip(cases, theirs, strict=True):
        asked = {"speculative_config": drafting(drafts)} if drafts else {}
        resolved = engine(max_num_seqs=seqs, max_num_batched_tokens=tokens, **asked)
        limit = {"performance_mode": mode} | ({} if largest is None else {"max_cudagraph_capture_size": largest})
        ours = captured_graph_sizes(resolved, limit, "b200" if blackwell else "h200")
        assert ours.tolist() == sizes, (seqs, tokens, drafts, blackwell, largest, mode)
