"""An engine that hangs keeps its connections open and sends nothing more."""

import asyncio
import time
from collections.abc import Callable

import pytest

from slotune.errors import EngineError
from slotune.profiler.engine.load import Answer, Call, send

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
TOKEN = b'data: {"choices":[{"text":"w"}]}\n\n'


def answered(calls: list[Call], tokens: Callable[[int], list[float]], silence_s: float) -> list[Answer]:
    """What comes of calls to a server that answers the n-th with tokens at these pauses; inf: it hangs."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        pauses, count = tokens(count), count + 1
        for pause_s in pauses:
            await asyncio.sleep(min(pause_s, 60))
            writer.write(TOKEN)
            await writer.drain()
        writer.close()

    async def run() -> list[Answer]:
        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        try:
            return (await asyncio.to_thread(send, calls, url, "m", silence_s=silence_s))[1]
        finally:
            listener.close()

    return asyncio.run(run())


def calls(*at_s: float) -> list[Call]:
    return [Call([1], 3, at_s=moment) for moment in at_s]


def test_a_silent_engine_is_given_up() -> None:
    begin = time.monotonic()
    with pytest.raises(EngineError, match="no token came for any request in flight for") as raised:
        answered(calls(0.0, 0.0), lambda n: [0.0, float("inf")], silence_s=0.4)
    assert raised.value.reason == "hang"
    assert time.monotonic() - begin < 5


def test_requests_that_are_still_sent_are_no_sign_of_life() -> None:
    begin = time.monotonic()
    with pytest.raises(EngineError, match="hangs"):
        answered(calls(*(0.1 * n for n in range(200))), lambda n: [float("inf")], silence_s=0.5)
    assert time.monotonic() - begin < 5


def test_one_that_answers_another_meanwhile_is_waited_for() -> None:
    pauses = {0: [2.0], 1: [0.2] * 9}
    assert [one.error for one in answered(calls(0.0, 0.0), lambda n: pauses[n], silence_s=1.0)] == [None, None]


def test_an_idle_engine_does_not_hang() -> None:
    found = answered(calls(0.0, 1.5), lambda n: [0.0], silence_s=0.5)
    assert [one.error for one in found] == [None, None]
