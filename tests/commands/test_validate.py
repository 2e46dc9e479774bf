"""slotune validate as a whole: a study, an engine's process, killed and continued."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from slotune.traces.generate import make_trace
from slotune.traces.lengths import uniform
from slotune.traces.mooncake import write_trace
from slotune.tuner.study.study import Study, Trial
from slotune.tuner.validate import MOST_IN_VAIN

TUNE = ("--slo", "p99:itl:60", "--trials", "8", "--jobs", "1", "--seed", "3")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile and a trace of a second and a half."""
    from slotune.profiler.profile import linear_profile
    from slotune.profiler.profile_folder import write_profile

    folder = tmp_path_factory.mktemp("made")
    write_profile(linear_profile(0.002, 5e-5, 1e-5, 0), folder / "profile")
    write_trace(make_trace(30, 20.0, (uniform(100, 900), uniform(2, 14)), seed=1), folder / "trace.jsonl")
    return folder


@pytest.fixture
def search(made: Path, tmp_path: Path) -> tuple[object, ...]:
    """The command that makes the study."""
    given = ("--profile", made / "profile", "--trace", made / "trace.jsonl", "--engine", "num_gpu_blocks_override=9999")
    return ("tune", *given, *TUNE, "--out", tmp_path / "study")


@pytest.fixture
def study(search: tuple[object, ...], tmp_path: Path, slotune: Callable[..., Any]) -> Path:
    """A searched study."""
    assert slotune(*search).code == 0
    return tmp_path / "study"


def hardware(study: Path) -> list[Trial]:
    with Study.open(study) as opened:
        return opened.trials("hardware")


def test_a_study_of_another_version_is_told_of(slotune: Callable[..., Any], study: Path, fake_vllm: Path):
    given = ("validate", study, "--top", 1, "--repeats", 1, "--vllm-python", fake_vllm, "--model", "org/m")
    assert "made with slotune" not in slotune(*given).err
    asked = json.loads((study / "study.json").read_text())
    asked["versions"]["slotune"] = "0.0.1"
    (study / "study.json").write_text(json.dumps(asked))
    assert f"Warning: {study}: made with slotune 0.0.1, and this is" in slotune(*given).err


def test_predicted_stands_beside_measured(slotune: Callable[..., Any], study: Path, fake_vllm: Path):
    done = slotune("validate", study, "--top", 1, "--repeats", 2, "--vllm-python", fake_vllm, "--model", "org/m")
    assert done.code == 0, done.err
    assert "default, 2 runs" in done.out
    assert "#1, 2 runs" in done.out
    assert "Recommended: " in done.out
    assert "not from a measurement" in done.out
    measured = hardware(study)
    assert [trial.repeat for trial in measured] == [0, 0, 1, 1]
    metrics = measured[0].metrics
    assert metrics is not None
    assert metrics["completed"] == 30
    assert 0.5 < metrics["mean_ttft_ms"] < 200
    assert 0.5 < metrics["mean_tpot_ms"] < 50
    assert (study / str(measured[0].details["folder"]) / "engine.log").exists()


def test_searching_on_keeps_what_was_measured(
    slotune: Callable[..., Any], study: Path, search: tuple[object, ...], fake_vllm: Path
):
    predicted = (study / "best.yaml").read_text()
    engine = ("--vllm-python", fake_vllm, "--model", "org/m")
    assert slotune("validate", study, "--top", 1, "--repeats", 1, *engine).code == 0
    measured = (study / "best.yaml").read_text()
    assert "1 run on the engine" in measured and measured != predicted
    again = slotune(*search, "--json")
    assert again.code == 0
    assert (study / "best.yaml").read_text() == measured
    told = json.loads(again.out)
    assert told["verdict"]["recommended"] == "default"
    assert told["best"]["engine"] == told["default"]["engine"]
    assert told["best"]["measured"]["metrics"]["mean_ttft_ms"]["runs"] == 1
    more = slotune(*search[:-2], "--trials", 12, *search[-2:])
    assert more.code == 0 and "Recommended from measurements on the engine: One paired run" in more.out
    assert (study / "best.yaml").read_text() == measured


def test_the_warm_up_asks_for_no_more_than_the_trace_does(
    slotune: Callable[..., Any], made: Path, fake_vllm: Path, tmp_path: Path
):
    """Prompts that fill the model's length but for two tokens."""
    trace = tmp_path / "full.jsonl"
    write_trace(make_trace(6, 5.0, (uniform(2046, 2046), uniform(2, 2)), seed=1), trace)
    given = ("--profile", made / "profile", "--trace", trace, "--engine", "max_model_len=2048")
    study = tmp_path / "study"
    assert slotune("tune", *given, "--slo", "p99:ttft:5000", "--trials", 2, "--jobs", 1, "--out", study).code == 0
    done = slotune("validate", study, "--top", 1, "--repeats", 1, "--vllm-python", fake_vllm, "--model", "org/m")
    assert done.code == 0, done.err
    assert hardware(study)[0].metrics["completed"] == 6


def test_json_is_the_only_thing_on_stdout(slotune: Callable[..., Any], study: Path, fake_vllm: Path):
    done = slotune(
        "validate", study, "--top", 1, "--repeats", 1, "--vllm-python", fake_vllm, "--model", "org/m", "--json"
    )
    told = json.loads(done.out)
    assert told["default"]["measured"]["metrics"]["mean_ttft_ms"]["runs"] == 1
    assert told["default"]["measured"]["metrics"]["mean_ttft_ms"]["low"] is None
    assert told["verdict"]["recommended"] == "default"


def test_killed_outright_it_leaves_no_engine_and_goes_on(study: Path, fake_vllm: Path, tmp_path: Path):
    pids = tmp_path / "pids"
    words = [sys.executable, "-m", "slotune.cli", "validate", study, "--top", "1", "--repeats", "2", "--model", "org/m"]
    environment = {**os.environ, "FAKE_VLLM_PIDS": str(pids)}
    with subprocess.Popen([*words, "--vllm-python", fake_vllm], env=environment, stderr=subprocess.PIPE) as first:
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        assert len(hardware(study)) == 1
        first.send_signal(signal.SIGKILL)
    engine = int(pids.read_text().split()[-1])
    wait_until(lambda: not psutil.pid_exists(engine))
    before = hardware(study)
    words += ["--vllm-python", str(fake_vllm)]
    again = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    after = hardware(study)
    assert after[: len(before)] == before
    assert len(after) == 4
    assert len(pids.read_text().split()) == 2 + 3  # the second of the first call was cut short
    assert not any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split())


def test_a_study_in_which_nothing_starts_fails_with_the_reason(
    slotune: Callable[..., Any], made: Path, fake_vllm: Path, tmp_path: Path
):
    given = ("--profile", made / "profile", "--trace", made / "trace.jsonl", "--engine", "max_num_seqs=13")
    assert slotune("tune", *given, *TUNE, "--out", tmp_path / "study").code == 0
    done = slotune("validate", tmp_path / "study", "--top", 1, "--vllm-python", fake_vllm, "--model", "org/m")
    assert done.code == 1
    assert "out-of-memory" in done.err.splitlines()[-1]
    assert len(hardware(tmp_path / "study")) <= 2 + MOST_IN_VAIN, "not the whole study is tried in vain"
    engine = ("--validate", 1, "--vllm-python", fake_vllm, "--model", "org/m")
    searched = slotune("tune", *given, *TUNE, *engine, "--out", tmp_path / "other")
    assert searched.code == 1 and "out-of-memory" in searched.err.splitlines()[-1]


def test_bad_input_is_one_line(slotune: Callable[..., Any], study: Path, fake_vllm: Path, tmp_path: Path):
    for words, message in (
        ((tmp_path,), "not a study"),
        ((study, "--vllm-python", fake_vllm), "give --model"),
        ((study, "--vllm-python", tmp_path / "nothing", "--model", "org/m"), "--vllm-python"),
        ((study, "--vllm-python", fake_vllm, "--model", tmp_path), "no config.json"),
        ((study, "--top", 0), "--top"),
    ):
        done = slotune("validate", *words)
        assert done.code == 2, words
        assert message in done.err.splitlines()[-1]


def wait_until(done: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait until `done`, a thing that happens in another process."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_an_engine_that_dies_near_the_end_has_failed(
    slotune: Callable[..., Any], study: Path, fake_vllm: Path, monkeypatch: pytest.MonkeyPatch
):
    """Four requests to warm up, then thirty: the last one kills it, while the answers before are whole."""
    monkeypatch.setenv("FAKE_VLLM_DEATH", "34")
    done = slotune("validate", study, "--top", 1, "--repeats", 1, "--vllm-python", fake_vllm, "--model", "org/m")
    assert done.code == 1
    assert all(trial.metrics is None for trial in hardware(study))
    assert "No configuration ran on the engine without failing; the first failed" in done.err
