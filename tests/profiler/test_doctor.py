"""What the doctor finds."""

import json
import os
import sys
from pathlib import Path

import psutil
import pytest

from slotune.cli import main
from slotune.profiler.doctor import CPU_INSTALLATION, examine
from slotune.profiler.engine.devices import Gpu, gpus, processor


@pytest.fixture
def no_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH on which nothing is found, to put commands in."""
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


def command(folder: Path, name: str, says: str, code: int = 0) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\nprintf '{says}'\nexit {code}\n")
    path.chmod(0o755)


H200, GB10 = Gpu("NVIDIA H200", 143771 * 2**20, "580.82.07"), Gpu("NVIDIA GB10", 0.0, "580.1")
TWO_GPUS = "0, GPU-a0, NVIDIA H200, 143771, 580.82.07\\n1, GPU-b1, NVIDIA GB10, [N/A], 580.1\\n"


def test_gpus_as_the_driver_names_them(no_commands: Path) -> None:
    assert gpus() == []
    command(no_commands, "nvidia-smi", TWO_GPUS)
    assert gpus() == [H200, GB10]


@pytest.mark.parametrize(
    ("visible", "left"),
    [
        ("0", [H200]),
        ("1", [GB10]),
        ("1, 0", [GB10, H200]),
        ("GPU-b1", [GB10]),
        ("", []),
        ("-1", []),
        ("7", []),
        ("MIG-a0", [H200, GB10]),
    ],
)
def test_gpus_that_an_engine_does_not_see_are_none(
    no_commands: Path, monkeypatch: pytest.MonkeyPatch, visible: str, left: list[Gpu]
) -> None:
    command(no_commands, "nvidia-smi", TWO_GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == left


def test_a_driver_that_fails_is_no_gpu(no_commands: Path) -> None:
    command(no_commands, "nvidia-smi", "NVIDIA-SMI has failed", code=9)
    assert gpus() == []


def test_what_is_missing_comes_with_the_command_that_installs_it(no_commands: Path) -> None:
    found = {finding.name: finding for finding in examine()}
    assert found["vLLM"].state == "missing"
    assert found["vLLM"].mend == CPU_INSTALLATION
    command(no_commands, "nvidia-smi", "0, GPU-a0, NVIDIA H200, 143771, 580.82.07\\n")
    found = {finding.name: finding for finding in examine()}
    assert found["GPU 0"].value == "NVIDIA H200, 140 GiB, driver 580.82.07"
    assert "slotune[vllm]" in str(found["vLLM"].mend)


def test_an_engine_that_is_there_is_named_with_its_command(fake_vllm: Path) -> None:
    found = {finding.name: finding for finding in examine(str(fake_vllm))}
    assert found["vLLM"].value == "0.32.0+cpu (CPU build)"
    assert found["engine command"].value == f"{fake_vllm} serve"
    assert found["processor"].value.startswith(processor())
    assert f"{len(os.sched_getaffinity(0))} of" in found["processor"].value
    total, available = (float(part.split()[0]) for part in found["memory"].value.split(", "))
    assert total == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.1) and 0 < available <= total
    assert found["numpy"].state == "ok"


def test_the_command_prints_a_table_or_one_document(fake_vllm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--vllm-python", str(fake_vllm)]) == 0
    assert "engine command" in capsys.readouterr().out
    assert main(["doctor", "--vllm-python", str(fake_vllm), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {"name", "state", "value", "mend"} == set(findings[0])
    assert findings[0]["value"].endswith(f"({sys.executable})")


def test_a_wrong_interpreter_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--vllm-python", "/nowhere/python"]) == 2
    assert capsys.readouterr().err.startswith("Error: --vllm-python /nowhere/python: ")
