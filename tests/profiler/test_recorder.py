"""The recorder, mixed into a scheduler of the shape that vLLM's has."""

import errno
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slotune.profiler import recorder
from slotune.profiler.recorder import Recorder, Writer
from slotune.tests.profiler.plain_scheduler import Scheduler


class Recorded(Recorder, Scheduler):
    pass


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(recorder, "perf_counter", clock)
    return clock


def recorded(path: Path, names: list[str], control: bool = False, limit_bytes: int = 1 << 20) -> Recorded:
    scheduler = Recorded()
    scheduler.start_recording(Writer(str(path), limit_bytes), control)
    for name in names:
        scheduler.add_request(SimpleNamespace(request_id=name, num_computed_tokens=0))
    return scheduler


def step(scheduler: Recorded, clock: Clock, tokens: dict[str, int], at: float, until: float) -> None:
    clock.now = at
    output = scheduler.schedule(tokens)
    clock.now = until
    assert scheduler.update_from_output(output) == "outputs"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_steps_are_written_in_the_scheduler_s_order_with_their_contexts(tmp_path: Path, clock: Clock) -> None:
    scheduler = recorded(tmp_path / "steps.jsonl", ["cmpl-b-0-0a1b2c3d", "cmpl-a-0-0a1b2c3d"])
    step(scheduler, clock, {"cmpl-b-0-0a1b2c3d": 5, "cmpl-a-0-0a1b2c3d": 7}, at=1.0, until=1.010)
    step(scheduler, clock, {"cmpl-b-0-0a1b2c3d": 1, "cmpl-a-0-0a1b2c3d": 3}, at=1.012, until=1.015)
    scheduler.shutdown()
    assert scheduler.closed
    assert lines(tmp_path / "steps.jsonl") == [
        {
            "step": 1,
            "start_ms": 1000.0,
            "end_ms": 1010.0,
            "rows": [["b", 5, 0], ["a", 7, 0]],
            "preempted": [],
            "free_blocks": 42,
        },
        {
            "step": 2,
            "start_ms": 1010.0,  # the engine had work: what it did in between belongs to the step
            "end_ms": 1015.0,
            "rows": [["b", 1, 5], ["a", 3, 7]],
            "preempted": [],
            "free_blocks": 42,
        },
    ]


def test_a_step_after_idling_starts_when_it_is_scheduled(tmp_path: Path, clock: Clock) -> None:
    scheduler = recorded(tmp_path / "steps.jsonl", ["a"])
    scheduler.unfinished = False
    step(scheduler, clock, {"a": 5}, at=1.0, until=1.010)
    step(scheduler, clock, {"a": 1}, at=3.0, until=3.005)
    scheduler.shutdown()
    assert [(one["start_ms"], one["end_ms"]) for one in lines(tmp_path / "steps.jsonl")] == [(1000, 1010), (3000, 3005)]


def test_under_async_scheduling_a_step_lasts_from_output_to_output(tmp_path: Path, clock: Clock) -> None:
    scheduler = recorded(tmp_path / "steps.jsonl", ["a"])
    clock.now = 1.0
    first = scheduler.schedule({"a": 5})
    clock.now = 1.001
    second = scheduler.schedule({"a": 1})  # while the first runs
    clock.now = 1.010
    scheduler.update_from_output(first)
    clock.now = 1.011
    third = scheduler.schedule({})  # nothing to do: no step
    clock.now = 1.014
    scheduler.update_from_output(second)
    scheduler.update_from_output(third)
    scheduler.shutdown()
    assert [(one["start_ms"], one["end_ms"]) for one in lines(tmp_path / "steps.jsonl")] == [(1000, 1010), (1010, 1014)]


def test_waiting_without_a_row_is_no_part_of_the_step_after_it(tmp_path: Path, clock: Clock) -> None:
    """As for a grammar: vLLM schedules nothing, and takes that in, until it is there."""
    scheduler = recorded(tmp_path / "steps.jsonl", ["a"])
    step(scheduler, clock, {}, at=5.0, until=5.001)
    step(scheduler, clock, {}, at=5.001, until=5.002)
    step(scheduler, clock, {"a": 5}, at=5.003, until=5.013)
    scheduler.shutdown()
    assert [(one["start_ms"], one["end_ms"]) for one in lines(tmp_path / "steps.jsonl")] == [(5002, 5013)]


def test_requests_keep_the_names_that_clients_gave_them(tmp_path: Path, clock: Clock) -> None:
    names = ["chatcmpl-req-7-abcdef12", "chatcmpl-req-8-abcdef12", "cmpl-req-7-0-abcdef12", "other-3"]
    scheduler = recorded(tmp_path / "steps.jsonl", names)
    step(scheduler, clock, dict.fromkeys(names, 1), at=1.0, until=1.1)
    scheduler.shutdown()
    assert [row[0] for row in lines(tmp_path / "steps.jsonl")[0]["rows"]] == ["req-7", "req-8", "req-7", "other-3"]


def test_preempted_requests_stand_in_the_step_that_preempted_them(tmp_path: Path, clock: Clock) -> None:
    scheduler = recorded(tmp_path / "steps.jsonl", ["a", "b"])
    scheduler._preempt_request(scheduler.requests["b"], 0.0)
    step(scheduler, clock, {"a": 1}, at=1.0, until=1.1)
    step(scheduler, clock, {"a": 1}, at=1.1, until=1.2)
    scheduler.shutdown()
    assert [one["preempted"] for one in lines(tmp_path / "steps.jsonl")] == [["b"], []]


@pytest.mark.parametrize(("control", "limits"), [(True, [64, 64, 512, 512]), (False, [512] * 4)])
def test_request_ids_set_the_limit_only_where_that_is_allowed(
    control: bool, limits: list[int], tmp_path: Path, clock: Clock
) -> None:
    scheduler = recorded(tmp_path / "steps.jsonl", [], control)
    seen = []
    for name in ("cmpl-slotune-cap64-s1.0-0", "cmpl-s1.1-0", "cmpl-slotune-cap0-s2.0-0", "cmpl-slotune-cap9999-s3.0-0"):
        scheduler.add_request(SimpleNamespace(request_id=name, num_computed_tokens=0))
        seen.append(scheduler.max_num_scheduled_tokens)
    assert seen == limits


class FullDisk:
    """A file on a disk that is full after some lines."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, text: str) -> None:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None: ...

    def close(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_the_recording_and_not_the_engine(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler = recorded(tmp_path / "steps.jsonl", ["a"])
    scheduler._writer._file = FullDisk(room=2)
    for index in range(5):
        step(scheduler, clock, {"a": 1}, at=float(index), until=index + 0.5)
    scheduler.shutdown()
    assert (scheduler._writer.written, scheduler._writer.dropped) == (2, 3)
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_recording_stops_at_its_limit(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler = recorded(tmp_path / "steps.jsonl", ["a"], limit_bytes=200)
    for index in range(5):
        step(scheduler, clock, {"a": 1}, at=float(index), until=index + 0.5)
    scheduler.shutdown()
    assert len(lines(tmp_path / "steps.jsonl")) == 2
    assert (tmp_path / "steps.jsonl").stat().st_size <= 200
    assert "the limit of" in capsys.readouterr().err


def test_a_step_that_is_not_written_keeps_its_place_and_is_told(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler = recorded(tmp_path / "steps.jsonl", ["a"])
    for index, room in enumerate((9, 0, 9)):
        monkeypatch.setattr(recorder, "MAX_WAITING_ROWS", room)
        step(scheduler, clock, {"a": 1}, at=float(index), until=index + 0.5)
    scheduler.shutdown()
    assert [line["step"] for line in lines(tmp_path / "steps.jsonl")] == [1, 3]
    assert "1 of 3 steps were not recorded" in capsys.readouterr().err


def test_a_writer_that_cannot_keep_up_drops_steps_instead_of_filling_the_memory(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_WAITING_ROWS", 3)
    go_on = threading.Event()
    slow = recorder._as_line
    monkeypatch.setattr(recorder, "_as_line", lambda *words: go_on.wait() and slow(*words))
    scheduler = recorded(tmp_path / "steps.jsonl", ["a"])
    for index in range(10):
        step(scheduler, clock, {"a": 1}, at=float(index), until=index + 0.5)
    go_on.set()
    scheduler.shutdown()
    assert scheduler._writer.dropped >= 6
    assert scheduler._writer.written == 10 - scheduler._writer.dropped


def test_a_writer_that_keeps_up_drops_nothing_and_forgets_old_names(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_WAITING_ROWS", 1)
    monkeypatch.setattr(recorder, "MAX_NAMES", 3)
    formatted, known = threading.Semaphore(0), []
    plain = recorder._as_line

    def line(*words: Any) -> str:
        text = plain(*words)
        known.append(len(words[-1]))
        formatted.release()
        return text

    monkeypatch.setattr(recorder, "_as_line", line)
    names = [f"request-{index}" for index in range(10)]
    scheduler = recorded(tmp_path / "steps.jsonl", names)
    for index, name in enumerate(names):
        step(scheduler, clock, {name: 1}, at=float(index), until=index + 0.5)
        assert formatted.acquire(timeout=60)
    scheduler.shutdown()
    assert scheduler._writer.dropped == 0
    assert [row[0] for line in lines(tmp_path / "steps.jsonl") for row in line["rows"]] == names
    assert max(known) <= 4


def test_no_step_has_the_time_for_which_the_engine_was_paused(tmp_path: Path, clock: Clock) -> None:
    scheduler = recorded(tmp_path / "steps.jsonl", ["a"])
    step(scheduler, clock, {"a": 1}, at=1.0, until=1.010)
    scheduler.set_pause_state("all")
    scheduler.set_pause_state("none")
    step(scheduler, clock, {"a": 1}, at=3.0, until=3.010)
    step(scheduler, clock, {"a": 1}, at=3.012, until=3.020)
    scheduler.shutdown()
    assert scheduler.pause_state == "none"
    assert [line["start_ms"] for line in lines(tmp_path / "steps.jsonl")] == [1000.0, 3000.0, 3010.0]


def test_the_engine_s_thread_pays_little(tmp_path: Path) -> None:
    """256 rows: under 1 % of a 10 ms step, measured on the thread itself."""
    names = [f"cmpl-{index}-0-0a1b2c3d" for index in range(256)]
    plain, with_recorder = Scheduler(), recorded(tmp_path / "steps.jsonl", names)
    plain.requests = dict(with_recorder.requests)
    tokens = dict.fromkeys(names, 1)

    def cost_s(scheduler: Any) -> float:
        best = float("inf")
        for _ in range(30):
            begin = time.thread_time()
            scheduler.update_from_output(scheduler.schedule(tokens))
            best = min(best, time.thread_time() - begin)
        return best

    extra_s = cost_s(with_recorder) - cost_s(plain)
    with_recorder.shutdown()
    assert extra_s < 100e-6
