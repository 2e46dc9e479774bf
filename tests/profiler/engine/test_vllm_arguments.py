"""Settings become the words that vLLM's command takes."""

from slotune.profiler.engine.vllm_arguments import serve_arguments


def test_settings_become_words() -> None:
    settings = {
        "max_num_seqs": 64,
        "enable_prefix_caching": False,
        "enforce_eager": True,
        "max_model_len": None,
        "cudagraph_capture_sizes": [1, 8],
        "compilation_config": {"level": 3},
        "gpu_memory_utilization": 0.9,
    }
    assert serve_arguments(settings) == [
        *("--max-num-seqs", "64", "--no-enable-prefix-caching", "--enforce-eager"),
        *("--cudagraph-capture-sizes", "1", "8", "--compilation-config", '{"level": 3}'),
        *("--gpu-memory-utilization", "0.9"),
    ]


def test_an_empty_list_is_left_out_of_a_command_line() -> None:
    assert serve_arguments({"ignore_patterns": [], "max_num_seqs": 8}) == ["--max-num-seqs", "8"]


def test_what_no_command_line_of_vllm_has_is_left_out() -> None:
    settings = {"model_weights": "x", "mamba_config": {"a": 1}, "enable_mm_processor_stats": True, "max_num_seqs": 8}
    assert serve_arguments(settings) == ["--max-num-seqs", "8"]


def test_a_switch_that_can_only_be_on_is_left_out_where_it_is_off() -> None:
    assert serve_arguments({"disable_log_stats": False, "enforce_eager": False}) == ["--no-enforce-eager"]
