"""Nothing that the supervisor started outlives its parent, its stop or its command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SUPERVISOR = Path(__file__).resolve().parents[3] / "profiler" / "engine" / "supervisor.py"
TREE = """
import os, signal, subprocess, sys, time
{first}
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
print(os.getpid(), grandchild.pid, flush=True)
{then}
"""
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def supervised(
    then: str, grace_s: float = 5.0, parent: int | None = None, first: str = ""
) -> tuple["subprocess.Popen[str]", list[int]]:
    """A running tree under a supervisor: the supervisor, and the ids of a process and its detached child."""
    words = [sys.executable, "-P", str(SUPERVISOR), str(parent or os.getpid()), str(grace_s)]
    command = [*words, sys.executable, "-c", TREE.format(first=first, then=then)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    return process, [int(word) for word in process.stdout.readline().split()]


def all_gone(pids: list[int], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while any(psutil.pid_exists(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_stopping_ends_the_tree_and_its_detached_child() -> None:
    process, pids = supervised("time.sleep(300)")
    assert len(pids) == 2
    process.terminate()
    assert process.wait(10) == 128 + signal.SIGTERM
    assert all_gone(pids)


def test_what_ignores_sigterm_is_killed_after_the_grace() -> None:
    process, pids = supervised("time.sleep(300)", grace_s=0.3, first=STUBBORN)
    process.terminate()
    assert process.wait(10) == 128 + signal.SIGKILL
    assert all_gone(pids)


def test_a_command_that_ends_leaves_no_orphan_and_passes_its_code_on() -> None:
    process, pids = supervised("sys.exit(7)")
    assert process.wait(10) == 7
    assert all_gone(pids)


def test_the_command_dies_with_a_killed_supervisor() -> None:
    process, pids = supervised("time.sleep(300)")
    process.kill()
    process.wait(10)
    try:
        assert all_gone(pids[:1])
    finally:
        os.kill(pids[1], signal.SIGKILL)  # detached, and its adopter is gone: nobody is left to end it


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_killed_parent(number: signal.Signals) -> None:
    command = [sys.executable, "-c", TREE.format(first=STUBBORN, then="time.sleep(300)")]
    starter = f"""
import os, subprocess, sys, time
words = [sys.executable, "-P", {str(SUPERVISOR)!r}, str(os.getpid()), "5"]
subprocess.Popen([*words, *{command!r}], start_new_session=True)
time.sleep(300)
"""
    parent = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    supervisor = psutil.Process(pids[0]).ppid()
    parent.send_signal(number)
    parent.wait(10)
    assert all_gone([supervisor, *pids], within_s=15)


def test_a_parent_that_is_already_gone_starts_nothing() -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    words = [sys.executable, "-P", str(SUPERVISOR), str(dead.pid), "5", sys.executable, "-c", "print('started')"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_command_may_be_stopped_where_its_starter_ignores_signals() -> None:
    ignoring = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        process, pids = supervised("time.sleep(300)")
    finally:
        for number, handler in ignoring.items():
            signal.signal(number, handler)
    os.kill(pids[0], signal.SIGHUP)
    assert process.wait(10) == 128 + signal.SIGHUP
    assert all_gone(pids)
