"""Runs beside layer times: what cannot be predicted is refused, since it would look like any other prediction."""

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ACCURACY = Path(__file__).parents[1] / "benchmarks" / "accuracy"
MODEL = "meta-llama/Llama-3.1-8B"


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The commands of benchmarks/accuracy can be imported."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(ACCURACY))
    yield
    for name in set(sys.modules) - before:
        if str(ACCURACY) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def read_engine(accuracy: None) -> Any:
    import layer_times_engine

    return layer_times_engine.read_engine


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


def test_a_run_of_the_repository_becomes_such_a_folder(accuracy: None, read_engine: Any, tmp_path: Path) -> None:
    from llmservingsim_folder import make_folder

    run = tmp_path / "checkout" / "bench" / "examples" / "A100" / "Llama-3.1-8B"
    perf = tmp_path / "checkout" / "profiler" / "perf" / "A100" / MODEL
    (run / "validation").mkdir(parents=True)
    (run / "validation" / "summary.txt").write_text("TTFT Mean  1.0\n")
    measured(run, num_gpu_blocks_override=7)
    meta = json.loads((run / "vllm" / "meta.json").read_text()) | {"dataset_path": "requests.jsonl"}
    (run / "vllm" / "meta.json").write_text(json.dumps(meta))
    cluster = {"nodes": [{"instances": [{"hardware": "A100", "model_name": MODEL}]}]}
    (run / "config.json").write_text(json.dumps(cluster))
    perf.mkdir(parents=True)
    (run / "profile").rename(perf / "bf16")
    (tmp_path / "checkout" / "requests.jsonl").write_text("{}\n")

    make_folder(tmp_path / "checkout", "A100/Llama-3.1-8B", tmp_path / "out")

    assert read_engine(tmp_path / "out").engine.num_gpu_blocks == 7
    assert gzip.decompress((tmp_path / "out" / "workload.jsonl.gz").read_bytes()) == b"{}\n"
    assert (tmp_path / "out" / "llmservingsim-own-error.txt").read_text() == "TTFT Mean  1.0\n"
    with pytest.raises(SystemExit, match="not in that checkout"):
        make_folder(tmp_path / "checkout", "A100/Qwen3-8B", tmp_path / "none")
    assert not (tmp_path / "none").exists()
