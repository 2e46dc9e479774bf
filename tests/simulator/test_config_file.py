"""The file that `vllm serve --config` reads, and what vLLM makes of it that slotune does not."""

from pathlib import Path

import pytest

from slotune.errors import InputError
from slotune.simulator.config_file import of_the_server, passed_over
from slotune.simulator.settings import parse_settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "engine.yaml"


def test_a_false_that_vllm_serve_passes_over_is_taken_and_told(file: Path) -> None:
    file.write_text("enable-prefix-caching: false\nasync_scheduling: false\nenforce-eager: false\nmax-num-seqs: 8\n")
    off = {"enable_prefix_caching": False, "async_scheduling": False, "enforce_eager": False}
    assert parse_settings([], file) == off | {"max_num_seqs": 8}
    assert passed_over(file) == [
        f"{file}: enable-prefix-caching: false, async_scheduling: false: `vllm serve --config` passes over false and "
        "leaves them on, here off unless --engine says otherwise: write no-enable-prefix-caching: true, "
        "no-async_scheduling: true"
    ]


def test_what_is_off_without_being_simulated_is_told_without_that(file: Path) -> None:
    file.write_text("enable-flashinfer-autotune: false\n")
    (line,) = passed_over(file)
    assert "leaves it on: write no-enable-flashinfer-autotune: true" in line


def test_nothing_is_told_of_a_file_that_means_here_what_it_means_there(file: Path) -> None:
    file.write_text("no-enable-prefix-caching: true\nasync-scheduling: true\nenable-expert-parallel: false\n")
    assert passed_over(file) == []


@pytest.mark.parametrize("line", ['enable-prefix-caching: "false"', "no-enable-expert-parallel: 'true'"])
def test_a_switch_with_a_quoted_value_is_refused_as_by_vllm(line: str, file: Path) -> None:
    file.write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"engine.yaml: [a-z-]+: '[a-z]+' is text, which vLLM refuses here; write it"):
        parse_settings([], file)
    assert parse_settings(["enable_prefix_caching=false"]) == {"enable_prefix_caching": False}


def test_what_is_the_server_s_is_named_as_it_stands_in_the_file(file: Path) -> None:
    file.write_text("port: 1\nmax-num-seqs: 8\nno-enable-log-outputs: true\napi_server_count: 8\n")
    assert of_the_server(file) == ["port", "no-enable-log-outputs", "api_server_count"]


def test_what_vllm_has_in_python_alone_is_refused_in_files_and_on_the_command_line(file: Path) -> None:
    file.write_text("mamba-config: {a: 1}\n")
    for texts, path in ([], file), (["model_weights=x"], None):
        with pytest.raises(InputError, match="`vllm serve` has no such argument"):
            parse_settings(texts, path)
