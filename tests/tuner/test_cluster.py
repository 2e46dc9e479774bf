"""A Dask cluster on loopback answers as this process does, survives its workers, and its faults are one clear line."""

import csv
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slotune.errors import InputError, SlotuneError
from slotune.tests.loopback import Loopback, loopback
from slotune.tuner import cluster
from slotune.tuner.workers import workers

OWN_PROCESS = "/proc/self"
"""os.readlink of it is the number of the process that asks: on Linux, where the package runs."""
LINEAR = ("--base-ms", 5, "--prefill-token-ms", 0.02, "--decode-seq-ms", 0.05, "--context-token-ms", 0.00002)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with loopback(tmp_path_factory.mktemp("cluster"), 2) as started:
        yield started


@pytest.fixture
def address(two_workers: Loopback) -> str:
    return two_workers.address


@pytest.fixture
def files(slotune: Callable, tmp_path: Path) -> tuple[object, ...]:
    assert slotune("profile", "linear", *LINEAR, "--out", tmp_path / "p").code == 0
    lines = [{"timestamp": i * 50, "input_length": 100 + i * 37 % 500, "output_length": 5 + i % 30} for i in range(60)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ("--profile", tmp_path / "p", "--trace", tmp_path / "t.jsonl")


def test_the_workers_of_the_cluster_answer_in_order(two_workers: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "MOST_UNDER_WAY", 30)
    with workers(os.readlink, dask_scheduler=two_workers.address) as ask_all:
        pids = {int(pid) for pid in ask_all([OWN_PROCESS] * 40)}
    assert pids == {worker.pid for worker in two_workers.workers}
    with workers(abs, dask_scheduler=two_workers.address) as ask_all:
        assert list(ask_all(range(-100, 0))) == list(range(100, 0, -1))
        assert list(ask_all([])) == []


def test_screen_writes_the_same_table_as_one_process(slotune: Callable, files, tmp_path: Path, address: str) -> None:
    (tmp_path / "grid.yaml").write_text("max_num_seqs: [1, 8, 64]\nmax_num_batched_tokens: [32, 512]\n")
    words = ("screen", *files, "--configs", tmp_path / "grid.yaml", "--slo", "p99:ttft:300", "--json")
    alone = slotune(*words, "--jobs", 1, "--out", tmp_path / "alone.csv")
    there = slotune(*words, "--dask-scheduler", address, "--out", tmp_path / "there.csv")
    assert (alone.code, there.code) == (0, 0), there.err
    assert there.out == alone.out
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()
    with (tmp_path / "there.csv").open() as file:
        assert [row["failure"] for row in csv.DictReader(file)].count("refused") == 1


def test_tune_makes_the_same_trials_as_one_process(slotune: Callable, files, tmp_path: Path, address: str) -> None:
    words = ("tune", *files, "--slo", "p99:tpot:12", "--trials", 24)
    alone = slotune(*words, "--jobs", 1, "--out", tmp_path / "alone")
    there = slotune(*words, "--dask-scheduler", address, "--out", tmp_path / "there")
    assert (alone.code, there.code) == (0, 0), there.err
    assert trials(tmp_path / "there") == trials(tmp_path / "alone")
    assert len([trial for trial in trials(tmp_path / "there") if trial["repeat"] == 0]) == 24
    assert (tmp_path / "there" / "best.yaml").read_bytes() == (tmp_path / "alone" / "best.yaml").read_bytes()


def trials(study: Path) -> list[dict[str, object]]:
    """All that is known of a study's trials but how long they took."""
    with sqlite3.connect(study / "trials.sqlite") as database:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("select * from trials")]
    return [{name: value for name, value in row.items() if name != "duration_s"} for row in rows]


def test_plan_finds_the_same_rate_as_one_process(slotune: Callable, files, address: str) -> None:
    words = ("plan", *files, "--slo", "p99:ttft:100", "--engine", "max_num_seqs=4", "--json")
    alone, there = slotune(*words, "--jobs", 1), slotune(*words, "--dask-scheduler", address)
    assert (alone.code, there.code) == (0, 0), there.err
    assert there.out == alone.out


DEADLY = """
import os, signal
def once(flag):
    try:
        os.unlink(flag)
    except FileNotFoundError:
        return int(os.readlink("/proc/self"))
    os.kill(os.getpid(), signal.SIGKILL)
def always(question):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_dead_worker_was_at_is_done_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly_once.py").write_text(DEADLY)
    (tmp_path / "flag").touch()
    monkeypatch.syspath_prepend(tmp_path)
    from deadly_once import once

    with loopback(tmp_path, 2) as started, workers(once, dask_scheduler=started.address) as ask_all:
        answered = list(ask_all([tmp_path / f"none-{n}" for n in range(5)] + [tmp_path / "flag"]))
        dead = [worker for worker in started.workers if worker.poll() is not None]
        assert len(answered) == 6
        assert [worker.returncode for worker in dead] == [-signal.SIGKILL]
        assert dead[0].pid != answered[-1]


def test_a_cluster_that_dies_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly_always.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cluster, "LOOK_AFTER_S", 0.1)
    monkeypatch.setattr(cluster, "RETURNS_WITHIN_S", 0.1)
    monkeypatch.setattr(cluster, "ANSWERS_WITHIN_S", 1.0)
    from deadly_always import always

    with loopback(tmp_path, 2, allowed_failures=0) as started:
        with (
            pytest.raises(SlotuneError, match="killed one worker of the Dask cluster after another"),
            workers(always, dask_scheduler=started.address) as ask_all,
        ):
            list(ask_all([1]))
        with (
            pytest.raises(SlotuneError, match="has had no workers for"),
            workers(abs, dask_scheduler=started.address) as ask_all,
        ):
            assert list(ask_all([-1])) == [1]
            for worker in started.workers:
                worker.kill()
                worker.wait()
            list(ask_all([-2]))
        with pytest.raises(InputError, match="the cluster has no workers; start some"):
            list(ask(abs, started.address, -1))


def ask(function: Callable, address: str, *questions: object) -> Iterator[object]:
    with workers(function, dask_scheduler=address) as ask_all:
        yield from ask_all(questions)


def test_a_scheduler_that_goes_away_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ANSWERS_WITHIN_S", 1.0)
    with (
        loopback(tmp_path, 1) as started,
        pytest.raises(SlotuneError, match="the connection to the Dask scheduler was lost"),
        workers(abs, dask_scheduler=started.address) as ask_all,
    ):
        assert list(ask_all([-1])) == [1]
        started.scheduler.kill()
        started.scheduler.wait()
        list(ask_all([-2]))


def test_only_one_line_is_told_of_a_scheduler_that_goes_away(files, tmp_path: Path) -> None:
    """Of a command of its own: the log is the process's."""
    (tmp_path / "grid.yaml").write_text(f"max_num_seqs: {list(range(1, 2001))}\n")
    words = [sys.executable, "-m", "slotune.cli", "screen", *map(str, files), "--configs", tmp_path / "grid.yaml"]
    with loopback(tmp_path, 1) as started:
        screen = subprocess.Popen(
            [*words, "--dask-scheduler", started.address], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert screen.stderr is not None
        assert next(line for line in screen.stderr if "%" in line)  # it is under way
        started.scheduler.kill()
        told = screen.stderr.read()
        assert screen.wait() == 1
    assert "Traceback" not in told
    assert "the connection to the Dask scheduler was lost" in told.splitlines()[-1]


def test_another_version_on_the_workers_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_sources", lambda: "other sources")
    with pytest.raises(InputError, match="has another version of slotune; install the same one everywhere"):
        list(ask(abs, address, -1))


def test_workers_without_the_code_are_refused(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text("def answer(question):\n    return question\n")
    monkeypatch.syspath_prepend(tmp_path)
    from only_here import answer

    with pytest.raises(InputError, match="cannot load slotune: No module named 'only_here'; install it there"):
        list(ask(answer, address, 1))


@pytest.mark.parametrize("listening", [True, False], ids=["silent", "refused"])
def test_an_address_where_no_scheduler_answers(
    slotune: Callable, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: bool
) -> None:
    monkeypatch.setattr(cluster, "ANSWERS_WITHIN_S", 0.3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listening:
            taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        study = tmp_path / "study"
        ran = slotune("tune", *files, "--slo", "p99:ttft:500", "--out", study, "--dask-scheduler", address)
    assert ran.code == 2
    assert ran.err.splitlines()[-1].startswith(f"Error: --dask-scheduler {address}: no Dask scheduler answers there")
    assert not study.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dask-scheduler", "http://127.0.0.1:8787"), "unknown address scheme 'http'"),
        (("--dask-scheduler", "127.0.0.1"), "missing port number"),
        (("--dask-scheduler", "tls://127.0.0.1:1"), "TLS expects a `ssl_context` argument"),
        (("--dask-scheduler", "127.0.0.1:1", "--jobs", "2"), "--jobs and --dask-scheduler: give one"),
    ],
)
def test_words_that_make_no_sense(slotune: Callable, files, tmp_path: Path, words, message: str) -> None:
    (tmp_path / "grid.yaml").write_text("max_num_seqs: [1]\n")
    ran = slotune("screen", *files, "--configs", tmp_path / "grid.yaml", *words)
    assert ran.code == 2
    assert message in ran.err.splitlines()[-1]
