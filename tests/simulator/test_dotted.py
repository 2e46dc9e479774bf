"""Settings named in parts, alone and in short, as vLLM's own parser (0.32) takes them."""

from pathlib import Path

import pytest

from slotune.errors import InputError
from slotune.simulator.settings import parse_settings
from slotune.tuner.screen import read_configurations


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "engine.yaml"


def test_parts_in_a_file_make_one_setting(file: Path) -> None:
    file.write_text(
        "compilation-config.pass_config.fuse_norm_quant: 'true'\nmax-num-seqs: 8\nlimit-mm-per-prompt.image: 0\n"
        "compilation-config.cudagraph_mode: FULL\ncompilation_config.max_cudagraph_capture_size: 1k\n"
        "compilation-config.cudagraph_capture_sizes+: 1,2\n"
    )
    assert parse_settings([], file) == {
        "max_num_seqs": 8,
        "compilation_config": {
            "pass_config": {"fuse_norm_quant": True},
            "cudagraph_mode": "FULL",
            "max_cudagraph_capture_size": 1000,
            "cudagraph_capture_sizes": ["1", "2"],
        },
        "limit_mm_per_prompt": {"image": 0},
    }


def test_parts_on_the_command_line_join_those_of_the_file(file: Path) -> None:
    file.write_text("speculative-config.method: ngram\nspeculative-config.num_speculative_tokens: 2\n")
    told = parse_settings(["speculative-config.num_speculative_tokens=3", "sc.prompt_lookup_max=4"], file)
    drafts = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}
    assert told == {"speculative_config": drafts}


@pytest.mark.parametrize("texts", [[], ["speculative-config.method=mtp"]])
def test_a_setting_both_whole_and_in_parts_is_refused(texts: list[str], file: Path) -> None:
    parts = "" if texts else "speculative_config.method: ngram\n"
    file.write_text(f"speculative-config: {{num_speculative_tokens: 2}}\n{parts}")
    with pytest.raises(InputError, match="speculative_config is given both whole and in parts"):
        parse_settings(texts, file)


@pytest.mark.parametrize("value", ["true", "[1, 2]"])
def test_values_that_a_file_of_vllm_cannot_have_behind_a_dot_are_refused(value: str, file: Path) -> None:
    file.write_text(f"speculative-config.parallel_drafting: {value}\n")
    with pytest.raises(InputError, match="neither switches nor lists behind a dot; write them as a mapping under spec"):
        parse_settings([], file)


def test_parts_of_what_the_server_takes_are_passed_over_as_the_whole_is(file: Path) -> None:
    file.write_text("default-chat-template-kwargs.enable_thinking: 0\nmax-num-seqs: 8\n")
    assert parse_settings([], file) == {"max_num_seqs": 8}


def test_a_grid_may_have_parts(file: Path) -> None:
    file.write_text("compilation_config.mode: [0, 3]\n")
    assert read_configurations(file) == [{"compilation_config": {"mode": mode}} for mode in (0, 3)]


def test_a_switch_alone_is_on_and_with_no_before_it_off() -> None:
    texts = ["enable-expert-parallel", "--no-enable-prefix-caching", "no_async_scheduling"]
    off = {"enable_prefix_caching": False, "async_scheduling": False}
    assert parse_settings(texts) == {"enable_expert_parallel": True} | off
    with pytest.raises(InputError, match="--engine 'max_num_seqs': expected name=value"):
        parse_settings(["max_num_seqs"])


def test_short_names_are_for_the_command_line_and_second_names_for_both(file: Path) -> None:
    told = parse_settings(["tp=2", "-pp=4", "ep", "cc.mode=3", "device-memory-utilization=0.5"])
    parallel = {"tensor_parallel_size": 2, "pipeline_parallel_size": 4, "enable_expert_parallel": True}
    assert told == parallel | {"compilation_config": {"mode": 3}, "gpu_memory_utilization": 0.5}
    file.write_text("device-memory-utilization: 0.5\n")
    assert parse_settings([], file) == {"gpu_memory_utilization": 0.5}
    file.write_text("tp: 2\n")
    with pytest.raises(InputError, match="unknown engine setting 'tp'"):
        parse_settings([], file)


def test_each_configuration_of_a_grid_has_its_own_parts(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("compilation_config.pass_config: [{a: 1}]\ncompilation_config.pass_config.b: [0, 3]\n")
    passes = [one["compilation_config"]["pass_config"] for one in read_configurations(grid)]
    assert passes == [{"a": 1, "b": 0}, {"a": 1, "b": 3}]


@pytest.mark.parametrize("text", ["9" * 5000, 20_000 * "["])
def test_what_no_parser_reads_is_text(text: str) -> None:
    assert parse_settings([f"compilation_config.a={text}"]) == {"compilation_config": {"a": text}}
