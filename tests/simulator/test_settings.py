"""Settings as people write them: vLLM's names, its config file, its numbers with a suffix."""

import re
from pathlib import Path

import pytest

from slotune.errors import InputError
from slotune.simulator.settings import parse_settings, setting
from slotune.tuner.screen import read_configurations


def test_the_file_of_vllm_serve_is_taken_with_what_it_says_of_the_server(tmp_path: Path):
    text = "port: 12323\napi-key: x\nno-enable-log-outputs: true\nmax-num-seqs: 8\nno-enable-prefix-caching: true\n"
    (tmp_path / "serve.yaml").write_text(text)
    assert parse_settings(["max_num_seqs=4"], tmp_path / "serve.yaml") == {
        "max_num_seqs": 4,
        "enable_prefix_caching": False,
    }
    with pytest.raises(InputError, match="port is the server's, not the engine's"):
        parse_settings(["port=1"])
    (tmp_path / "serve.yaml").write_text("max-num-seqs: 8\nmax_num_seqs: 9\n")
    with pytest.raises(InputError, match="max_num_seqs is named twice, under two spellings"):
        parse_settings([], tmp_path / "serve.yaml")


@pytest.mark.parametrize(
    ("text", "number"), [("8192", 8192), ("8k", 8000), ("8K", 8192), ("1.5k", 1500), ("2G", 2 << 30)]
)
def test_numbers_may_have_the_suffixes_that_vllm_takes(text: str, number: int):
    assert parse_settings([f"max_num_batched_tokens={text}"]) == {"max_num_batched_tokens": number}
    assert parse_settings([f"kv_cache_memory_bytes={text}"]) == {"kv_cache_memory_bytes": number}


def test_what_vllm_takes_none_for_may_be_none():
    left = {"num_gpu_blocks_override": None, "kv_cache_memory_bytes": None}
    assert parse_settings([f"{name}=null" for name in left]) == left


@pytest.mark.parametrize(
    "text", ["max_num_seqs=8k", "max_model_len=1.5K", "max_model_len=k", "kv_cache_memory_bytes=x"]
)
def test_other_words_are_no_numbers(text: str):
    with pytest.raises(InputError, match="takes int"):
        parse_settings([text])


def test_numbers_on_the_command_line_are_decimal_as_in_vllm(tmp_path: Path):
    texts = ["max_num_seqs=010", "max_num_batched_tokens=02000", "block_size=1_6"]
    assert parse_settings(texts) == {"max_num_seqs": 10, "max_num_batched_tokens": 2000, "block_size": 16}
    for text in ("0x40", "1:30", "0b11"):
        with pytest.raises(InputError, match=f"takes int, not '{text}'"):
            parse_settings([f"max_num_seqs={text}"])
    assert parse_settings(["max_num_seqs=08", "watermark=1e-2"]) == {"max_num_seqs": 8, "watermark": 0.01}
    with pytest.raises(InputError, match="takes float, not '1:30'"):
        parse_settings(["gpu_memory_utilization=1:30"])
    (tmp_path / "engine.yaml").write_text("max-num-seqs: 010\n")  # a file is YAML, in vLLM too
    assert parse_settings([], tmp_path / "engine.yaml") == {"max_num_seqs": 8}


@pytest.mark.parametrize(("name", "kind"), [("max_num_seqs", "int"), ("watermark", "float"), ("enforce_eager", "bool")])
def test_a_day_is_no_number(name: str, kind: str, tmp_path: Path):
    (tmp_path / "engine.yaml").write_text(f"{name}: 2024-01-01\n")
    for given in (([f"{name}=2024-01-01"], None), ([], tmp_path / "engine.yaml")):
        with pytest.raises(InputError, match=f"{name} takes {kind}, not '2024-01-01'"):
            parse_settings(*given)


def test_a_no_that_is_false_says_nothing_as_in_vllm(tmp_path: Path):
    file = tmp_path / "engine.yaml"
    file.write_text("no-enable-prefix-caching: false\nno-async-scheduling: true\n")
    assert parse_settings([], file) == {"async_scheduling": False}
    with pytest.raises(InputError, match="no_enable_prefix_caching takes bool, not 'maybe'"):
        parse_settings(["no_enable_prefix_caching=maybe"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("0123", "0123"), ("on", "on"), ("[a, 01, on]", ["a", "01", "on"]), ('"mine"', "mine"), ("null", None)],
)
def test_a_name_to_serve_under_is_text_whatever_yaml_makes_of_it(text: str, value: object) -> None:
    assert parse_settings([f"served_model_name={text}"]) == {"served_model_name": value}
    assert setting("served_model_name", 123, "here") == {"served_model_name": "123"}


@pytest.mark.parametrize("text", ["0123456", "1.10", "1_000", "on", "2024-01-01"])
def test_text_stays_text_whatever_yaml_would_make_of_it(text: str):
    assert parse_settings([f"revision={text}", "quantization=2024-01-01"]) == {
        "revision": text,
        "quantization": "2024-01-01",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cudagraph_capture_sizes=5", "cudagraph_capture_sizes takes list[int], not '5'"),
        ("cudagraph_capture_sizes=abc", "takes list[int], not 'abc'"),
        ("cudagraph_capture_sizes=[a]", "takes list[int], not '[a]'"),
        ("cudagraph_capture_sizes=[1.5]", "takes list[int], not '[1.5]'"),
        ("max_cudagraph_capture_size=abc", "max_cudagraph_capture_size takes int, not 'abc'"),
        ("enforce_eager=maybe", "enforce_eager takes bool, not 'maybe'"),
        ("api_server_count=2", "is the server's"),
        ("kv_cache_dtype=fp9", "unknown kv_cache_dtype 'fp9': did you mean fp8"),
        ("prefix-caching-hash-algo=builtin", "unknown prefix_caching_hash_algo 'builtin'"),
        ('kv_transfer_config={"kv_connector": "X"}', "kv_transfer_config: has no kv_role, which vLLM asks for"),
        ("compilation_config={cudagraph_mode: NONE}", "compilation_config: not JSON, which vLLM takes here: "),
        ("speculative_config={method: ngram}", "speculative_config: not JSON, which vLLM takes here: "),
        ("kv_cache_dtype=[fp8]", "unknown kv_cache_dtype '[fp8]'"),
    ],
)
def test_what_vllm_s_parser_refuses_of_graphs_and_the_cache_is_refused(text: str, message: str):
    with pytest.raises(InputError) as error:
        parse_settings([text])
    assert message in str(error.value)


def test_graphs_and_the_cache_as_vllm_s_parser_takes_them():
    texts = ("cudagraph_capture_sizes=[1, 8]", "max_cudagraph_capture_size=null", "enforce_eager=true")
    assert parse_settings([*texts, "kv_cache_dtype=fp8_e5m2"]) == {
        "cudagraph_capture_sizes": [1, 8],
        "max_cudagraph_capture_size": None,
        "enforce_eager": True,
        "kv_cache_dtype": "fp8_e5m2",
    }


@pytest.mark.parametrize(
    "text", ["speculative_config={bad", "max_num_seqs=[", "no-enforce-eager={", "dtype=*a", "max_num_seqs=2024-13-45"]
)
def test_a_value_that_no_parser_takes_is_no_internal_error(text: str):
    with pytest.raises(InputError, match=f"--engine {re.escape(text)}: [a-z_]+: not YAML: ") as error:
        parse_settings([text])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["2024-13-45", "9" * 5000, "[" * 3000])
def test_neither_is_a_file_of_it(value: str, tmp_path: Path):
    file = tmp_path / "engine.yaml"
    file.write_text(f"max_num_seqs: {value}\n")
    for read, said in ((lambda: parse_settings([], file), "not YAML"), (lambda: read_configurations(file), "neither")):
        with pytest.raises(InputError, match=f"{re.escape(str(file))}: {said}"):
            read()


def test_a_value_of_a_file_that_is_no_yaml_is_named(tmp_path: Path):
    file = tmp_path / "engine.yaml"
    file.write_text('max_num_seqs: "[1"\n')
    with pytest.raises(InputError, match=r"engine.yaml: max_num_seqs: not YAML: "):
        parse_settings([], file)


def test_a_setting_of_the_server_is_told_as_one():
    with pytest.raises(InputError, match="port is the server's, not the engine's"):
        parse_settings(["port=8000"])


def test_a_mapping_in_text_is_what_json_makes_of_it_and_one_of_a_file_what_yaml_does(tmp_path: Path):
    assert parse_settings(['hf_overrides={"a": 1e-3, "b": [true]}']) == {"hf_overrides": {"a": 0.001, "b": [True]}}
    file = tmp_path / "engine.yaml"
    file.write_text("hf-overrides: {a: text}\nkv-transfer-config: {kv_connector: X, kv_role: kv_both}\n")
    told = {"hf_overrides": {"a": "text"}, "kv_transfer_config": {"kv_connector": "X", "kv_role": "kv_both"}}
    assert parse_settings([], file) == told
    file.write_text("compilation-config: '{cudagraph_mode: NONE}'\n")
    with pytest.raises(InputError, match=r"engine.yaml: compilation_config: not JSON"):
        parse_settings([], file)
