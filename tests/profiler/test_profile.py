"""A profile in use: which engine it describes, what it refuses, what it says of itself."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.profiler.kv_capacity import GIB, KvCapacity
from slotune.profiler.profile import UNLIMITED_BLOCKS, EngineFacts, Profile, linear_profile
from slotune.profiler.profile_folder import write_profile
from slotune.profiler.profile_page import kv_lines
from slotune.profiler.provenance import STEP_RECORDS
from slotune.simulator.engine_config import EngineConfig

Slotune = Callable[..., tuple[int, str, str]]
LINEAR = ("--base-ms", 4, "--prefill-token-ms", 0.04, "--decode-seq-ms", 0.11, "--context-token-ms", 0.00021)

ONE_GIB = int(GIB)


@pytest.fixture
def profile() -> Profile:
    return linear_profile(4e-3, 4e-5, 1.1e-4, 2.1e-7)


def with_memory(profile: Profile) -> Profile:
    kv = KvCapacity(kv_bytes_per_token=131072, total_bytes=20 * GIB, fixed_bytes=16 * GIB)
    return replace(profile, kv=kv, defaults={"max_model_len": 4096, "max_num_seqs": 64, "block_size": 32})


def test_without_knowledge_of_memory_the_cache_has_a_million_blocks_and_says_so(profile: Profile) -> None:
    engine = profile.engine_config({})
    assert engine == EngineConfig(num_gpu_blocks=UNLIMITED_BLOCKS)
    assert (engine.max_num_batched_tokens, engine.max_num_seqs) == (8192, 1024)
    assert "not modelled: 1,048,576 blocks" in profile.provenance and "not from a measurement" in profile.provenance


def test_an_override_sets_the_blocks(profile: Profile) -> None:
    assert profile.engine_config({"num_gpu_blocks_override": 77}).num_gpu_blocks == 77
    assert with_memory(profile).engine_config({"num_gpu_blocks_override": 777}).num_gpu_blocks == 777


def test_memory_makes_the_blocks_and_the_profile_the_defaults(profile: Profile) -> None:
    engine = with_memory(profile).engine_config({"gpu_memory_utilization": 0.9})
    assert engine.num_gpu_blocks == int((18 - 16) * GIB // (32 * 131072))
    assert (engine.max_num_seqs, engine.max_model_len) == (64, 4096)


def test_overrides_of_the_model_s_config_may_let_it_take_more_context(profile: Profile) -> None:
    short = replace(profile, engine=EngineFacts(derived_max_model_len=4096))
    with pytest.raises(InputError, match="max_model_len=8192: the model takes 4096 tokens"):
        short.engine_config({"max_model_len": 8192})
    longer = {"hf_overrides": {"max_position_embeddings": 8192}, "max_model_len": 8192}
    assert short.engine_config(longer).max_model_len == 8192


def test_settings_of_a_mapping_are_read_as_those_of_a_file(profile: Profile) -> None:
    """A misspelt one would otherwise leave the default, and the numbers would be another engine's."""
    for wrong, told in (({"max_num_sqs": 1}, "did you mean max_num_seqs"), ({"max_num_seqs": 1.5}, "takes int")):
        with pytest.raises(InputError, match=told):
            profile.engine_config(wrong)
        with pytest.raises(InputError, match=told):
            profile.timing(wrong)
    known = profile.engine_config({"max-num-seqs": "64", "enable_prefix_caching": "no", "port": 8000})
    assert (known.max_num_seqs, known.enable_prefix_caching) == (64, False)
    numbers = {"max_num_seqs": np.int64(64), "watermark": np.float32(0.25), "enable_prefix_caching": np.bool_(False)}
    known = profile.engine_config(numbers | {"async_scheduling": None})
    assert (known.max_num_seqs, known.watermark, known.async_scheduling) == (64, 0.25, True)
    assert profile.ignored({"max-num-seqs": 8}) == []


def test_a_cache_too_small_for_one_sequence_is_refused(profile: Profile) -> None:
    with pytest.raises(InputError, match="max_model_len=100000: larger than the KV cache"):
        with_memory(profile).engine_config({"max_model_len": 100_000})


def test_an_override_too_small_for_one_sequence_is_refused_where_memory_is_known(profile: Profile) -> None:
    """4096 tokens are 128 blocks of 32, and one more is the null block."""
    assert with_memory(profile).engine_config({"num_gpu_blocks_override": 129}).num_gpu_blocks == 129
    with pytest.raises(InputError, match=r"4096: larger .* 4064 tokens \(num_gpu_blocks_override=128\); raise num_gpu"):
        with_memory(profile).engine_config({"num_gpu_blocks_override": 128})


@pytest.mark.parametrize("share", [0.0, -1.0, 1.01])
def test_more_memory_than_there_is_is_refused(profile: Profile, share: float) -> None:
    with pytest.raises(InputError, match=f"gpu_memory_utilization={share}"):
        profile.engine_config({"gpu_memory_utilization": share})


def test_another_parallelism_needs_another_profile(profile: Profile) -> None:
    with pytest.raises(InputError, match=r"tensor_parallel_size=4: .* holds step times for 1"):
        profile.engine_config({"tensor_parallel_size": 4})
    with pytest.raises(InputError, match=r"pipeline_parallel_size=2: .* holds step times for 1"):
        replace(profile, source=STEP_RECORDS).engine_config({"pipeline_parallel_size": 2})


def test_the_engine_is_cut_over_as_many_gpus_as_the_profiled_one(profile: Profile) -> None:
    facts = EngineFacts(tensor_parallel_size=2, pipeline_parallel_size=4)
    cut = replace(profile, source=STEP_RECORDS, engine=facts)
    engine = cut.engine_config({"max_num_seqs": 8})
    assert (engine.tensor_parallel_size, engine.pipeline_parallel_size) == (2, 4)


@pytest.mark.parametrize("value", [1, 2])
def test_an_argument_that_vllm_dropped_is_said_to_be_dropped_whatever_its_value(value: int) -> None:
    asked = {"max_num_partial_prefills": value}
    with pytest.raises(InputError, match=r"max_num_partial_prefills: was dropped in vLLM 0\.27"):
        linear_profile(1, 0, 0, 0).engine_config(asked)
    older = linear_profile(1, 0, 0, 0, version="0.26.0")
    if value == 1:
        assert older.engine_config(asked)
        return
    with pytest.raises(InputError, match="max_num_partial_prefills=2: vLLM's V1 engine refuses it"):
        older.engine_config(asked)


def test_settings_that_change_nothing_are_told(profile: Profile) -> None:
    asked = {"max_num_seqs": 4, "gpu_memory_utilization": 0.8, "dtype": "bfloat16", "enforce_eager": True, "seed": 1}
    assert profile.ignored(asked) == ["gpu_memory_utilization", "dtype", "enforce_eager", "seed"]
    assert with_memory(profile).ignored(asked | {"kv_cache_memory_bytes": ONE_GIB}) == [
        "dtype",
        "enforce_eager",
        "seed",
    ]
    followed = {"block_size": 32, "max_model_len": 4096, "num_gpu_blocks_override": 900}
    assert profile.ignored(followed | {"kv_cache_memory_bytes": ONE_GIB}) == ["kv_cache_memory_bytes"]
    served = replace(with_memory(profile), cuda_graphs=True, engine=replace(profile.engine, dtype="bfloat16"))
    assert served.ignored(asked) == ["seed"]
    delayed = {"prefill_schedule_interval": 4}
    assert [linear_profile(1, 0, 0, 0, version=one).ignored(delayed) for one in (None, "0.33.0")] == [[*delayed], []]


@pytest.mark.parametrize("given", [True, False])
def test_a_cpu_s_cache_is_not_set_by_the_memory_that_is_asked_for(profile: Profile, given: bool) -> None:
    fixed = KvCapacity(kv_bytes_per_token=1024, kv_cache_memory_bytes=GIB)
    defaults = {"kv_cache_memory_bytes": ONE_GIB} if given else {}
    told = replace(profile, kv=fixed, defaults=defaults).trust({"kv_cache_memory_bytes": 2 * ONE_GIB})[
        "not_represented"
    ]
    assert bool(told) == (not given)


@pytest.mark.parametrize("terms", [(-1e-3, 0, 1e-3, 0), (np.nan, 0, 0, 0), (1e305, 0, 0, 0), (0, 1e-3, 0, 0)])
def test_terms_that_cannot_be_are_refused(terms: tuple[float, float, float, float]) -> None:
    with pytest.raises(InputError):
        linear_profile(*terms)


def test_linear_and_show_on_the_command_line(tmp_path: Path, slotune: Slotune) -> None:
    code, out, _ = slotune("profile", "linear", *LINEAR, "--out", tmp_path / "p")
    assert code == 0 and "not from a measurement" in out
    code, out, _ = slotune("profile", "show", tmp_path / "p", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["source"] == "closed form"
    assert document["baseline_ms"] == {
        "prefill_tokens": pytest.approx(0.04),
        "prefill_context": pytest.approx(0.00021),
        "decode_rows": pytest.approx(0.11),
        "decode_context": pytest.approx(0.00021),
        "constant": pytest.approx(4),
    }
    assert document["trust"]["kv_capacity"] == "not modelled"
    code, out, _ = slotune("profile", "show", tmp_path / "p")
    assert code == 0 and "prefill_tokens 0.04" in out


def test_a_profile_whose_defaults_do_not_fit_is_shown_with_the_reason(
    profile: Profile, tmp_path: Path, slotune: Slotune
) -> None:
    write_profile(replace(with_memory(profile), defaults={"max_model_len": 100_000}), tmp_path / "p")
    told = json.loads(slotune("profile", "show", tmp_path / "p", "--json")[1])
    assert told["num_gpu_blocks"] is None
    assert told["kv"][0].startswith("not with the default settings: max_model_len=100000: larger than the KV cache")
    code, out, _ = slotune("profile", "show", tmp_path / "p")
    assert code == 0 and f"KV cache: {told['kv'][0]}" in out


def test_a_cache_that_a_checkpoint_asks_for_in_fewer_bits_is_told(profile: Profile) -> None:
    """It holds twice as much, and of two checkpoints of a model one may have it."""
    own = with_memory(profile)
    assert own.kv is not None
    halved = replace(own, kv=replace(own.kv, element_bytes=1.0))
    line = "kv_cache_dtype=auto takes 1 byte a value, as the checkpoint asks"
    assert line in kv_lines(halved) and line not in kv_lines(own)


def test_defaults_are_refused_for_the_sake_of_what_was_given_alone(profile: Profile) -> None:
    fits, too_long = (
        replace(with_memory(profile), defaults={"max_model_len": most, "num_gpu_blocks_override": 3, "max_num_seqs": 8})
        for most in (4096, 100_000)
    )
    with pytest.raises(InputError, match=r"larger than the KV cache of 32 tokens \(num_gpu_blocks_override=3\)"):
        fits.check_given({"num_gpu_blocks_override": 3})
    too_long.check_given({"max_num_seqs": 8})


@pytest.mark.parametrize(("copies", "refused"), [(1, False), (2, True)])
def test_copies_of_the_engine_are_not_simulated_as_one(profile: Profile, copies: int, refused: bool) -> None:
    once = {"data_parallel_size": 1, "data_parallel_size_local": 1, "prefill_context_parallel_size": 1}
    assert profile.trust(once)["not_represented"] == []
    told = "data_parallel_size=2: of a dense model each .* of a mixture of experts they step together"
    with pytest.raises(InputError, match=told) if refused else nullcontext():
        profile.engine_config({"data_parallel_size": copies})
    with pytest.raises(InputError, match="data_parallel_size_local=2: is 1") if refused else nullcontext():
        profile.engine_config({"data_parallel_size_local": copies})


def test_more_blocks_than_there_is_memory_for_are_told(profile: Profile) -> None:
    """vLLM takes an override at its word, and runs out of memory."""
    known = with_memory(profile)
    fits = known.engine_config({}).num_gpu_blocks
    assert known.trust({"num_gpu_blocks_override": fits})["not_represented"] == []
    (told,) = known.trust({"num_gpu_blocks_override": 10 * fits})["not_represented"]
    assert f"num_gpu_blocks_override={10 * fits}: takes" in told


@pytest.mark.parametrize("facts", [{"cuda_graphs": True}, {"engine": EngineFacts(driver="570.86")}])
def test_blocks_that_no_attention_kernel_for_gpus_reads_are_refused(facts: dict[str, Any]) -> None:
    made = replace(linear_profile(1e-3, 1e-6, 1e-6, 0), **facts)
    with pytest.raises(InputError, match="block_size=8: attention kernels for GPUs read multiples of 16 tokens"):
        made.engine_config({"block_size": 8})
    assert made.engine_config({"block_size": 48}).block_size == 48
    assert replace(made, defaults={"block_size": 1}).engine_config({}).block_size == 1, "an engine ran with it"
    assert replace(made, cuda_graphs=False, engine=EngineFacts()).engine_config({"block_size": 8}).block_size == 8
