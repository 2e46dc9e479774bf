"""The recorder, mixed into a scheduler of the shape that vLLM's has."""

import errno
import json
import sys
import threading
import time
from functools import partialmethod
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from slotune.profiler import recorder
from slotune.profiler.recorder import Recorder, Writer, make_scheduler


class Scheduler:
    """Schedules whatever it is told to, as vLLM's does: computed tokens advance at schedule time."""

    def __init__(self) -> None:
        self.requests: dict[str, Any] = {}
        self.unfinished = True
        self.closed = False
        self.max_num_scheduled_tokens = 512
        self.scheduler_config = SimpleNamespace(max_num_batched_tokens=512)
        pool = SimpleNamespace(get_num_free_blocks=lambda: 42)
        self.kv_cache_manager = SimpleNamespace(block_pool=pool)

    def add_request(self, request: Any) -> None:
        self.requests[request.request_id] = request

    def schedule(self, tokens: dict[str, int]) -> Any:
        for name, count in tokens.items():
            self.requests[name].num_computed_tokens += count
        return SimpleNamespace(num_scheduled_tokens=tokens)

    def update_from_output(self, output: Any) -> str:
        return "outputs"

    def has_unfinished_requests(self) -> bool:
        return self.unfinished

    def _preempt_request(self, request: Any, timestamp: float) -> None:
        request.num_computed_tokens = 0

    def set_pause_state(self, state: str) -> None:
        self.pause_state = state

    def shutdown(self) -> None:
        self.closed = True


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


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_diffusion_models_keep_their_own_scheduler_where_vllm_has_one(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool, is_known: bool
) -> None:
    places = {"Scheduler": "scheduler", "AsyncScheduler": "async_scheduler"}
    if is_known:
        places |= dict.fromkeys(("DiffusionScheduler", "DiffusionAsyncScheduler"), "diffusion_scheduler")
    for package in ("vllm", "vllm.v1", "vllm.v1.core", "vllm.v1.core.sched"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    sched = sys.modules["vllm.v1.core.sched"]
    for name, place in places.items():
        module = sys.modules.get(f"{sched.__name__}.{place}") or ModuleType(place)
        setattr(module, name, name)
        monkeypatch.setitem(sys.modules, f"{sched.__name__}.{place}", module)
        monkeypatch.setattr(sched, place, module, raising=False)
    config = SimpleNamespace(scheduler_config=SimpleNamespace(async_scheduling=asynchronous), diffusion_config=object())
    plain = "AsyncScheduler" if asynchronous else "Scheduler"
    assert recorder._base_scheduler(config) == f"{'Diffusion' if is_known else ''}{plain}"
    config.diffusion_config = None
    assert recorder._base_scheduler(config) == plain


def test_an_unasked_recorder_leaves_the_scheduler_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recorder, "_base_scheduler", lambda config: lambda **words: Scheduler())
    monkeypatch.setattr(recorder, "_facts", lambda config, kv: {"num_gpu_blocks": kv.num_blocks})
    monkeypatch.setenv("SLOTUNE_FACTS", str(tmp_path / "facts.json"))
    monkeypatch.setenv("SLOTUNE_STEPS", "")
    config = SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_rank=0))
    scheduler = make_scheduler(vllm_config=config, kv_cache_config=SimpleNamespace(num_blocks=7))
    assert type(scheduler) is Scheduler
    assert json.loads((tmp_path / "facts.json").read_text()) == {"num_gpu_blocks": 7}


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Of the second of two engines of a dense model: vLLM gives each the rank 0 and an index of its own."""
    monkeypatch.setattr(recorder, "_base_scheduler", lambda config: Scheduler)
    monkeypatch.setattr(Scheduler, "__init__", partialmethod(lambda self, **words: None))
    return SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_rank=0, data_parallel_index=1))


def test_engines_side_by_side_write_files_of_their_own(
    config: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOTUNE_STEPS", str(tmp_path / "steps.jsonl"))
    scheduler = make_scheduler(vllm_config=config)
    scheduler.shutdown()
    assert [path.name for path in tmp_path.iterdir()] == ["steps.jsonl.1"]


@pytest.mark.parametrize(("name", "value"), [("SLOTUNE_STEPS", "/nowhere/steps.jsonl"), ("SLOTUNE_STEPS_MIB", "many")])
def test_what_cannot_be_recorded_does_not_keep_the_engine_from_starting(
    config: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv("SLOTUNE_STEPS", str(tmp_path / "steps.jsonl"))
    monkeypatch.setenv(name, value)
    assert type(make_scheduler(vllm_config=config)) is Scheduler
    assert "no steps are recorded" in capsys.readouterr().err


def tensor(size: int, **others: object) -> SimpleNamespace:
    return SimpleNamespace(size=size, **others)


@pytest.mark.parametrize(
    "tensors",
    [
        [tensor(300, shared_by=["a"]), tensor(400, shared_by=["b"])],
        [tensor(300, shared_by=["a"], block_stride=0), tensor(400, shared_by=["b"], block_stride=0)],
        [tensor(700, shared_by=["a"], block_stride=70), tensor(700, shared_by=["b"], block_stride=70)],
        [tensor(700, layers=["a"], block_stride=30), tensor(700, layers=["b"], block_stride=40)],
    ],
)
def test_bytes_of_a_block_in_the_forms_that_versions_of_vllm_tell_them(tensors: list[object]) -> None:
    """0.20; 0.25, by itself and packed; 0.32."""
    assert recorder._bytes_per_block(SimpleNamespace(kv_cache_tensors=tensors, num_blocks=10)) == 70


@pytest.mark.parametrize(
    ("names", "text", "token_bytes"),
    [
        (["m.0.self_attn.attn", "m.0.self_attn.indexer.k_cache"], {"index_head_dim": 128}, 132),
        (["m.0.attn", "m.3.indexer.index_cache"] * 2, {"sparse_attention_config": {"sparse_index_dim": 128}}, 512),
        (["m.0.self_attn.attn"], {}, 0),
    ],
)
def test_bytes_of_index_keys_are_told_apart(names: list[str], text: dict[str, Any], token_bytes: int) -> None:
    model = SimpleNamespace(model_config=SimpleNamespace(hf_text_config=SimpleNamespace(**text)))
    cache = SimpleNamespace(kv_cache_groups=[SimpleNamespace(layer_names=names)])
    assert recorder._index_bytes(model, cache) == token_bytes


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
