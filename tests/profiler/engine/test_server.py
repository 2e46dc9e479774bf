"""The engine as a part, with a stand-in for vLLM; test_engine.py does it with the real one."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from slotune.errors import EngineError, InputError
from slotune.profiler.engine.launch import find_vllm
from slotune.profiler.engine.server import running_server

START = """
import sys, time
from pathlib import Path
from slotune.profiler.engine.launch import find_vllm
from slotune.profiler.engine.server import running_server
with running_server(find_vllm(sys.argv[1]), sys.argv[2], {}, Path(sys.argv[3])) as server:
    print(server.process.pid, flush=True)
    time.sleep(300)
"""


def test_a_server_is_healthy_tells_its_facts_and_is_gone_afterwards(
    fake_vllm: Path, model_folder: Path, tmp_path: Path
) -> None:
    launch = find_vllm(str(fake_vllm))
    with running_server(launch, str(model_folder), {"max_num_seqs": 16}, tmp_path / "run", record=True) as server:
        assert urllib.request.urlopen(f"{server.base_url}/health").status == 200
        assert (server.facts["num_gpu_blocks"], server.facts["block_size"], server.model) == (
            4096,
            16,
            str(model_folder),
        )
        assert server.steps_path == tmp_path / "run" / "steps.jsonl"
        server.check()
        family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
        assert len(family) == 2
    assert not any(process.is_running() for process in family)
    assert (tmp_path / "run" / "engine.log").exists()


def test_a_proxy_of_the_environment_is_not_asked_for_the_engine(
    fake_vllm: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    launch = find_vllm(str(fake_vllm))
    with running_server(launch, str(model_folder), {}, tmp_path / "run", timeout_s=20) as server:
        server.check()


def test_the_records_of_another_engine_are_not_begun_anew(
    fake_vllm: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the user's own engine writes, where the variable for it is exported."""
    monday = tmp_path / "monday.jsonl"
    monday.write_text("a day's steps\n")
    monkeypatch.setenv("SLOTUNE_STEPS", str(monday))
    with running_server(find_vllm(str(fake_vllm)), str(model_folder), {}, tmp_path / "run") as server:
        environment = psutil.Process(server.process.pid).children()[0].environ()
        server.check()
    assert "SLOTUNE_STEPS" not in environment and server.steps_path is None
    assert environment["SLOTUNE_FACTS"] == str(tmp_path / "run" / "facts.json")
    assert monday.read_text() == "a day's steps\n"


def test_a_failed_start_says_why(
    fake_vllm: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM_DEATH", "start")
    with (
        pytest.raises(EngineError, match="unrecognized arguments: --nonsense") as raised,
        running_server(find_vllm(str(fake_vllm)), str(model_folder), {}, tmp_path / "run"),
    ):
        pass
    assert raised.value.reason == "bad-argument"


def test_a_model_that_cannot_be_had_is_named(fake_vllm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM_DEATH", "model")
    with (
        pytest.raises(EngineError, match="model org/nope: An error happened while trying to locate the file: give a"),
        running_server(find_vllm(str(fake_vllm)), "org/nope", {}, tmp_path / "run"),
    ):
        pass


def test_a_start_that_takes_too_long_is_a_hang(model_folder: Path, tmp_path: Path) -> None:
    sleeper = tmp_path / "vllm"
    sleeper.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo 0.32.0\n[ "$1" = serve ] && echo loading && exec sleep 300\nexit 0\n'
    )
    sleeper.chmod(0o755)
    with (
        pytest.raises(EngineError, match="the last line of its log: loading") as raised,
        running_server(find_vllm(str(sleeper)), str(model_folder), {}, tmp_path / "run", timeout_s=3.0),
    ):
        pass
    assert raised.value.reason == "hang"


def test_an_engine_that_dies_later_is_noticed(fake_vllm: Path, model_folder: Path, tmp_path: Path) -> None:
    with running_server(find_vllm(str(fake_vllm)), str(model_folder), {}, tmp_path / "run") as server:
        psutil.Process(server.process.pid).children()[0].kill()
        server.process.wait(10)
        with pytest.raises(EngineError, match="killed") as raised:
            server.check()
    assert raised.value.reason == "killed"


def test_no_process_of_the_engine_outlives_a_killed_supervisor(
    fake_vllm: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's engine core is a child of what the supervisor starts: nothing tells it that the supervisor is gone."""
    command = tmp_path / "vllm"
    command.write_text(f'#!/bin/sh\n[ "$1" = serve ] && (trap "" TERM; exec sleep 300) &\nexec {fake_vllm} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setattr("slotune.profiler.engine.server.STOP_GRACE_S", 0.5)
    with running_server(find_vllm(str(command)), str(model_folder), {}, tmp_path / "run") as server:
        family = psutil.Process(server.process.pid).children(recursive=True)
        assert "sleep" in [process.name() for process in family]
        server.process.kill()
        with pytest.raises(EngineError) as raised:
            server.check(10)
    assert raised.value.reason == "killed"
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)


@pytest.mark.parametrize("name", ["model", "port", "scheduler_cls"])
def test_settings_that_slotune_needs_itself_are_refused(
    name: str, fake_vllm: Path, model_folder: Path, tmp_path: Path
) -> None:
    with (
        pytest.raises(InputError, match=f"{name}=1: slotune sets this itself"),
        running_server(find_vllm(str(fake_vllm)), str(model_folder), {name: 1}, tmp_path / "run"),
    ):
        pass


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no config.json"), ("{", "not readable as JSON"), ("{}", "names neither")]
)
def test_a_folder_that_is_no_model_is_refused_before_anything_starts(
    content: str | None, said: str, fake_vllm: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    if content is not None:
        (folder / "config.json").write_text(content)
    with (
        pytest.raises(InputError, match=said),
        running_server(find_vllm(str(fake_vllm)), str(folder), {}, tmp_path / "run"),
    ):
        pass
    assert not (tmp_path / "run" / "engine.log").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_engine_outlives_this_process(
    number: signal.Signals, fake_vllm: Path, model_folder: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "-c", START, str(fake_vllm), str(model_folder), str(tmp_path / "run")]
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert parent.stdout is not None
    supervisor = psutil.Process(int(parent.stdout.readline()))
    family = [supervisor, *supervisor.children(recursive=True)]
    assert os.getsid(supervisor.pid) == supervisor.pid  # Ctrl-C in a terminal goes to the parent alone
    parent.send_signal(number)
    parent.wait(30)
    deadline = time.monotonic() + 10
    while any(process.is_running() for process in family):
        assert time.monotonic() < deadline
        time.sleep(0.02)
