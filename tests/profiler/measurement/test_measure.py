"""Measuring a stand-in engine of known step times, whole, cut short, and killed."""

import errno
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from slotune.errors import EngineError, InputError
from slotune.profiler.engine.launch import find_vllm
from slotune.profiler.measurement.chooser import Chooser
from slotune.profiler.measurement.design import Space, Staircase
from slotune.profiler.measurement.measure import Measurement, _earlier, measure
from slotune.profiler.measurement.session import Sitting
from slotune.profiler.profile import Profile
from slotune.profiler.profile_folder import load_profile
from slotune.simulator.features import totals_of
from slotune.simulator.step_time import step_times_s
from slotune.whole_file import UNFINISHED

FAKE = runpy.run_path(str(Path(__file__).parents[2] / "fake_vllm.py"), run_name="fake_vllm")
MEASURE = """
import json, sys
from pathlib import Path
from slotune.profiler.engine.launch import find_vllm
from slotune.profiler.measurement.measure import Measurement, measure
command, model, out, budget, settings = sys.argv[1:]
task = Measurement(model, json.loads(settings), Path(out), float(budget))
measure(task, find_vllm(command), lambda done, note: print(note, flush=True))
"""


def started(
    fake_vllm: Path, model_folder: Path, out: Path, budget_s: float, settings: dict[str, object] | None = None
) -> "subprocess.Popen[str]":
    arguments = [str(fake_vllm), str(model_folder), str(out), str(budget_s), json.dumps(settings or {})]
    words = [sys.executable, "-c", MEASURE, *arguments]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_until(process: "subprocess.Popen[str]", said: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if said in line:
            return
    raise AssertionError(f"never said {said!r}")


def test_a_measured_profile_knows_the_engine(fake_vllm: Path, model_folder: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    task = Measurement(str(model_folder), {"max_num_seqs": 16}, tmp_path / "profile", budget_s=14, seed=1)
    begin = time.monotonic()
    measure(task, find_vllm(str(fake_vllm)), lambda done_s, note: notes.append(note))
    assert time.monotonic() - begin < 60
    profile = load_profile(tmp_path / "profile")
    assert profile.source == "measured"
    assert (profile.engine.version, profile.engine.dtype) == ("0.32.0", "bfloat16")
    assert (profile.defaults["max_num_batched_tokens"], profile.defaults["max_num_seqs"]) == (512, 16)
    assert profile.engine_config({}).num_gpu_blocks == 4096
    assert 0 < profile.overhead.before_s < 0.1
    chunk = totals_of(np.array([512]), np.array([0]))
    decodes = totals_of(np.ones(16, dtype=int), np.full(16, 100))
    predicted = step_times_s(profile.step.model, np.array([chunk, decodes]))
    truth = FAKE["BASE_S"] + np.array([512 * FAKE["PREFILL_TOKEN_S"], 16 * FAKE["DECODE_ROW_S"]])
    assert predicted == pytest.approx(truth, rel=0.05)
    assert not (tmp_path / "profile.measure").exists()
    assert any("drifted" in note for note in profile.notes)
    assert notes[0] == "starting the engine"


@pytest.mark.parametrize(
    "settings",
    [{"enable_chunked_prefill": False, "max_num_batched_tokens": 2048}, {"max_model_len": 100}],
    ids=["prompts computed whole", "a short model length"],
)
def test_nothing_is_asked_of_an_engine_that_it_cannot_take(
    fake_vllm: Path, model_folder: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    process = started(fake_vllm, model_folder, tmp_path / "profile", 14, settings)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    cut_short = [note for note in load_profile(tmp_path / "profile").notes if "cut short" in note]
    assert all("so long to start" in note for note in cut_short)  # as on a busy machine; a refusal says another thing


def test_ctrl_c_leaves_a_profile_that_says_so(fake_vllm: Path, model_folder: Path, tmp_path: Path) -> None:
    process = started(fake_vllm, model_folder, tmp_path / "profile", 300)
    read_until(process, "prompts of about")
    engine = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert any("cut short: by the user" in note for note in load_profile(tmp_path / "profile").notes)
    assert not any(one.is_running() for one in engine)


def test_ctrl_c_before_there_are_enough_steps_asks_for_a_longer_budget(
    fake_vllm: Path, model_folder: Path, tmp_path: Path, slotune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(sitting: Sitting, staircase: Staircase) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Sitting, "staircase", interrupted)
    monkeypatch.setattr(Sitting, "sentinel", lambda sitting: None)
    given = ("--model", model_folder, "--vllm-python", fake_vllm)
    done = slotune("profile", "measure", *given, "--out", tmp_path / "p")
    assert done.code == 1
    assert "too few different steps for a fit: give a longer --budget" in done.err.splitlines()[-1]
    assert (tmp_path / "p.measure" / "run-1").exists()


def test_after_a_kill_the_next_call_goes_on_with_the_steps_and_other_scenarios(
    fake_vllm: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = started(fake_vllm, model_folder, tmp_path / "profile", 300)
    read_until(process, "prompts of about")
    process.kill()
    process.wait(10)
    left = tmp_path / "profile.measure" / "run-1" / "steps.jsonl"
    before = left.read_text()
    left.write_text(before + '{"step": 99, "start_')  # killed in the middle of a line
    notes: list[str] = []
    seeds: list[int] = []

    def chooser(space: Space, seed: int) -> Chooser:
        seeds.append(seed)
        return Chooser(space, seed)

    monkeypatch.setattr("slotune.profiler.measurement.measure.Chooser", chooser)
    task = Measurement(str(model_folder), {}, tmp_path / "profile", budget_s=1)
    measure(task, find_vllm(str(fake_vllm)), lambda done_s, note: notes.append(note))
    first = next(note for note in notes if note.startswith("warming up"))
    assert int(first.split(", ")[1].split()[0]) > 10
    assert seeds == [task.seed + 1]
    assert load_profile(tmp_path / "profile").source == "measured"


def test_one_that_goes_on_and_ends_at_once_says_that_it_knows_nothing_outside_the_steps(
    fake_vllm: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = started(fake_vllm, model_folder, tmp_path / "profile", 300)
    read_until(process, "prompts of about")
    process.kill()
    process.wait(10)
    monkeypatch.setenv("FAKE_VLLM_DEATH", "1")
    task = Measurement(str(model_folder), {}, tmp_path / "profile", budget_s=60)
    measure(task, find_vllm(str(fake_vllm)), lambda done_s, note: None)
    profile = load_profile(tmp_path / "profile")
    assert profile.overhead.before_s == 0
    assert any("was not measured: taken as none" in note for note in profile.notes)
    assert "these TTFTs include no time outside" in profile.trust()["expected_error"]["outside_steps"]


def test_a_second_measurement_leaves_the_first_alone(fake_vllm: Path, model_folder: Path, tmp_path: Path) -> None:
    launch = find_vllm(str(fake_vllm))
    first = started(fake_vllm, model_folder, tmp_path / "profile", 20)
    read_until(first, "prompts of about")
    for settings in ({}, {"max_num_seqs": 8}):
        task = Measurement(str(model_folder), settings, tmp_path / "profile", 1)
        with pytest.raises(InputError, match="another slotune measures there"):
            measure(task, launch, lambda done, note: None)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert load_profile(tmp_path / "profile").defaults["max_num_seqs"] == 16


def test_steps_of_another_machine_are_neither_mixed_in_nor_removed(
    fake_vllm: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = started(fake_vllm, model_folder, tmp_path / "profile", 300)
    read_until(process, "prompts of about")
    process.kill()
    process.wait(10)
    monkeypatch.setattr("slotune.profiler.measurement.measure.device_name", lambda: "another processor")
    task, launch = Measurement(str(model_folder), {}, tmp_path / "profile", 1), find_vllm(str(fake_vllm))
    with pytest.raises(InputError, match="not ended, with another device; remove it, or give another --out"):
        measure(task, launch, lambda done, note: None)
    shutil.rmtree(tmp_path / "profile.measure")
    measure(task, launch, lambda done, note: None)
    assert load_profile(tmp_path / "profile").engine.model == str(model_folder)


def test_earlier_runs_are_read_in_the_order_in_which_they_were_made(tmp_path: Path) -> None:
    identity: dict[str, object] = {"settings": {}}
    (tmp_path / "measure.json").write_text(json.dumps(identity))
    for number in (1, 2, 10):
        (tmp_path / f"run-{number}").mkdir()
        step = {"step": 1, "start_ms": number, "end_ms": 2 * number, "rows": [["s1.0", 8, 0]]}
        (tmp_path / f"run-{number}" / "steps.jsonl").write_text(json.dumps(step) + "\n")
    collected, following = _earlier(tmp_path, identity)
    assert (collected.samples().duration_s * 1e3).tolist() == [1, 2, 10]
    assert following == 11


def test_a_measurement_of_another_model_without_steps_is_begun_anew(
    fake_vllm: Path, model_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "profile.measure"
    other.mkdir()
    (other / "measure.json").write_text(json.dumps({"model": "another"}))
    (other / "run-1").mkdir()
    (other / "run-1" / "steps.jsonl").touch()
    measure(
        Measurement(str(model_folder), {}, tmp_path / "profile", 1), find_vllm(str(fake_vllm)), lambda done, note: None
    )
    assert load_profile(tmp_path / "profile").engine.model == str(model_folder)


def test_on_a_gpu_further_starts_tell_what_the_kv_blocks_depend_on(
    fake_vllm: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = fake_vllm.parent / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '0, GPU-a0, NVIDIA H200, 143771, 580.82.07'\n")
    smi.chmod(0o755)
    total = 143771 * 2**20
    monkeypatch.setenv("PATH", f"{smi.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_VLLM_GPU_BYTES", str(total))
    measure(Measurement(str(model_folder), {}, tmp_path / "p", 25), find_vllm(str(fake_vllm)), lambda done, note: None)
    profile = load_profile(tmp_path / "p")
    assert (profile.engine.device, profile.engine.driver) == ("NVIDIA H200", "580.82.07")
    assert profile.kv is not None
    assert len(profile.kv.observations) == 3
    used = FAKE["WEIGHT_BYTES"] + 128 * FAKE["TOKEN_BYTES"] + 4 * FAKE["SEQ_BYTES"]
    truth = int((0.8 * total - used) // (16 * FAKE["KV_BYTES"]))
    asked = {"max_num_batched_tokens": 128, "max_num_seqs": 4, "gpu_memory_utilization": 0.8}
    assert profile.engine_config(asked).num_gpu_blocks == pytest.approx(truth, rel=1e-3)


def test_an_engine_that_dies_early_is_an_error(
    fake_vllm: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM_DEATH", "2")
    with pytest.raises(EngineError, match="the fake engine was told to die"):
        measure(
            Measurement(str(model_folder), {}, tmp_path / "p", 60), find_vllm(str(fake_vllm)), lambda done, note: None
        )
    assert not (tmp_path / "p").exists()


def test_an_engine_that_dies_later_leaves_a_profile_of_what_was_measured(
    fake_vllm: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM_DEATH", "60")
    measure(Measurement(str(model_folder), {}, tmp_path / "p", 60), find_vllm(str(fake_vllm)), lambda done, note: None)
    assert any("the fake engine was told to die" in note for note in load_profile(tmp_path / "p").notes)


def test_a_full_disk_is_told_with_the_folder(
    fake_vllm: Path,
    model_folder: Path,
    tmp_path: Path,
    slotune: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(profile: Profile, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("slotune.profiler.measurement.measure.write_profile", full)
    out = tmp_path / "p"
    done = slotune(
        "profile", "measure", "--model", model_folder, "--budget", "1s", "--vllm-python", fake_vllm, "--out", out
    )
    assert done.code == 1
    assert done.err.splitlines()[-1] == f"Error: {out}: cannot be written: No space left on device"


def test_an_engine_that_hangs_costs_no_more_than_the_budget(
    fake_vllm: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slotune.profiler.measurement.measure.LEAST_PATIENCE_S", 0.5)
    monkeypatch.setattr("slotune.profiler.engine.server.STOP_GRACE_S", 0.5)  # it does not hear SIGTERM

    def stop(done: float, note: str) -> None:
        if "prompts of about" in note:
            for process in psutil.Process().children(recursive=True):
                if "serve" in process.cmdline() and "supervisor.py" not in " ".join(process.cmdline()):
                    process.suspend()

    begin = time.monotonic()
    measure(Measurement(str(model_folder), {}, tmp_path / "p", 15), find_vllm(str(fake_vllm)), stop)
    assert time.monotonic() - begin < 40
    notes = load_profile(tmp_path / "p").notes
    assert any("cut short: the engine failed: the engine hangs" in note for note in notes)


def test_a_recording_that_ends_early_is_told_and_not_waited_for(
    fake_vllm: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM_STEPS", "300")
    begin = time.monotonic()
    measure(Measurement(str(model_folder), {}, tmp_path / "p", 60), find_vllm(str(fake_vllm)), lambda done, note: None)
    assert time.monotonic() - begin < 45
    assert any("of what was answered, no step was recorded" in note for note in load_profile(tmp_path / "p").notes)


def test_a_folder_that_holds_something_else_is_left_alone(fake_vllm: Path, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.measure").mkdir()
    (tmp_path / "p.measure" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds something that is no measurement"):
        measure(
            Measurement(str(model_folder), {}, tmp_path / "p", 60), find_vllm(str(fake_vllm)), lambda done, note: None
        )
    assert [one.name for one in (tmp_path / "p.measure").iterdir()] == ["thesis.tex"]


def test_what_a_call_left_that_was_killed_at_its_first_write_is_no_hindrance(
    fake_vllm: Path, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.measure").mkdir()
    (tmp_path / "p.measure" / f"{UNFINISHED}0").write_text("{")
    measure(Measurement(str(model_folder), {}, tmp_path / "p", 8.0), find_vllm(str(fake_vllm)), lambda done, note: None)
    assert load_profile(tmp_path / "p").source == "measured"


def test_several_engines_at_once_are_refused_before_one_is_started(
    fake_vllm: Path, model_folder: Path, tmp_path: Path
) -> None:
    task = Measurement(str(model_folder), {"data_parallel_size": 2}, tmp_path / "p", 5.0)
    with pytest.raises(InputError, match="data_parallel_size=2: of a dense model each is an engine"):
        measure(task, find_vllm(str(fake_vllm)), lambda done, note: None)
    assert list(tmp_path.glob("p*")) == []


def test_a_start_that_uses_the_budget_up_is_told(fake_vllm: Path, model_folder: Path, tmp_path: Path) -> None:
    moments = iter([0.0])  # when it begins; whenever else it is asked, the time is up
    task = Measurement(str(model_folder), {}, tmp_path / "p", 60.0)
    profile = measure(task, find_vllm(str(fake_vllm)), lambda done, note: None, lambda: next(moments, 1e4))
    assert any("cut short: the engine took so long to start" in note for note in profile.notes)
