"""Records every step of a vLLM engine from inside: `vllm serve ... --scheduler-cls slotune_recorder.make_scheduler`.

This file is put on the PYTHONPATH of the engine's interpreter as `slotune_recorder.py` and must import nothing but the
standard library and vLLM. It derives from whichever scheduler vLLM would have used, asks nothing of it but its public
methods, and writes, as JSON lines, what slotune calls steps:

    {"step": k, "start_ms": t, "end_ms": t, "rows": [[id, tokens, context], ...], "preempted": [ids], "free_blocks": n}

Times are CLOCK_MONOTONIC, the clock of `time.perf_counter` in every process of the machine. A step ends when the
scheduler has taken in its output. It starts when the step before it ended, provided the engine had work then, else
when it was scheduled: so a step's time holds what the engine does between steps, and under asynchronous scheduling,
where step N + 1 is scheduled while N runs, it is the period from output to output, not the stay in the queue.

The engine's thread only copies references to a queue; another thread formats and writes. When that thread cannot keep
up, or the disk is full, or the size limit is reached, steps are dropped and the engine goes on; how many is said at its
end.

Environment:
  SLOTUNE_FACTS       file to write, once, with what the engine decided (KV blocks, batch limits, ...), as JSON
  SLOTUNE_STEPS       file to write steps to; unset: the scheduler is vLLM's own, unchanged
  SLOTUNE_STEPS_MIB   size at which recording stops, 1024 unless set
  SLOTUNE_CONTROL     1: request ids may set scheduler limits at run time, see `Recorder.add_request`
"""

import contextlib
import json
import os
import queue
import re
import sys
import threading
from operator import sub
from time import perf_counter
from typing import Any

MAX_WAITING_ROWS = 2_000_000
"""Rows that may wait for the writer: about 200 MB."""
MAX_NAMES = 100_000
DEFAULT_LIMIT_MIB = 1024
ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)
CONTROL = re.compile(r"slotune-cap(\d+)-")
VLLM_ID = re.compile(r"^(?:cmpl-(.+?)-\d+|chatcmpl-(.+?))(?:-[0-9a-f]{8})?$")
"""vLLM wraps the id that a client sends: cmpl-ID-<prompt>-<random> and chatcmpl-ID-<random>."""


class Recorder:
    """Mixed in before vLLM's scheduler class; `start_recording` must be called once."""

    def start_recording(self, writer: "Writer", control: bool) -> None:
        self._writer, self._control = writer, control
        self._in_flight: list[tuple[Any, Any]] = []  # (scheduler output, step or None), oldest first
        self._preempted: list[str] = []
        self._busy, self._last_end = False, 0.0

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        begin = perf_counter()
        follows = self._busy or bool(self._in_flight)
        output = super().schedule(*args, **kwargs)
        tokens = output.num_scheduled_tokens
        step = None
        if tokens:
            ids, counts = list(tokens), list(tokens.values())
            requests = self.requests
            computed = [requests[i].num_computed_tokens for i in ids]  # already advanced by the step's own tokens
            free = self.kv_cache_manager.block_pool.get_num_free_blocks()
            step = (None if follows else begin, ids, counts, computed, self._preempted, free)
            self._preempted = []
        self._in_flight.append((output, step))
        return output

    def update_from_output(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        result = super().update_from_output(scheduler_output, *args, **kwargs)
        end = perf_counter()
        step = self._taken(scheduler_output)
        if step is not None:
            begin = self._last_end if step[0] is None else step[0]
            self._writer.put(begin, end, step)
        self._last_end = end  # of one without rows too, as where a request waits for its grammar
        self._busy = self.has_unfinished_requests()
        return result

    def _taken(self, output: Any) -> Any:
        """The step of this output; those before it never got one."""
        while self._in_flight:
            scheduled, step = self._in_flight.pop(0)
            if scheduled is output:
                return step
        return None

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self._preempted.append(request.request_id)
        return super()._preempt_request(request, *args, **kwargs)

    def add_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """With SLOTUNE_CONTROL, an id with `slotune-cap<N>-` in it limits every later step to N tokens, 0 to
        max_num_batched_tokens: chunk sizes without a restart."""
        if self._control and (asked := CONTROL.search(request.request_id)):
            limit = self.scheduler_config.max_num_batched_tokens
            self.max_num_scheduled_tokens = min(int(asked[1]) or limit, limit)
        return super().add_request(request, *args, **kwargs)

    def set_pause_state(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's pause with mode "keep" holds requests back for as long as it likes: no step has that time."""
        self._busy = False
        return super().set_pause_state(*args, **kwargs)

    def shutdown(self, *args: Any, **kwargs: Any) -> Any:
        self._writer.close()
        return super().shutdown(*args, **kwargs)


class Writer:
    """Formats steps and appends them to a file, on a thread of its own."""

    def __init__(self, path: str, limit_bytes: int) -> None:
        self.path, self.limit_bytes = path, limit_bytes
        self.written = self._lost = self._rows_out = 0  # counted by the writer's thread
        self._refused = self._rows_in = self._number = 0  # counted by the engine's
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._file: Any = open(path, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - open as long as the engine runs
        self._thread = threading.Thread(target=self._run, name="slotune-recorder", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Steps that were not written."""
        return self._refused + self._lost

    def put(self, begin: float, end: float, step: Any) -> None:
        rows = len(step[1])
        self._number += 1  # of steps that are not written too, so that their place shows
        if self._file is None or self._rows_in - self._rows_out + rows > MAX_WAITING_ROWS:
            self._refused += 1
            return
        self._rows_in += rows
        self._queue.put((self._number, begin, end, step))

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(timeout=5)
        if self.dropped:
            told = f"{self.dropped} of {self.dropped + self.written} steps were not recorded"
            print(f"slotune: {told}", file=sys.stderr, flush=True)

    def _run(self) -> None:
        size = 0
        names: dict[str, str] = {}
        while (item := self._queue.get()) is not None:
            number, begin, end, step = item
            self._rows_out += len(step[1])
            line = _as_line(number, begin, end, step, names)
            size += len(line)
            if size > self.limit_bytes:
                self._give_up(f"the limit of {self.limit_bytes >> 20} MiB is reached")
            self._write(line)
            if self._queue.empty():
                self._flush()
        self._flush()

    def _write(self, line: str) -> None:
        if self._file is None:
            self._lost += 1
            return
        try:
            self._file.write(line)
            self.written += 1
        except OSError as error:
            self._lost += 1
            self._give_up(str(error))

    def _flush(self) -> None:
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as error:
                self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            print(f"slotune: recording to {self.path} ended: {reason}", file=sys.stderr, flush=True)
            with contextlib.suppress(OSError):  # what could not be written is lost; the reason was said
                file.close()


def _as_line(number: int, begin: float, end: float, step: Any, names: dict[str, str]) -> str:
    """The step as JSON. All of it in C: while this thread computes, the engine's cannot."""
    _, ids, counts, computed, preempted, free = step
    if len(names) > MAX_NAMES:
        names.clear()
    for known in (ids, preempted):
        for unknown in set(known).difference(names):
            match = VLLM_ID.match(unknown)
            names[unknown] = match[1] or match[2] if match else unknown
    name = names.__getitem__
    record = {
        "step": number,
        "start_ms": round(begin * 1e3, 4),
        "end_ms": round(end * 1e3, 4),
        "rows": list(zip(map(name, ids), counts, map(sub, computed, counts))),  # noqa: B905 - of one length
        "preempted": list(map(name, preempted)),
        "free_blocks": free,
    }
    return ENCODER.encode(record) + "\n"


def make_scheduler(*args: Any, **kwargs: Any) -> Any:
    """What EngineCore calls in place of a scheduler class."""
    config = kwargs.get("vllm_config") or args[0]
    base = _base_scheduler(config)
    parallel = config.parallel_config  # the rank of every dense model's engine is 0; versions before have no index
    rank = getattr(parallel, "data_parallel_index", getattr(parallel, "data_parallel_rank", 0))
    _write_facts(_ranked(os.environ.get("SLOTUNE_FACTS"), rank), config, kwargs.get("kv_cache_config"))
    path = _ranked(os.environ.get("SLOTUNE_STEPS"), rank)
    if not path:
        return base(*args, **kwargs)
    try:
        writer = Writer(path, int(os.environ.get("SLOTUNE_STEPS_MIB", DEFAULT_LIMIT_MIB)) << 20)
    except (OSError, ValueError) as error:
        print(f"slotune: no steps are recorded: {error}", file=sys.stderr, flush=True)
        return base(*args, **kwargs)
    scheduler = type(f"Recorded{base.__name__}", (Recorder, base), {})(*args, **kwargs)
    scheduler.start_recording(writer, os.environ.get("SLOTUNE_CONTROL") == "1")
    return scheduler


def _base_scheduler(config: Any) -> Any:
    """The class that vLLM would have used: where nobody names one, diffusion models have their own since vLLM has it
    (VllmConfig.__post_init__, vllm/config/vllm.py)."""
    if getattr(config, "diffusion_config", None) is not None:
        with contextlib.suppress(ImportError):  # of a version that does not have it yet
            from vllm.v1.core.sched import diffusion_scheduler as diffusion

            asynchronous = config.scheduler_config.async_scheduling
            return diffusion.DiffusionAsyncScheduler if asynchronous else diffusion.DiffusionScheduler
    if config.scheduler_config.async_scheduling:
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler

        return AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    return Scheduler


def _ranked(path: str | None, rank: int) -> str | None:
    return path if not path or not rank else f"{path}.{rank}"


def _write_facts(path: str | None, config: Any, kv_cache_config: Any) -> None:
    if not path:
        return
    try:
        with open(path + ".part", "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(_facts(config, kv_cache_config), file, default=str)
        os.replace(path + ".part", path)  # noqa: PTH105
    except OSError as error:
        print(f"slotune: {path}: {error}", file=sys.stderr, flush=True)


def _facts(config: Any, kv_cache_config: Any) -> dict[str, Any]:
    """What the engine decided. A name that this version of vLLM lacks is null."""
    import vllm

    parts = {
        "scheduler_config": (
            "max_num_batched_tokens max_num_scheduled_tokens max_num_seqs max_num_active_seqs policy async_scheduling "
            "enable_chunked_prefill long_prefill_token_threshold long_prefill_token_threshold_adaptive watermark "
            "scheduler_reserve_full_isl stream_interval"
        ),
        "cache_config": (
            "block_size cache_dtype gpu_memory_utilization kv_cache_memory_bytes enable_prefix_caching "
            "num_gpu_blocks num_gpu_blocks_override"
        ),
        "model_config": "model max_model_len dtype quantization enforce_eager",
        "parallel_config": "tensor_parallel_size pipeline_parallel_size data_parallel_size",
        "compilation_config": "cudagraph_mode cudagraph_capture_sizes",
        "device_config": "device_type",
    }
    facts = {"vllm_version": vllm.__version__}
    for part, names in parts.items():
        for name in names.split():
            facts[name] = getattr(getattr(config, part, None), name, None)
    if kv_cache_config is not None:
        facts["num_gpu_blocks"] = kv_cache_config.num_blocks
        facts["kv_cache_groups"] = [type(group.kv_cache_spec).__name__ for group in kv_cache_config.kv_cache_groups]
        facts["kv_bytes_per_block"] = _bytes_per_block(kv_cache_config)
        facts["kv_index_bytes_per_token"] = _index_bytes(config, kv_cache_config)
    return facts


def _bytes_per_block(kv_cache_config: Any) -> float | None:
    """Bytes of one block in all layers of one rank; None where the model keeps no keys and values.

    Each tensor of `kv_cache_config` has an allocation of its own, or all lie in one whose size each of them names (from
    vLLM 0.32 on, and in packed layouts before it). Source: vllm/v1/kv_cache_interface.py, KVCacheTensor.
    """
    tensors = kv_cache_config.kv_cache_tensors
    if not tensors:
        return None
    own = all(hasattr(tensor, "shared_by") and not getattr(tensor, "block_stride", 0) for tensor in tensors)
    sizes = [tensor.size for tensor in tensors]
    total_bytes = float(sum(sizes) if own else max(sizes))
    return total_bytes / int(kv_cache_config.num_blocks)


def _index_bytes(config: Any, kv_cache_config: Any) -> float:
    """Of those bytes, what sparse attention's index keys of a token take, which have a format of their own: a byte an
    element and 4 bytes for 128 of them (DeepseekV32IndexerCache, vllm/model_executor/models/deepseek_v2.py), or
    bfloat16 (MiniMaxM3IndexerCache, vllm/models/minimax_m3/common/indexer.py)."""
    names = [name for group in kv_cache_config.kv_cache_groups for name in group.layer_names]
    text = getattr(config.model_config, "hf_text_config", None)
    width = getattr(text, "index_head_dim", None) or 0
    deepseek_bytes = (width + width // 128 * 4) * sum(name.endswith(".indexer.k_cache") for name in names)
    sparse = getattr(text, "sparse_attention_config", None) or {}
    minimax_bytes = 2 * sparse.get("sparse_index_dim", 0) * sum(name.endswith(".index_cache") for name in names)
    return float(deepseek_bytes + minimax_bytes)
