"""Which settings a profile's numbers know nothing of, and which schedules are not simulated."""

import re
from dataclasses import replace

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.profiler.kv_capacity import GIB, KvCapacity
from slotune.profiler.profile import Profile, linear_profile
from slotune.profiler.profile_folder import load_profile
from slotune.simulator.speculation import assume_acceptance


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_num_seqs": 64, "gpu_memory_utilization": 0.8, "cudagraph_capture_sizes": [8]}, []),
        ({"dtype": "bfloat16", "kv_cache_dtype": "auto", "async_scheduling": True, "enforce_eager": False}, []),
        ({"seed": 3, "served_model_name": "m", "quantization": None, "enable_lora": False}, []),
        ({"optimization_level": 2, "disable_cascade_attn": True, "enable_flashinfer_autotune": True}, []),
        ({"data_parallel_address": "10.0.0.5", "data_parallel_rpc_port": 29550, "data_parallel_size_local": 1}, []),
        ({"limit_mm_per_prompt": {}, "hf_overrides": {}, "structured_outputs_config": {}, "logits_processors": []}, []),
        ({"max_loras": 4, "max_cpu_loras": 1, "fully_sharded_loras": True}, []),
        ({"enable_sleep_mode": True}, ["enable_sleep_mode=True: profile mine was made without it;"]),
        ({"enable_cumem_allocator": True}, ["enable_cumem_allocator=True: profile mine was made without it;"]),
        (
            {"enable_flashinfer_autotune": False},
            ["enable_flashinfer_autotune=False: profile mine was made without it;"],
        ),
        ({"optimization_level": 0}, ["optimization_level=0: profile mine was made without it;"]),
        ({"dtype": "float16"}, ["dtype=float16: profile mine was made with bfloat16;"]),
        ({"quantization": "fp8"}, ["quantization=fp8: profile mine was made without it;"]),
        ({"async_scheduling": False}, ["async_scheduling=False: profile mine was made with True;"]),
        ({"enforce_eager": True}, ["enforce_eager=True: profile mine was made with False;"]),
        ({"kv_cache_dtype": "fp8"}, ["kv_cache_dtype=fp8: profile mine was made with auto;"]),
        (
            {"speculative_config": {"method": "ngram", "rejection_sample_method": "synthetic"}},
            ["speculative_config={'method': 'ngram'}: profile mine was made without it;"],
        ),
        ({"attention_backend": "FLASHINFER"}, ["attention_backend=FLASHINFER: profile mine was made without it;"]),
    ],
)
def test_a_setting_whose_effect_was_not_measured_is_named(
    measured: Profile, settings: dict[str, object], told: list[str]
) -> None:
    found = measured.trust(settings)["not_represented"]
    assert [re.split(" its effect| what drafting takes", text)[0] for text in found] == told


@pytest.mark.parametrize(("method", "told"), [("ngram", True), ("ngram_gpu", False), ("eagle", False)])
def test_of_ngram_a_match_at_every_decode_is_told_to_be_assumed(measured: Profile, method: str, told: bool) -> None:
    config = assume_acceptance({"method": method, "num_speculative_tokens": 1}, "0.5")
    (line,) = measured.trust({"speculative_config": config})["not_represented"]
    assert ("of ngram a match at every decode is taken for granted" in line) == told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"dtype": "bfloat16"}, None),
        ({"dtype": "auto", "kv_cache_dtype": "auto"}, None),
        ({"kv_cache_dtype": "bfloat16"}, None),
        ({"data_parallel_size": 1}, None),
        ({"dtype": "float16"}, "dtype=float16: profile h200-llama-3.1-8b was made with bfloat16;"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype=fp8: profile h200-llama-3.1-8b was made with bfloat16;"),
    ],
)
def test_what_kernel_tables_hold_may_be_asked_for(settings: dict[str, object], told: str | None) -> None:
    bundled = load_profile("h200-llama-3.1-8b")
    found = bundled.trust(settings)["not_represented"]
    assert [line.split(" its effect")[0] for line in found] == ([told] if told else [])
    if told is None and "auto" not in settings.values():
        assert bundled.ignored(settings) == []


@pytest.mark.parametrize("settings", [{"dtype": "auto"}, {"quantization": None}, {"attention_backend": None}])
def test_what_a_measured_engine_chose_itself_may_be_left_to_it(measured: Profile, settings: dict[str, object]) -> None:
    engine = replace(measured.engine, quantization="fp8", attention_backend="FLASH_ATTN")
    assert replace(measured, engine=engine).trust(settings)["not_represented"] == []
    given = replace(measured, engine=engine, defaults=dict.fromkeys(settings, "other"))
    assert len(given.trust(settings)["not_represented"]) == 1


@pytest.mark.parametrize(
    ("name", "made", "asked"),
    [("kv_cache_dtype", "fp8", "fp8_e4m3"), ("kv_cache_dtype", "fp8_e4m3", "fp8"), ("dtype", "float16", "half")],
)
def test_another_name_of_the_same_number_format_is_the_same(
    measured: Profile, name: str, made: str, asked: str
) -> None:
    profile = replace(measured, engine=replace(measured.engine, **{name: made}))
    assert profile.trust({name: asked})["not_represented"] == [] and profile.ignored({name: asked}) == []


def test_a_number_format_is_told_under_the_name_that_was_asked_for(measured: Profile) -> None:
    (told,) = measured.trust({"kv_cache_dtype": "fp8_e4m3"})["not_represented"]
    assert told.startswith("kv_cache_dtype=fp8_e4m3: profile mine was made with auto;")


@pytest.mark.parametrize(
    ("made", "settings", "told"),
    [
        ({}, {}, "its default of max_num_batched_tokens and max_num_seqs then"),
        ({"max_num_seqs": 64}, {"max_num_batched_tokens": 4096}, "its default of max_num_seqs then"),
        ({}, {"max_num_batched_tokens": 4096, "max_num_seqs": 64}, None),
        ({"performance_mode": "throughput", "max_num_batched_tokens": 4096, "max_num_seqs": 64}, {}, None),
        ({"performance_mode": "throughput"}, {}, "its default of max_num_batched_tokens and max_num_seqs then"),
        ({}, {"performance_mode": "interactivity"}, None),
        ({}, {"performance_mode": "balanced"}, None),
    ],
)
def test_throughput_mode_is_told_to_double_the_batch_limits_that_nobody_gives(
    measured: Profile, made: dict[str, object], settings: dict[str, object], told: str | None
) -> None:
    asked = {"performance_mode": "throughput", **settings}
    found = replace(measured, defaults=made).trust(asked)["not_represented"]
    assert [told in line for line in found] == [True] if told else not found


def test_a_performance_mode_that_vllm_lacks_is_refused(measured: Profile) -> None:
    with pytest.raises(InputError, match="performance_mode=fast: must be one of balanced, interactivity, throughput"):
        measured.engine_config({"performance_mode": "fast"})


@pytest.mark.parametrize(("name", "value"), [("runner", "pooling"), ("convert", "embed"), ("convert", "classify")])
def test_an_engine_that_generates_nothing_is_refused(measured: Profile, name: str, value: str) -> None:
    told = f"^{name}={value}: such an engine generates no text for requests, which is not simulated; leave"
    with pytest.raises(InputError, match=told):
        measured.engine_config({name: value})
    with pytest.raises(InputError, match=told):
        replace(measured, defaults={name: value})


@pytest.mark.parametrize("settings", [{"runner": "auto", "convert": "auto"}, {"runner": "generate", "convert": "none"}])
def test_an_engine_that_is_told_to_generate_is_any_engine(measured: Profile, settings: dict[str, object]) -> None:
    assert measured.engine_config(settings) == measured.engine_config({})
    assert measured.trust(settings)["not_represented"] == []


def test_async_scheduling_is_not_said_to_take_memory(measured: Profile) -> None:
    (told,) = measured.trust({"async_scheduling": False})["not_represented"]
    assert told.endswith("with True; its effect on step times is not in these numbers")


@pytest.mark.parametrize(
    ("method", "told"),
    [("eagle3", True), ("draft_model", True), ("mtp", False), ("ngram", False), ("ngram_gpu", False)],
)
def test_of_a_drafter_that_is_a_model_its_own_context_is_told_to_be_left_out(
    measured: Profile, method: str, told: bool
) -> None:
    config = assume_acceptance({"method": method, "num_speculative_tokens": 1}, "0.5")
    (line,) = measured.trust({"speculative_config": config})["not_represented"]
    assert ("past the drafter's own context (max_position_embeddings of its config" in line) == told


def test_a_context_of_the_drafter_is_told_where_that_of_the_engine_is_not_known() -> None:
    config = assume_acceptance({"method": "eagle", "num_speculative_tokens": 1, "max_model_len": 2048}, "0.5")
    formula, drafts = linear_profile(4e-3, 4e-5, 1e-4, 2e-7), {"speculative_config": config}
    (told,) = formula.trust(drafts)["not_represented"]
    assert told.startswith("speculative_config: max_model_len=2048: vLLM stops drafting, or fails, for requests that")
    assert formula.trust({**drafts, "max_model_len": 2048})["not_represented"] == []


@pytest.mark.parametrize(("value", "known"), [("fp8", True), ("nvfp4", False)])
def test_memory_that_is_in_the_numbers_is_not_told_to_be_missing(measured: Profile, value: str, known: bool) -> None:
    modelled = replace(measured, kv=KvCapacity(131072, kv_cache_memory_bytes=8.0 * GIB))
    (told,) = modelled.trust({"kv_cache_dtype": value})["not_represented"]
    assert told.endswith("effect on step times is not in these numbers") == known
    assert told.endswith("effect on step times and on memory is not in these numbers") != known
    (told,) = measured.trust({"kv_cache_dtype": value})["not_represented"]
    assert "and on memory" in told


@pytest.mark.parametrize(
    ("tokens", "settings", "told"),
    [
        ((1, 400), {"max_num_seqs": 64}, "without any step beyond its own"),
        ((1, 400), {"max_num_seqs": 64, "max_num_batched_tokens": 128}, None),
        ((1, 600), {"max_num_seqs": 64}, None),
        ((1, 400), {"max_num_seqs": 512}, None),
        ((1, 400), {"cudagraph_capture_sizes": [1024]}, None),
        ((600, 900), {"cudagraph_capture_sizes": [1024]}, "more tokens than that of profile mine (512)"),
        ((1, 400), {"cudagraph_capture_sizes": [0]}, None),
    ],
)
def test_steps_on_a_side_of_the_largest_graph_that_was_not_measured_are_told(
    measured: Profile, tokens: tuple[float, float], settings: dict[str, object], told: str | None
) -> None:
    hull = measured.step.hull.copy()
    hull[:, 0] = tokens
    profile = replace(measured, step=replace(measured.step, graph_sizes=np.array([8.0, 512.0]), hull=hull))
    found = profile.trust(settings)["not_represented"]
    assert [told in text for text in found] == [True] if told else not found
    both_sides = load_profile("h200-llama-3.1-8b").trust(settings)["not_represented"]
    assert all("what steps in between wait for the host is not in these numbers" in text for text in both_sides)


@pytest.mark.parametrize(
    ("decodes", "prefills", "settings"),
    [
        ((1, 400), (1, 600), {"max_num_seqs": 64}),  # some steps were beyond its largest graph
        ((600, 900), (1, 900), {"cudagraph_capture_sizes": [1024]}),  # and some within
        ((600, 900), (600, 900), {"cudagraph_capture_sizes": [1024], "max_num_batched_tokens": 512}),  # none so large
    ],
)
def test_a_side_of_the_largest_graph_that_any_kind_of_step_was_on_is_known(
    measured: Profile, decodes: tuple[float, float], prefills: tuple[float, float], settings: dict[str, object]
) -> None:
    hull = measured.step.hull.copy()
    hull[0, 0], hull[1:, 0] = decodes, prefills
    profile = replace(measured, step=replace(measured.step, graph_sizes=np.array([8.0, 512.0]), hull=hull))
    assert profile.trust(settings)["not_represented"] == []


def test_the_same_is_said_once_for_many_configurations(measured: Profile) -> None:
    found = measured.trust({"dtype": "float16"}, {"dtype": "float16", "max_num_seqs": 8}, {"dtype": "bfloat16"})
    assert len(found["not_represented"]) == 1


def test_a_formula_stands_for_any_schedule() -> None:
    assert linear_profile(4e-3, 4e-5, 1e-4, 2e-7).trust({"async_scheduling": False})["not_represented"] == []


def test_a_schedule_that_is_not_simulated_is_named_also_where_the_profile_was_made_with_it(measured: Profile) -> None:
    made = replace(measured, defaults={"decode_context_parallel_size": 2, "performance_mode": "balanced"})
    assert made.trust({})["not_represented"] == [
        "decode_context_parallel_size=2: vLLM then schedules by other rules, which are not simulated"
    ]
    (told,) = measured.trust({"scheduler_cls": "mine", "prefill_schedule_interval": 1})["not_represented"]
    assert told.startswith("scheduler_cls=mine: vLLM then schedules by other rules")


@pytest.mark.parametrize(
    ("name", "value", "changes"),
    [
        ("generation_config", "folder", "how tokens are sampled and may cut answers"),
        ("generation_config", "vllm", "how tokens are sampled"),
        ("override_generation_config", {"max_new_tokens": 4}, "how tokens are sampled and may cut answers"),
        ("override_generation_config", {"temperature": 0}, "how tokens are sampled"),
    ],
)
def test_a_way_of_sampling_and_what_may_cut_answers_are_told(
    measured: Profile, name: str, value: object, changes: str
) -> None:
    assert measured.trust({name: value})["not_represented"] == [
        f"{name}={value}: profile mine was made without it; it changes {changes}, which is not in these numbers"
    ]
    assert measured.trust({"generation_config": "auto"})["not_represented"] == []


ADAPTERS = (
    "enable_lora=True: requests of adapters are neither measured nor simulated (slower steps, at most max_loras "
    "adapters in a batch, a prefix cache for each)"
)


def test_adapters_are_told_not_to_be_simulated_also_where_the_profile_was_made_with_them(measured: Profile) -> None:
    made = replace(measured, defaults={"enable_lora": True, "max_loras": 2})
    for settings in ({}, {"enable_lora": True}):
        assert made.trust(settings)["not_represented"] == [ADAPTERS]
    assert measured.trust({"enable_lora": True})["not_represented"] == [
        f"{ADAPTERS}; profile mine was made without it; its effect on step times and on memory is not in these numbers"
    ]
    assert made.trust({"max_loras": 4})["not_represented"] == [
        ADAPTERS,
        "max_loras=4: profile mine was made with 2; its effect on step times and on memory is not in these numbers",
    ]
    (told,) = made.trust({"enable_lora": False})["not_represented"]
    assert told.startswith("enable_lora=False: profile mine was made with True; its effect on step times")


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("disable_chunked_mm_input", True, "requests with images are then scheduled otherwise, which is not simulated"),
        ("structured_outputs_config", {"backend": "xgrammar"}, "requests for structured output wait for their grammar"),
        ("diffusion_config", {"canvas_length": 32}, "vLLM then schedules by other rules, which are not simulated"),
    ],
)
def test_requests_that_a_setting_is_for_are_told_to_be_scheduled_otherwise(
    measured: Profile, setting: str, value: object, told: str
) -> None:
    for profile in (measured, replace(measured, defaults={setting: value})):
        (line,) = profile.trust({setting: value})["not_represented"]
        assert line.startswith(f"{setting}={value}: {told}")


def test_layers_of_several_kinds_are_told_to_look_prefixes_up_in_other_blocks() -> None:
    plain = load_profile("h200-llama-3.1-8b")
    mixed = replace(plain, model_parts=("layers of several kinds",))
    (told,) = mixed.trust({"block_size": 32})["not_represented"]
    assert told.startswith("layers of several kinds: prefixes are looked up in blocks of 32 tokens; with Mamba")
    assert "--engine block_size=N" in told and "cuts every prompt at their edges, which is not simulated" in told
    assert mixed.trust({"enable_prefix_caching": False})["not_represented"] == []
    assert plain.trust({"block_size": 32})["not_represented"] == []


@pytest.mark.parametrize(
    ("method", "drafts", "version", "told"),
    [
        ("mtp", 2, None, True),
        ("mtp", 1, None, False),
        ("mtp", 2, "0.27.1", False),
        ("mtp", 2, "0.28.0", True),
        ("eagle", 2, None, False),
    ],
)
def test_mtp_with_several_drafts_is_told_to_cut_prompts_otherwise_in_some_models(
    method: str, drafts: int, version: str | None, told: bool
) -> None:
    config = assume_acceptance({"method": method, "num_speculative_tokens": drafts}, "0.5")
    formula = linear_profile(4e-3, 4e-5, 1e-4, 2e-7, version=version)
    found = formula.trust({"speculative_config": config})["not_represented"]
    assert any(line.startswith("models with several MTP modules schedule prompts otherwise") for line in found) == told


@pytest.mark.parametrize(
    ("version", "told"),
    [("0.22.9", False), ("0.23.0", True), ("v0.28.1", True), ("0.29.0", False), (None, False)],
)
def test_pipeline_stages_of_the_older_runner_are_told_of_the_versions_that_have_two(
    version: str | None, told: bool
) -> None:
    formula = linear_profile(4e-3, 4e-5, 1e-4, 2e-7, version=version)
    asked = {"pipeline_parallel_size": 2, "async_scheduling": True}
    line = (
        f"pipeline_parallel_size=2: vLLM {version} schedules otherwise for models that it runs with its older model "
        "runner (VLLM_USE_V2_MODEL_RUNNER=0), which is not simulated"
    )
    assert (line in formula.trust(asked)["not_represented"]) == told
    for other in ({"pipeline_parallel_size": 1}, {"async_scheduling": False}):
        assert not any("older model" in one for one in formula.trust(asked | other)["not_represented"])
