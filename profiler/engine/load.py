"""The load client: sends requests to an OpenAI-compatible server and notes when each token came.

    result = replay(trace, server.base_url, server.model, vocabulary=4096, seed=1)      # arrivals as in the trace
    start, answers = send([Call(...), ...], base_url, model)                            # anything else

Definitions are those of `vllm bench serve` 0.32 (vllm/benchmarks/lib/endpoint_request_func.py): a request's clock
starts just before the POST, its first token is the first streamed chunk with a choice, it ends with the last such
chunk; the wait for a free place under `max_concurrency` comes before its clock. vLLM's own client cannot be used for
this: its timed traces have no priorities and no prompt but whole hashed chunks, hashed anew in every process.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import numpy as np

from ...simulator.metrics import Gaps
from ...simulator.request_table import FAILED, FINISHED, RequestTable
from ...traces.trace import Trace
from .prompts import prompt_tokens
from .silence import SILENCE_S, Pulse, unless_silent

TIMEOUT_S = 6 * 3600.0
"""For one request, as in vllm bench serve."""
KEEP_ALIVE_S = 2.0
"""An idle connection is used again for so long. vLLM's server closes it after 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE), and
a request sent at that moment would be lost."""
LEAD_S = 0.05
"""Before the first arrival: for the tasks to be waiting."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to send."""

    prompt: Sequence[int]
    output_tokens: int
    at_s: float = 0.0
    """Seconds after the start at which to send it, at the earliest."""
    name: str = ""
    """The request id to give, if any; `step` records of the engine then show it."""
    priority: int = 0
    follows: int | None = None
    """Index of the call to wait for before this one is sent: for its token `tokens_before`, or its end."""
    tokens_before: int = 1
    background: bool = False
    """To be broken off when all calls that are not background have ended."""


@dataclass(slots=True)
class Answer:
    """What came of a call. Times are seconds of `time.perf_counter`."""

    sent: float = float("nan")
    chunks: list[float] = field(default_factory=list)
    """When each chunk with a choice came."""
    output_tokens: int = 0
    cached_tokens: int = 0
    """As far as the server tells (--enable-prompt-tokens-details)."""
    error: str | None = None
    ended: float | None = None
    """When it was over, answered or not."""
    tokens_came: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, eq=False)
class LoadResult:
    """What a load run measured, in the form that a simulation has, so that `summarise` serves both."""

    requests: RequestTable
    """In the order of the trace; times from the start of the run."""
    gaps: Gaps
    """Between the chunks of each finished request."""
    errors: tuple[str | None, ...]
    """For each request, why it failed."""


def replay(
    trace: Trace,
    base_url: str,
    model: str,
    *,
    vocabulary: int,
    seed: int = 0,
    max_concurrency: int | None = None,
) -> LoadResult:
    """Send a trace's requests at their arrival times (as soon as there is a place, under `max_concurrency`).

    Prompts are token ids drawn from `seed`; every request generates exactly its output tokens. Raises EngineError where
    the engine hangs.
    """
    calls = [
        Call(
            prompt=prompt_tokens(trace, i, vocabulary, seed).tolist(),
            output_tokens=int(trace.output_tokens[i]),
            at_s=float(trace.arrival_s[i]),
            name=trace.id_of(i),
            priority=int(trace.priority[i]),
        )
        for i in range(len(trace))
    ]
    start, answers = send(calls, base_url, model, max_concurrency=max_concurrency)
    return _result(calls, answers, start)


def send(
    calls: Sequence[Call],
    base_url: str,
    model: str,
    *,
    max_concurrency: int | None = None,
    silence_s: float = SILENCE_S,
) -> tuple[float, list[Answer]]:
    """Send all calls and wait until they ended. Returns `time.perf_counter` at the start, and an answer per call.

    A request that fails has its error in its answer; nothing is raised for it. Raises EngineError where nothing comes
    of any request in flight for `silence_s`.
    """
    return asyncio.run(_send_all(calls, base_url, model, max_concurrency, silence_s))


@dataclass(frozen=True, slots=True)
class _Line:
    """What all requests to a server share."""

    session: aiohttp.ClientSession
    places: asyncio.Semaphore
    pulse: Pulse


async def _send_all(
    calls: Sequence[Call], base_url: str, model: str, max_concurrency: int | None, silence_s: float
) -> tuple[float, list[Answer]]:
    answers = [Answer() for _ in calls]
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=60)
    bodies = [_body(call, model) for call in calls]
    async with aiohttp.ClientSession(base_url, connector=connector, timeout=timeout) as session:
        line = _Line(session, asyncio.Semaphore(max_concurrency or len(calls) or 1), Pulse())
        start = time.perf_counter() + LEAD_S
        await unless_silent(_send_in_time(calls, bodies, answers, start, line), line.pulse, silence_s)
    return start, answers


async def _send_in_time(
    calls: Sequence[Call], bodies: Sequence[bytes], answers: list[Answer], start: float, line: _Line
) -> None:
    tasks: dict[int, asyncio.Task[None]] = {}
    try:
        for index in sorted(range(len(calls)), key=lambda i: calls[i].at_s):  # equal arrivals keep their order
            await asyncio.sleep(start + calls[index].at_s - time.perf_counter())
            tasks[index] = asyncio.create_task(_one(line, bodies[index], calls[index], answers, index))
        await asyncio.gather(*(task for index, task in tasks.items() if not calls[index].background))
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


async def _one(line: _Line, body: bytes, call: Call, answers: list[Answer], index: int) -> None:
    answer = answers[index]
    try:
        if call.follows is not None:
            await _tokens_of(answers[call.follows], call.tokens_before)
        async with line.places:
            with line.pulse.waiting():
                await _post(line, body, call, answer)
    finally:
        answer.ended = time.perf_counter()
        answer.tokens_came.set()


async def _tokens_of(answer: Answer, count: int) -> None:
    while len(answer.chunks) < count and answer.ended is None:
        answer.tokens_came.clear()
        await answer.tokens_came.wait()


async def _post(line: _Line, body: bytes, call: Call, answer: Answer) -> None:
    headers = {"Content-Type": "application/json"}
    if call.name and call.name.isascii() and call.name.isprintable():
        headers["X-Request-Id"] = call.name
    answer.sent = time.perf_counter()
    try:
        async with line.session.post("/v1/completions", data=body, headers=headers) as response:
            if response.status == 200:
                await _read_stream(response, answer, line.pulse)
            else:
                answer.error = f"{response.status}: {(await response.text())[:500]}"
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    if answer.error is None and not answer.chunks:
        answer.error = "the server sent no token"


async def _read_stream(response: aiohttp.ClientResponse, answer: Answer, pulse: Pulse) -> None:
    """Server-sent events, `data: {...}` and an empty line each. Only the last, the usage, is parsed: the client must
    not take the processor from an engine on the same machine."""
    rest = b""
    async for received in response.content.iter_any():
        now = time.perf_counter()
        pulse.beat(now)
        *events, rest = (rest + received).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: {"):
                _take(event, now, answer)


def _take(event: bytes, now: float, answer: Answer) -> None:
    if b'"choices":[{' in event:
        answer.chunks.append(now)
        answer.output_tokens = max(answer.output_tokens, len(answer.chunks))
        answer.tokens_came.set()
        return
    content = json.loads(event[len(b"data: ") :])
    if usage := content.get("usage"):
        answer.output_tokens = usage.get("completion_tokens", len(answer.chunks))
        answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    elif error := content.get("error"):
        answer.error = str(error)[:500]


def _body(call: Call, model: str) -> bytes:
    """What vllm bench serve posts, with exact lengths. How tokens are sampled is left to the server and the model's own
    defaults, as 0.32 does (vllm/benchmarks/serve.py): greedy sampling would skip most of the sampler.
    """
    content = {
        "model": model,
        "prompt": list(call.prompt),
        "max_tokens": call.output_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if call.priority:
        content["priority"] = call.priority
    return json.dumps(content, separators=(",", ":")).encode()


def _result(calls: Sequence[Call], answers: Sequence[Answer], start: float) -> LoadResult:
    failed = np.array([answer.error is not None for answer in answers], dtype=bool)
    chunks = [np.array(answer.chunks) - start for answer in answers]
    gaps = [np.diff(times) for times, bad in zip(chunks, failed, strict=True) if not bad]
    gap_s = np.concatenate([np.empty(0), *gaps])
    table = RequestTable(
        arrival_s=np.array([answer.sent for answer in answers]) - start,
        prompt_tokens=np.array([len(call.prompt) for call in calls], dtype=np.int64),
        output_tokens=np.array([answer.output_tokens for answer in answers], dtype=np.int64),
        cached_tokens=np.array([answer.cached_tokens for answer in answers], dtype=np.int64),
        first_token_s=np.array([times[0] if len(times) else np.nan for times in chunks]),
        finish_s=np.array([np.nan if bad else times[-1] for times, bad in zip(chunks, failed, strict=True)]),
        preemptions=np.zeros(len(calls), dtype=np.int64),
        replica=np.zeros(len(calls), dtype=np.int64),
        status=np.where(failed, FAILED, FINISHED).astype(np.int64),
        request_id=tuple(call.name for call in calls),
        failed_s=np.array([np.nan if answer.ended is None else answer.ended for answer in answers]) - start,
    )
    return LoadResult(
        requests=table,
        gaps=Gaps(gap_s, np.ones(len(gap_s), dtype=np.int64)),
        errors=tuple(answer.error for answer in answers),
    )
