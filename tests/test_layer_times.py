"""Runs that layer times cannot predict are refused: predicted all the same they would look like any other."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ACCURACY = Path(__file__).parents[1] / "benchmarks" / "accuracy"
MODEL = "meta-llama/Llama-3.1-8B"


@pytest.fixture
def read_engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ACCURACY))
    import layer_times_engine

    yield layer_times_engine.read_engine
    for name in ("layer_times_engine", "layer_times", "tables"):
        sys.modules.pop(name, None)


def measured(folder: Path, model: str = MODEL, **arguments: Any) -> Path:
    memory = {"npu_mem": {"mem_size": 96, "mem_util": 0.9}, "num_npus": 1}
    asked = {"max_num_seqs": 128, "max_num_batched_tokens": 2048} | arguments
    (folder / "vllm").mkdir()
    (folder / "profile").mkdir()
    (folder / "vllm" / "meta.json").write_text(
        json.dumps({"model": model, "vllm_version": "0.19.0", "engine_kwargs": asked})
    )
    (folder / "profile" / "meta.yaml").write_text(f"model: {MODEL}\n")
    (folder / "config.json").write_text(json.dumps({"nodes": [{"instances": [memory]}]}))
    return folder


def test_the_kv_cache_is_that_of_the_arguments(read_engine: Any, tmp_path: Path) -> None:
    for number, (arguments, blocks) in enumerate(
        [({}, 36578), ({"gpu_memory_utilization": 0.5}, 16917), ({"num_gpu_blocks_override": 5000}, 5000)]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert read_engine(measured(folder, **arguments)).engine.num_gpu_blocks == blocks


@pytest.mark.parametrize(
    "arguments",
    [
        {"kv_cache_dtype": "fp8"},
        {"quantization": "fp8"},
        {"dtype": "float32"},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}},
        {"model": "Qwen/Qwen3-8B"},
        {"max_num_seqs": 512},
    ],
)
def test_a_run_with_other_kernels_is_refused(read_engine: Any, tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match="layer times"):
        read_engine(measured(tmp_path, **arguments))
