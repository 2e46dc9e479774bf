"""A stand-in for the `vllm` command: serves token streams from a step loop of known cost, and records its steps.

Run as a script: `--version`, or `serve MODEL --port N ...`. It runs out of memory with --max-num-seqs 13; with
FAKE_VLLM_DEATH=start, =model or =<requests> it fails in other ways. FAKE_VLLM_STEPS is how many steps it records at
most, FAKE_VLLM_PIDS names a file that gets its process id.
"""

import asyncio
import json
import os
import re
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from aiohttp import web

BASE_S, PREFILL_TOKEN_S, DECODE_ROW_S = 0.002, 0.00002, 0.0001
LIMIT, SEQS, MODEL_LEN = 512, 16, 2048
NAMES = ("max_num_batched_tokens", "max_num_seqs", "max_model_len")
LIMITS = {name: f"--{name.replace('_', '-')}" for name in NAMES}
WHOLE = "--no-enable-chunked-prefill"
WEIGHT_BYTES, TOKEN_BYTES, SEQ_BYTES = 2e9, 1e5, 2e6
KV_BYTES = 2 * 8 * 2 * 64 * 2
"""Of one token of the model that conftest.py makes, in bfloat16."""
FACTS: dict[str, Any] = {
    "vllm_version": "0.32.0",
    "max_num_batched_tokens": LIMIT,
    "max_num_seqs": SEQS,
    "max_num_active_seqs": None,
    "max_model_len": MODEL_LEN,
    "policy": "fcfs",
    "block_size": 16,
    "num_gpu_blocks": 4096,
    "kv_cache_groups": ["FullAttentionSpec"],
    "kv_bytes_per_block": 16 * KV_BYTES,
    "kv_cache_memory_bytes": 4096 * 16 * KV_BYTES,
    "dtype": "torch.bfloat16",
    "device_type": "cpu",
    "enforce_eager": True,
    "async_scheduling": False,
}


class Request:
    def __init__(self, name: str, prompt: int, output: int) -> None:
        self.name, self.prompt, self.output, self.computed, self.gone = name, prompt, output, 0, False
        self.tokens: asyncio.Queue[bool] = asyncio.Queue()


class Engine:
    """vLLM's rule in its simplest form: running requests first, in order, then the waiting ones, under one budget."""

    def __init__(self) -> None:
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.limit = self.cap = facts(sys.argv)["max_num_batched_tokens"]
        self.requests = 0
        path = os.environ.get("SLOTUNE_STEPS")
        self.steps = Path(path).open("w") if path else None  # noqa: SIM115 - open as long as the engine runs

    def add(self, request: Request) -> None:
        self.requests += 1
        if str(self.requests) == os.environ.get("FAKE_VLLM_DEATH"):
            print("RuntimeError: the fake engine was told to die", flush=True)
            os._exit(1)
        if found := re.match(r"slotune-cap(\d+)-", request.name):
            self.cap = min(int(found[1]) or self.limit, self.limit)
        self.waiting.append(request)

    async def run(self) -> None:
        number, last = 0, 0.0
        while True:
            self.running = [request for request in self.running if not request.gone]
            if not self.running and not self.waiting:
                await asyncio.sleep(0.0005)
                last = 0.0
                continue
            rows = self.schedule()
            number += 1
            start = last or time.perf_counter()
            decodes = sum(1 for _, tokens, context in rows if tokens == 1 and context)
            prefill = sum(tokens for _, tokens, _ in rows) - decodes
            cost_s = BASE_S + PREFILL_TOKEN_S * prefill + DECODE_ROW_S * decodes
            await asyncio.sleep(0.0005)  # far less than it says, so that a busy machine can keep up
            last = self.finish(number, start, start + cost_s, rows)

    def schedule(self) -> list[tuple[Request, int, int]]:
        rows, budget = [], self.cap
        while self.waiting and len(self.running) < SEQS:
            self.running.append(self.waiting.popleft())
        for request in self.running:
            tokens = max(1, request.prompt - request.computed)
            if tokens > budget and WHOLE in sys.argv:
                break
            tokens = min(tokens, budget)
            if tokens:
                rows.append((request, tokens, request.computed))
                budget -= tokens
        return rows

    def finish(self, number: int, start: float, end: float, rows: list[tuple[Request, int, int]]) -> float:
        shown = [[request.name, tokens, context] for request, tokens, context in rows]
        if self.steps and number <= int(os.environ.get("FAKE_VLLM_STEPS", number)):
            record = {"step": number, "start_ms": start * 1e3, "end_ms": end * 1e3, "rows": shown}
            self.steps.write(json.dumps(record | {"preempted": [], "free_blocks": 1}) + "\n")
            self.steps.flush()
        for request, tokens, _ in rows:
            request.computed += tokens
            if request.computed >= request.prompt:
                request.output -= 1
                request.gone = request.output == 0
                request.tokens.put_nowait(request.gone)
        return time.perf_counter()


async def completions(http: web.Request) -> web.StreamResponse:
    body = await http.json()
    request = Request(http.headers.get("X-Request-Id", "?"), len(body["prompt"]), body["max_tokens"])
    if request.prompt + request.output > facts(sys.argv)["max_model_len"]:
        return web.json_response({"error": "too long"}, status=400)
    http.app["engine"].add(request)
    stream = web.StreamResponse()
    await stream.prepare(http)
    total = request.output
    try:
        done = False
        while not done:
            done = await request.tokens.get()
            await stream.write(b'data: {"id":"x","choices":[{"index":0,"text":" w"}]}\n\n')
        usage = {"prompt_tokens": request.prompt, "completion_tokens": total}
        await stream.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n")
    finally:
        request.gone = True
    return stream


async def health(_: web.Request) -> web.Response:
    return web.Response()


async def engine(app: web.Application):  # type: ignore[no-untyped-def]
    app["engine"] = Engine()
    task = asyncio.create_task(app["engine"].run())
    yield
    task.cancel()


def facts(words: list[str]) -> dict[str, Any]:
    """FACTS, with the limits that were asked for; FAKE_VLLM_GPU_BYTES: blocks of what a GPU of that size has left."""
    asked = {name: int(words[words.index(flag) + 1]) for name, flag in LIMITS.items() if flag in words}
    found = FACTS | asked | {"enable_chunked_prefill": WHOLE not in words}
    if total := os.environ.get("FAKE_VLLM_GPU_BYTES"):
        used = WEIGHT_BYTES + TOKEN_BYTES * found["max_num_batched_tokens"] + SEQ_BYTES * found["max_num_seqs"]
        blocks = (0.9 * float(total) - used) // (16 * KV_BYTES)
        gpu = {"device_type": "cuda", "gpu_memory_utilization": 0.9, "kv_cache_memory_bytes": None}
        found |= gpu | {"num_gpu_blocks": int(blocks)}
    return found


def main(words: list[str]) -> None:
    if words == ["--version"]:
        print("0.32.0+cpu")
        return
    if words[0] != "serve":
        sys.exit(2)
    if os.environ.get("FAKE_VLLM_DEATH") == "start":
        print("main.py: error: unrecognized arguments: --nonsense")
        sys.exit(2)
    if os.environ.get("FAKE_VLLM_DEATH") == "model":
        sys.exit("huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file.")
    if "--max-num-seqs 13" in " ".join(words):
        sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 13.00 GiB.")
    if pids := os.environ.get("FAKE_VLLM_PIDS"):
        with Path(pids).open("a") as file:
            file.write(f"{os.getpid()}\n")
    Path(os.environ["SLOTUNE_FACTS"]).write_text(json.dumps(facts(words)))
    app = web.Application(client_max_size=1 << 24)
    app.cleanup_ctx.append(engine)
    app.router.add_get("/health", health)
    app.router.add_post("/v1/completions", completions)
    web.run_app(app, host="127.0.0.1", port=int(words[words.index("--port") + 1]), print=None)


if __name__ == "__main__":
    main(sys.argv[1:])
