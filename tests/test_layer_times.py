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


def test_blocks_share_the_memory_as_they_end(accuracy: None) -> None:
    """Two SMs: where one block is left it reads at up to twice its share, if one can."""
    from thread_blocks import ThreadBlocks

    slow, fast = ThreadBlocks(1, 2, 1.0), ThreadBlocks(1, 2, 2.0)
    assert slow.over_equal([1, 1, 1, 1, 4], 5) == pytest.approx((2 + 4) / (3 * 1.6))
    assert fast.over_equal([1, 1, 1, 1, 4], 5) == pytest.approx((2 + 4 / 2) / (2.5 * 1.6))
    assert slow.over_equal([4, 1, 1, 1, 1], 5) == pytest.approx(4 / (3 * 1.6))  # the long one is no straggler
    assert slow.over_equal([3, 3, 3, 3], 4) == 1.0


def test_heads_follow_each_other(accuracy: None) -> None:
    from thread_blocks import ThreadBlocks

    assert ThreadBlocks(2, 2, 1.0).over_equal([2, 4], 2) == pytest.approx(8 / 6)  # 2 beside 4, then 2, and 4 at last


def test_few_decodes_are_split_and_cost_their_mean(accuracy: None) -> None:
    """vLLM on an RTX PRO 6000 with 8 KV heads: from 38 sequences on they are not."""
    from thread_blocks import ThreadBlocks

    blocks = ThreadBlocks(8, 188, 3.0)
    assert blocks.over_equal([100] * 36 + [9000], 37) == 1.0
    assert blocks.over_equal([100] * 36 + [9000], 40) > 1.5  # padded to its CUDA graph


def test_how_fast_a_block_reads_is_found_again(accuracy: None) -> None:
    from thread_blocks import ThreadBlocks, fit_blocks

    rows = []
    for long, batch in ((1, 64), (4, 64), (1, 128), (16, 128), (1, 4)):
        contexts = [4096] * long + [1024] * (batch - long)
        took = 1.0 if batch == 4 else ThreadBlocks(8, 188, 2.5).over_equal(contexts, batch)
        times = {"t_mean_us": "1.0", "t_skew_us": str(took)}
        rows.append({"regime": "pure", "n": str(batch), "nb": str(long), "kvs": "1024", "kv_big": "4096"} | times)
    rows.append(rows[0] | {"regime": "mixed", "t_skew_us": "9.0"})
    assert fit_blocks(rows, 8, 188).reach == pytest.approx(2.5, abs=0.05)


def test_two_gpus_take_one_turn_for_what_is_small(accuracy: None) -> None:
    from layer_times import ONE_SHOT_BYTES, Link

    link = Link(16e9, 20e-6)
    assert link.all_reduce_s(16_000, 2) == pytest.approx(21e-6)
    assert link.all_reduce_s(ONE_SHOT_BYTES, 2) == pytest.approx(40e-6 + ONE_SHOT_BYTES / 16e9)
    assert link.all_reduce_s(16_000, 4) == pytest.approx(6 * (20e-6 + 4_000 / 16e9))
