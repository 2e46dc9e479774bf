"""Workers answer in order, share what they were given, and their ends are known."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from slotune.errors import SlotuneError
from slotune.tuner.evaluate import SimulatedRun
from slotune.tuner.workers import workers


@pytest.fixture
def run(small_profile, small_trace):
    return SimulatedRun(small_profile, small_trace(), percentiles=(97.5,))


@pytest.mark.parametrize("jobs", [1, 3])
def test_answers_come_in_order_whatever_the_number_of_workers(run, jobs):
    with workers(run, jobs) as run_all:
        outcomes = list(run_all([{"max_num_seqs": n} for n in (1, 2, 4, 8)]))
    assert [o.metrics for o in outcomes] == [run({"max_num_seqs": n}).metrics for n in (1, 2, 4, 8)]


OTHERWISE_BEGUN = """
import multiprocessing
from slotune.tuner.workers import workers
if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    with workers(abs, 2) as ask_all:
        print(list(ask_all([-1, -2, -3])))
"""


def test_workers_are_forked_where_python_has_another_way_by_default():
    """As from Python 3.14 on: a worker would have another parent, and take itself for an orphan."""
    words = [sys.executable, "-c", OTHERWISE_BEGUN]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.stdout == "[1, 2, 3]\n"


def dies(question):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_one_clear_error():
    with pytest.raises(SlotuneError, match="a worker process died"), workers(dies, 2) as ask_all:
        list(ask_all([1, 2, 3]))


def waits(question):
    time.sleep(60)


def test_nobody_waits_for_the_workers_when_interrupted():
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before, begin = signal.signal(signal.SIGALRM, interrupt), time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt), workers(waits, 2) as ask_all:
            signal.alarm(1)
            list(ask_all([1, 2, 3]))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begin < 20


PARENT = """
import time
from slotune.tuner.workers import workers
def wait(question):
    time.sleep(60)
with workers(wait, 2) as ask_all:
    answers = ask_all([1, 2])
    print("started", flush=True)
    next(answers)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_workers_end_with_a_parent_that_was_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        children = wait_for(lambda: [p for p in psutil.Process(parent.pid).children() if p.is_running()])
        parent.kill()
    assert len(children) == 2
    assert wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))


def wait_for(condition, at_most_s=20.0):
    until = time.monotonic() + at_most_s
    while not (value := condition()) or (isinstance(value, list) and len(value) < 2):
        assert time.monotonic() < until, "still waiting"
        time.sleep(0.02)
    return value
