"""What all tests share: where the outside things are, and that nothing is skipped where everything must run.

SLOTUNE_SHARED              the folder of recorded schedules, traces and measurements (default: ../shared)
SLOTUNE_TEST_VLLM_PYTHON    an interpreter that has vLLM; without it tests marked `engine` skip
SLOTUNE_REQUIRE_ALL=1       a skipped test is a failed one, except those marked `gpu`
"""

import os
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest

from slotune.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent
REQUIRE_ALL = os.environ.get("SLOTUNE_REQUIRE_ALL") == "1"


def pytest_configure() -> None:
    """A shell's background job ignores Ctrl-C and hands that on to what it starts, which tests then press in vain.
    On a busy machine an example takes any time, and the first may compile."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hypothesis.settings.register_profile("slotune", hypothesis.settings(), deadline=None)
    hypothesis.settings.load_profile("slotune")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("gpu") is None:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped although SLOTUNE_REQUIRE_ALL=1: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    if REQUIRE_ALL and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped although SLOTUNE_REQUIRE_ALL=1: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout, which is the package slotune."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded data beside the repository; skips where there is none."""
    folder = Path(os.environ.get("SLOTUNE_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the recorded data in {folder} (or set SLOTUNE_SHARED)")
    return folder


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """An interpreter with vLLM; skips where SLOTUNE_TEST_VLLM_PYTHON names none."""
    interpreter = os.environ.get("SLOTUNE_TEST_VLLM_PYTHON")
    if not interpreter:
        pytest.skip("needs a real engine: set SLOTUNE_TEST_VLLM_PYTHON to a Python that has vLLM")
    return interpreter


@pytest.fixture
def fake_vllm(tmp_path: Path) -> Path:
    """A `vllm` command without a model (fake_vllm.py); its first line names no interpreter to be asked for vLLM."""
    script = Path(__file__).with_name("fake_vllm.py")
    command = tmp_path / "bin" / "vllm"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -P {script} "$@"\n')
    command.chmod(0o755)
    return command


class Outcome(NamedTuple):
    """What a call of the command line came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def slotune(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `slotune ARGS` in this process: `slotune("trace", "stats", path)` -> Outcome(code, out, err)."""

    def run(*args: object) -> Outcome:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        return Outcome(code, *capsys.readouterr())

    return run
