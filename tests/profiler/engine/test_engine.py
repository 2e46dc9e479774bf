"""The real engine: started, recorded, driven, diagnosed, measured, and gone."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from slotune.errors import EngineError
from slotune.profiler.engine.launch import find_vllm
from slotune.profiler.engine.load import Call, replay, send
from slotune.profiler.engine.prompts import random_tokens
from slotune.profiler.engine.server import Server, running_server
from slotune.profiler.measurement.recording import StepTail
from slotune.profiler.profile_folder import load_profile
from slotune.simulator.metrics import summarise
from slotune.simulator.steps import StepRecord, read_steps
from slotune.traces.trace import Trace

pytestmark = pytest.mark.engine

SETTINGS = {
    "load_format": "dummy",
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 2048,
    "max_num_batched_tokens": 256,
    "max_num_seqs": 16,
}
VOCABULARY = 4096
KV_BYTES_PER_TOKEN = 2 * 4 * 1 * 64 * 4
"""Keys and values, layers, KV heads, head size, float32: the model that benchmarks/make_model.py calls mini."""


@pytest.fixture(scope="module")
def model(vllm_python: str, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    script = repository / "benchmarks" / "make_model.py"
    words = [vllm_python, script, folder, "--shape", "mini"]
    subprocess.run(words, check=True, capture_output=True)
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9}')
    return folder


@pytest.fixture(scope="module")
def server(vllm_python: str, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    run = tmp_path_factory.mktemp("engine") / "run"
    with running_server(find_vllm(vllm_python), str(model), SETTINGS, run, record=True, control=True) as running:
        family = [psutil.Process(running.process.pid), *psutil.Process(running.process.pid).children(recursive=True)]
        yield running
    assert len(family) >= 3  # supervisor, API server, engine core
    assert not any(process.is_running() for process in family)


def steps_of(server: Server, calls: list[Call]) -> list[StepRecord]:
    """The steps that these calls make, and no others."""
    assert server.steps_path is not None
    tail = StepTail(server.steps_path)
    tail.read()
    _, answers = send(calls, server.base_url, server.model)
    assert [answer.error for answer in answers] == [None] * len(calls)
    return tail.read_until({call.name: len(call.prompt) + call.output_tokens - 1 for call in calls}, timeout_s=10)


def prompt(length: int, key: int) -> list[int]:
    return random_tokens(length, VOCABULARY, (99, key)).tolist()


def test_the_engine_tells_what_it_decided(server: Server) -> None:
    wanted = {"max_num_batched_tokens": 256, "max_num_seqs": 16, "max_model_len": 2048, "dtype": "torch.float32"}
    assert wanted.items() <= server.facts.items()
    assert server.facts["vllm_version"].startswith("0.")
    assert server.facts["num_gpu_blocks"] > 1
    assert server.facts["block_size"] > 0
    assert server.facts["kv_cache_groups"] == ["FullAttentionSpec"]
    assert server.facts["kv_bytes_per_block"] == server.facts["block_size"] * KV_BYTES_PER_TOKEN
    assert server.facts["async_scheduling"] is False  # the CPU platform switches it off
    assert server.facts["sampling_defaults"] == "{'temperature': 0.6, 'top_p': 0.9}"


def test_every_row_of_every_step_is_recorded(server: Server) -> None:
    records = steps_of(server, [Call(prompt(600, 1), 4, name="one")])
    rows = [[(tokens, context) for _, tokens, context in record.rows] for record in records]
    assert rows == [[(256, 0)], [(256, 256)], [(88, 512)], [(1, 600)], [(1, 601)], [(1, 602)]]
    assert all(record.rows[0][0] == "one" for record in records)
    ends = [record.end_s for record in records]
    assert [record.start_s for record in records[1:]] == ends[:-1]  # never idle: no time between steps is lost
    assert all(record.end_s > record.start_s for record in records)


def test_a_request_id_limits_the_step(server: Server) -> None:
    records = steps_of(server, [Call(prompt(100, 2), 1, name="slotune-cap32-two")])
    assert [record.rows[0][1] for record in records] == [32, 32, 32, 4]
    records = steps_of(server, [Call(prompt(100, 3), 1, name="slotune-cap0-three")])
    assert [record.rows[0][1] for record in records] == [100]


def test_the_recorded_times_and_the_client_s_are_on_one_clock(server: Server) -> None:
    assert server.steps_path is not None
    tail = StepTail(server.steps_path)
    tail.read()
    _, (answer,) = send([Call(prompt(64, 4), 5, name="four")], server.base_url, server.model)
    records = tail.read_until({"four": 68}, timeout_s=10)
    assert answer.sent < records[0].start_s < records[0].end_s < answer.chunks[0]
    assert records[-1].end_s < answer.chunks[-1]


def test_a_load_run_has_the_lengths_of_its_trace_and_measures_its_latencies(server: Server) -> None:
    count, rng = 12, np.random.default_rng(5)
    trace = Trace(
        arrival_s=np.cumsum(rng.exponential(0.1, count)),
        input_tokens=rng.integers(20, 300, count).astype(np.int32),
        output_tokens=rng.integers(2, 20, count).astype(np.int32),
        priority=np.zeros(count, dtype=np.int32),
        run_offsets=np.zeros(count + 1, dtype=np.int64),
        run_name=np.zeros(0, dtype=np.int64),
        run_tokens=np.zeros(0, dtype=np.int32),
    )
    result = replay(trace, server.base_url, server.model, vocabulary=VOCABULARY, seed=5)
    assert result.errors == (None,) * count
    assert result.requests.output_tokens.tolist() == trace.output_tokens.tolist()
    assert 0 < len(result.gaps.gap_s) <= int(trace.output_tokens.sum()) - count  # a busy server merges chunks
    metrics = summarise(result.requests, result.gaps)
    assert metrics["completed"] == count
    assert 0 < metrics["mean_ttft_ms"] < metrics["mean_e2el_ms"]


def test_what_the_engine_refuses_is_told_in_one_line(vllm_python: str, model: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"max_num_batched_tokens": 8}
    with (
        pytest.raises(EngineError, match=r"max_num_batched_tokens \(8\) must be greater than or equal to") as raised,
        running_server(find_vllm(vllm_python), str(model), settings, tmp_path / "run"),
    ):
        pass
    assert raised.value.reason == "bad-argument"


def test_a_measurement_that_was_killed_leaves_no_engine_and_is_gone_on_with(
    vllm_python: str, model: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "slotune.cli", "profile", "measure", "--model", str(model), "--budget", "100s"]
    words += [word for name, value in SETTINGS.items() for word in ("--engine", f"{name}={json.dumps(value)}")]
    words += ["--vllm-python", vllm_python, "--out", str(tmp_path / "profile")]
    steps = tmp_path / "profile.measure" / "run-1" / "steps.jsonl"
    killed = subprocess.Popen(words, stderr=subprocess.DEVNULL, env=os.environ)
    while not (steps.exists() and steps.stat().st_size > 4000):
        assert killed.poll() is None
        time.sleep(0.2)
    family = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.wait()
    known = len(list(read_steps(steps)))
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    assert known > 10
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    profile = load_profile(tmp_path / "profile")
    assert profile.source == "measured"
    assert profile.engine_config({}).num_gpu_blocks > 1
    assert profile.overhead.before_s > 0
    assert "Held-out error" in done.stdout
    assert not steps.exists()
