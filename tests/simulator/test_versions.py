"""Each rule holds from the version on that brought it, and the version is the profile's."""

import json
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.profiler.graph_sizes import captured_graph_sizes
from slotune.profiler.profile import linear_profile
from slotune.simulator.engine_config import EngineConfig, resolve
from slotune.simulator.misses import reasons
from slotune.simulator.rules import rules_of
from slotune.simulator.versions import (
    ASSUMED,
    NEWEST,
    OLDEST,
    VersionRules,
    argument_versions,
    check_settings,
    numbers_of,
    rules_for,
    version_note,
)
from slotune.tests.oracle.simulated import run_slotune
from slotune.tests.simulator.runs import Setup, make_trace, run

DRAFTING = {
    "method": "eagle",
    "num_speculative_tokens": 3,
    "rejection_sample_method": "synthetic",
    "synthetic_acceptance_rates": [0.5, 0.25, 0.1],
}
DRAFT_MODEL = {
    "method": "draft_model",
    "num_speculative_tokens": 2,
    "rejection_sample_method": "synthetic",
    "synthetic_acceptance_rates": [0.5, 0.25],
}
LINEAR = ("--base-ms", 4, "--prefill-token-ms", 0.04, "--decode-seq-ms", 0.11, "--context-token-ms", 0.00021)


def version(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]}.{numbers[1]}.0"


@pytest.mark.parametrize("rule", fields(VersionRules), ids=lambda rule: rule.name)
def test_a_rule_holds_from_its_version_on(rule) -> None:
    brought = numbers_of(rule.metadata["since"])
    assert OLDEST < brought <= NEWEST
    held = [getattr(rules_for(version((0, minor))), rule.name) for minor in range(OLDEST[1], NEWEST[1] + 1)]
    assert held == [(0, minor) >= brought for minor in range(OLDEST[1], NEWEST[1] + 1)]


def test_outside_of_what_is_known_the_nearest_rules_hold_and_a_note_says_so() -> None:
    assert rules_for("0.40.1") == rules_for("1.0") == rules_for(version(NEWEST)) != VersionRules()
    assert rules_for(None) == rules_for("dev") == rules_for(version(ASSUMED)) == VersionRules()
    assert rules_for("0.19.2") == rules_for("0.20.0") != rules_for("0.21.0")
    assert [version_note(one) for one in (None, "dev", "0.20.0", "0.33.0+cpu")] == [None] * 4
    assert version_note("0.19.2") == "vLLM 0.19.2 is older than what slotune knows: scheduled by the rules of 0.20"
    assert version_note("0.34.0") == "vLLM 0.34.0 is newer than what slotune knows: scheduled by the rules of 0.33"
    assert "0.34.0 is newer" in linear_profile(1, 0, 0, 0, version="0.34.0").trust()["notes"][-1]


@pytest.mark.parametrize("text", ["0.25.1", "v0.25.0", "0.25", "0.25.1.dev3+g1a2b3c", "0.25.1+cpu"])
def test_any_spelling_of_a_version(text: str) -> None:
    assert rules_for(text) == rules_for("0.25.0")


def test_settings_that_the_version_does_not_have_are_refused() -> None:
    brought = {"watermark": "0.24", "max_num_scheduled_tokens": "0.26", "max_num_queued_reqs": "0.29"}
    brought |= {"max_num_active_seqs": "0.31", "long_prefill_token_threshold_adaptive": "0.31"}
    assert {name: argument_versions()[name] for name in brought} == {
        name: (since, None) for name, since in brought.items()
    }
    for name, since in brought.items():
        before = f"0.{int(since[2:]) - 1}.0"
        with pytest.raises(
            InputError, match=f"{name}: came with vLLM {since}, and the profile's engine is vLLM {before}"
        ):
            linear_profile(1, 0, 0, 0, version=before).engine_config({name: True if "adaptive" in name else 1})
        check_settings({name: 1}, f"{since}.0")
        check_settings({name: 1}, None)
    with pytest.raises(InputError, match=r"monokernel: came with vLLM 0.33, and .* is vLLM 0.32, where it names none"):
        check_settings({"monokernel": True}, None)
    with pytest.raises(InputError, match=r"kv_cache_dtype=octave_k3v4: came with vLLM 0.33"):
        check_settings({"kv_cache_dtype": "octave_k3v4"}, "0.32.0")
    check_settings({"kv_cache_dtype": "octave_k3v4"}, "0.33.0")
    assert resolve({"max_num_seqs": 3}, {}, 100, "0.20.0").vllm_version == "0.20.0"


def test_settings_that_later_versions_dropped_are_taken_until_then() -> None:
    lived = {name: argument_versions()[name] for name in ("max_num_partial_prefills", "enable_bf16x3_router_gemm")}
    assert lived == {"max_num_partial_prefills": (None, "0.27"), "enable_bf16x3_router_gemm": ("0.26", "0.30")}
    profile = linear_profile(1, 0, 0, 0, version="0.26.0")
    assert profile.engine_config({"max_num_partial_prefills": 1}).max_num_seqs == 1024
    with pytest.raises(InputError, match="max_num_partial_prefills=2: vLLM's V1 engine refuses it"):
        profile.engine_config({"max_num_partial_prefills": 2})
    with pytest.raises(InputError, match=r"max_num_partial_prefills: was dropped in vLLM 0\.27, and .* vLLM 0\.27\.1"):
        check_settings({"max_num_partial_prefills": 1}, "0.27.1")


def test_a_threshold_beyond_the_model_was_taken_before_0_27() -> None:
    settings = {"long_prefill_token_threshold": 5000, "max_model_len": 4096}
    assert resolve(settings, {}, 1000, "0.26.0").long_prefill_token_threshold == 5000
    with pytest.raises(InputError, match="must lie between 0 and max_model_len"):
        resolve(settings, {}, 1000, "0.27.0")


def test_draft_slots_were_reserved_for_every_seat_before_0_28() -> None:
    settings = {"speculative_config": DRAFT_MODEL, "max_num_batched_tokens": 100, "max_num_seqs": 40}
    old, new = (resolve(settings, {}, 1000, one) for one in ("0.27.1", "0.28.0"))
    assert (old.token_budget, new.token_budget) == (60, 100)
    assert [rules_of(one)[0].draft_slots for one in (old, new)] == [0, 1]
    with pytest.raises(InputError, match="above the 1 draft slots a request of speculative_config, for 100 requests"):
        resolve(settings | {"max_num_seqs": 100}, {}, 1000, "0.27.1")


def test_async_scheduling_was_off_by_default_beside_a_draft_model_before_0_28() -> None:
    settings = {"speculative_config": DRAFT_MODEL}
    assert not resolve(settings, {}, 1000, "0.27.1").async_scheduling
    assert not resolve(settings, {"async_scheduling": True}, 1000, "0.27.1").async_scheduling
    assert resolve({}, settings | {"async_scheduling": True}, 1000, "0.27.1").async_scheduling
    assert resolve(settings | {"async_scheduling": True}, {}, 1000, "0.27.1").async_scheduling
    assert resolve(settings, {}, 1000, "0.28.0").async_scheduling


def test_drafts_by_the_rules_of_0_33() -> None:
    """Methods and keys, async scheduling with ngram, blocks found that need no computing again, DFlash's rows."""

    def engine(method: str, vllm: str, **more) -> EngineConfig:
        config = DRAFT_MODEL | {"method": method} | more
        return resolve({"speculative_config": config, "max_num_batched_tokens": 32}, {}, 1000, vllm)

    def last_hit(*args: str, **more: bool) -> tuple[int, int]:
        rules = rules_of(engine(*args, **more))[0]
        return rules.drops_last_hit, rules.hash_lookahead

    assert [engine("ngram", vllm).async_scheduling for vllm in ("0.32.0", "0.33.0")] == [False, True]
    assert engine("medusa", "0.32.0").speculative_config is not None
    with pytest.raises(InputError, match=r"vLLM has no method medusa since 0\.33"):
        engine("medusa", "0.33.0")
    assert [last_hit("eagle", vllm) for vllm in ("0.32.0", "0.33.0")] == [(1, 0), (0, 1)]
    assert [last_hit("dflash", vllm) for vllm in ("0.32.0", "0.33.0")] == [(1, 0), (0, 0)]
    with pytest.raises(InputError, match=r"disable_lookahead_block_hashes came with vLLM 0\.33"):
        engine("eagle", "0.32.0", disable_lookahead_block_hashes=True)
    assert last_hit("eagle", "0.33.0", disable_lookahead_block_hashes=True) == (1, 0)
    assert last_hit("eagle", "0.33.0", disable_eagle_block_drop=True) == (0, 0)
    assert [engine("dflash", vllm).most_active_seqs for vllm in ("0.32.0", "0.33.0")] == [32, 10]
    assert [rules_of(engine("dflash", vllm))[0].draft_slots for vllm in ("0.32.0", "0.33.0")] == [2, 0]


@pytest.mark.parametrize(
    ("vllm", "stages", "depth", "stagger"),
    [("0.22.1", 1, 2, 1), ("0.22.1", 3, 3, 0), ("0.23.0", 1, 2, 1), ("0.23.0", 3, 4, 3)],
)
def test_async_scheduling_over_stages_came_with_0_23(vllm: str, stages: int, depth: int, stagger: int) -> None:
    rules = rules_of(EngineConfig(num_gpu_blocks=100, pipeline_parallel_size=stages, vllm_version=vllm))[0]
    assert (rules.asynchronous, rules.depth, rules.decode_stagger) == (1, depth, stagger)


def test_captured_graphs_follow_the_version() -> None:
    def sizes(vllm: str, **settings: Any) -> set[float]:
        fits = {"max_num_batched_tokens": 90, "max_num_seqs": 50} | settings
        return set(captured_graph_sizes(resolve(fits, {}, 100, vllm), {}))

    assert sizes("0.21.0") - sizes("0.20.2") == {90.0}
    assert sizes("0.31.0") - sizes("0.30.0") == {50.0}
    drafts = {"max_num_batched_tokens": 511, "max_num_seqs": 17, "speculative_config": DRAFTING}
    assert sizes("0.29.0", **drafts) - sizes("0.28.0", **drafts) == {68.0}


@pytest.mark.parametrize(
    ("vllm", "settings", "told"),
    [
        ("0.27.1", {"max_num_batched_tokens": 100, "max_num_scheduled_tokens": 200, "max_num_seqs": 8}, "=200 in vLLM"),
        ("0.27.1", {"max_num_scheduled_tokens": 8192, "max_num_seqs": 64}, None),
        ("0.28.0", {"max_num_batched_tokens": 100, "max_num_scheduled_tokens": 200, "max_num_seqs": 8}, None),
    ],
)
def test_before_0_28_a_step_must_hold_what_may_be_scheduled(
    vllm: str, settings: dict[str, int], told: str | None
) -> None:
    with pytest.raises(InputError, match=told) if told else nullcontext():
        resolve(settings, {}, 100, vllm)


def test_before_0_28_it_must_hold_the_places_of_a_draft_model_too() -> None:
    asked = {"max_num_batched_tokens": 512, "max_num_scheduled_tokens": 512, "max_num_seqs": 64}
    with pytest.raises(InputError, match="and the 64 draft slots"):
        resolve({**asked, "speculative_config": DRAFT_MODEL}, {}, 100, "0.27.1")
    resolve({**asked, "speculative_config": DRAFT_MODEL}, {}, 100, "0.28.0")


@pytest.mark.parametrize(
    ("name", "since"), [("draft_sample_method", "0.21"), ("disable_eagle_block_drop", "0.30"), ("xpress_topc", "0.33")]
)
def test_keys_of_speculative_config_came_with_their_versions(name: str, since: str) -> None:
    asked = {"speculative_config": DRAFTING | {name: 1}}
    before = f"0.{int(since.partition('.')[2]) - 1}.0"
    with pytest.raises(InputError, match=f"{name} came with vLLM {since}"):
        resolve(asked, {}, 100, before)
    resolve(asked, {}, 100, f"{since}.0")


def test_the_version_comes_from_the_profile(tmp_path: Path) -> None:
    """A prompt of 100 tokens and a threshold of 30: in one step since 0.31, as nothing else waits; before, in four."""
    (tmp_path / "trace.jsonl").write_text('{"timestamp": 0, "input_length": 100, "output_length": 1}\n')
    settings = ("--engine", "long_prefill_token_threshold=30")

    def simulated(vllm: str) -> tuple[str, list[int]]:
        run_slotune("profile", "linear", *LINEAR, "--vllm-version", vllm, "--out", tmp_path / vllm)
        inputs = ("--profile", tmp_path / vllm, "--trace", tmp_path / "trace.jsonl", *settings)
        said = json.loads(run_slotune("simulate", *inputs, "--steps-out", tmp_path / "steps.jsonl", "--json"))
        steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
        assert said["profile"]["engine"]["version"] == vllm
        return said["engine"]["vllm_version"], [step["rows"][0][1] for step in steps]

    assert simulated("0.30.0") == ("0.30.0", [30, 30, 30, 10])
    assert simulated("0.31.0") == ("0.31.0", [100])


@pytest.mark.parametrize(("vllm", "answered"), [("0.31.0", [10]), ("0.32.0", [10, 10])])
def test_an_answer_longer_than_the_model_was_refused_before_0_32(vllm: str, answered: list[int]) -> None:
    engine = EngineConfig(num_gpu_blocks=100, max_model_len=110, vllm_version=vllm)
    made = run(Setup(make_trace([0.0, 0.0], [100, 100], [10, 20]), engine))
    requests, asked = made.result.requests, np.array([10, 20])
    assert requests.output_tokens[requests.finished].tolist() == answered
    told = reasons(requests, asked, engine, "vllm-v1")
    assert (
        told == ["1 have more than max_model_len=110 tokens, prompt and requested answer together"][: 2 - len(answered)]
    )


def test_a_word_that_is_no_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="'latest' is not a version"):
        run_slotune("profile", "linear", *LINEAR, "--vllm-version", "latest", "--out", tmp_path / "profile")
