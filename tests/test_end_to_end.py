"""The main job on a real engine, killed outright in the middle and called again: benchmarks/end_to_end.py --short."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from slotune.tuner.study.study import Study, Trial

pytestmark = pytest.mark.engine
PATIENCE_S = 1200.0


def measured(study: Path) -> list[Trial]:
    if not (study / "trials.sqlite").exists():
        return []
    with Study.open(study) as opened:
        return opened.trials("hardware")


def of_this_test(folder: Path) -> list[psutil.Process]:
    """Processes whose command line names the folder: the engine is given its model's path there."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def wait_until(done: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.5)


def test_killed_and_called_again_it_ends_with_three_measured_configurations(
    vllm_python: str, repository: Path, tmp_path: Path
):
    script, out = repository / "benchmarks" / "end_to_end.py", tmp_path / "out"
    words = [sys.executable, str(script), "--short", "--vllm-python", vllm_python, "--out", str(out)]
    with (tmp_path / "first.log").open("w") as log, subprocess.Popen(words, stdout=log, stderr=log) as first:
        wait_until(lambda: first.poll() is not None or bool(measured(out / "study")), PATIENCE_S)
        assert first.poll() is None, (tmp_path / "first.log").read_text()
        wait_until(lambda: len(of_this_test(out / "model")) > 0, PATIENCE_S)  # the next configuration's engine
        first.send_signal(signal.SIGKILL)
    kept = measured(out / "study")
    wait_until(lambda: of_this_test(out) == [], 60)

    again = subprocess.run(words, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert measured(out / "study")[: len(kept)] == kept
    assert "3 configurations measured 2 times or more" in again.stdout
    assert "profile measure" not in again.stderr  # nothing that was done is done again
    assert "mean TTFT" in again.stdout
    assert (out / "study" / "report.html").exists()
    assert of_this_test(out) == []
