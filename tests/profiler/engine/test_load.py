"""The load client against a stand-in engine: exact lengths, order, metrics, failures."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from slotune.profiler.engine import load
from slotune.profiler.engine.launch import find_vllm
from slotune.profiler.engine.load import Call, replay, send
from slotune.profiler.engine.prompts import prompt_tokens, random_tokens, token_range
from slotune.profiler.engine.server import Server, running_server
from slotune.profiler.measurement.recording import StepTail
from slotune.simulator.metrics import summarise
from slotune.simulator.request_table import FAILED, FINISHED
from slotune.traces.trace import Trace


def trace(arrivals: list[float], inputs: list[int], outputs: list[int]) -> Trace:
    count = len(arrivals)
    return Trace(
        arrival_s=np.array(arrivals),
        input_tokens=np.array(inputs, dtype=np.int32),
        output_tokens=np.array(outputs, dtype=np.int32),
        priority=np.zeros(count, dtype=np.int32),
        run_offsets=np.zeros(count + 1, dtype=np.int64),
        run_name=np.zeros(0, dtype=np.int64),
        run_tokens=np.zeros(0, dtype=np.int32),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    import sys

    folder = tmp_path_factory.mktemp("load")
    command = folder / "vllm"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -P {Path(__file__).parents[2] / "fake_vllm.py"} "$@"\n')
    command.chmod(0o755)
    (folder / "config.json").write_text(json.dumps({"architectures": ["X"]}))
    with running_server(find_vllm(str(command)), str(folder), {}, folder / "run", record=True) as running:
        yield running


def test_a_replay_keeps_arrivals_and_lengths_and_measures_as_vllm_bench_does(server: Server) -> None:
    workload = trace([0.0, 0.05, 0.3], [40, 700, 10], [3, 5, 1])
    result = replay(workload, server.base_url, server.model, vocabulary=4096, seed=3)
    table = result.requests
    assert result.errors == (None, None, None)
    assert table.status.tolist() == [FINISHED] * 3
    assert (table.prompt_tokens.tolist(), table.output_tokens.tolist()) == ([40, 700, 10], [3, 5, 1])
    late = table.arrival_s - workload.arrival_s
    assert ((late >= 0) & (late < 0.1)).all()
    assert (table.first_token_s > table.arrival_s).all()
    assert (table.finish_s[:2] > table.first_token_s[:2]).all()
    assert table.finish_s[2] == table.first_token_s[2]  # one token: first and last
    assert len(result.gaps.gap_s) == 2 + 4
    metrics = summarise(result.requests, result.gaps, {"ttft": 10_000})
    assert (metrics["completed"], metrics["failed"]) == (3, 0)
    assert metrics["request_goodput"] == pytest.approx(metrics["request_throughput"])
    assert metrics["mean_itl_ms"] == pytest.approx(float(result.gaps.gap_s.mean()) * 1e3)


def test_the_engine_saw_what_was_sent(server: Server) -> None:
    tail = StepTail(server.steps_path or Path())
    tail.read()
    send([Call([5] * 600, 3, name="slotune-cap256-x.0")], server.base_url, server.model)
    records = tail.read_until({"slotune-cap256-x.0": 602}, timeout_s=5)
    rows = [record.rows for record in records]
    contexts = [(256, 0), (256, 256), (88, 512), (1, 600), (1, 601)]
    assert rows == [(("slotune-cap256-x.0", tokens, context),) for tokens, context in contexts]


def test_requests_that_follow_wait_for_the_tokens_of_others_and_the_background_is_broken_off(server: Server) -> None:
    calls = [
        Call([5] * 8, 1500, name="long", background=True),
        Call([5] * 8, 2, name="second", follows=0, tokens_before=4),
    ]
    _, (long, second) = send(calls, server.base_url, server.model)
    assert second.error is None
    assert len(second.chunks) == 2
    assert second.sent >= long.chunks[3]
    assert len(long.chunks) < 1500


def test_a_place_is_waited_for_before_the_clock_starts(server: Server) -> None:
    workload = trace([0.0, 0.0], [10, 10], [30, 2])
    table = replay(workload, server.base_url, server.model, vocabulary=4096, max_concurrency=1).requests
    assert table.arrival_s[1] >= table.finish_s[0]


def test_a_refused_request_is_a_failed_one_with_its_reason(server: Server) -> None:
    result = replay(trace([0.0, 0.0], [10, 3000], [2, 2]), server.base_url, server.model, vocabulary=4096)
    assert result.requests.status.tolist() == [FINISHED, FAILED]
    assert np.isnan(result.requests.finish_s[1])
    assert "too long" in str(result.errors[1])
    assert summarise(result.requests, result.gaps)["failed"] == 1


def test_a_server_that_is_not_there_fails_every_request() -> None:
    result = replay(trace([0.0], [10], [2]), "http://127.0.0.1:9", "m", vocabulary=4096)
    assert result.requests.status.tolist() == [FAILED]
    assert "Connect" in str(result.errors[0])


def test_a_connection_that_breaks_fails_its_request() -> None:
    async def scenario() -> str | None:
        async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            event = b'data: {"choices":[{"text":"w"}]}\n\n'
            writer.write(head + b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            writer.close()

        listener = await asyncio.start_server(half, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        call = Call([1, 2, 3], 5)
        _, (answer,) = await asyncio.to_thread(send, [call], f"http://127.0.0.1:{port}", "m")
        listener.close()
        return answer.error

    assert "Error" in str(asyncio.run(scenario()))


def test_prompts_share_what_the_trace_says_and_nothing_else() -> None:
    shared = Trace(
        arrival_s=np.zeros(3),
        input_tokens=np.array([100, 120, 90], dtype=np.int32),
        output_tokens=np.ones(3, dtype=np.int32),
        priority=np.zeros(3, dtype=np.int32),
        run_offsets=np.array([0, 1, 2, 3]),
        run_name=np.array([7, 7, -2]),
        run_tokens=np.array([64, 32, 64], dtype=np.int32),
    )
    first, second, third = (prompt_tokens(shared, index, 4096, seed=1) for index in range(3))
    assert (len(first), len(second), len(third)) == (100, 120, 90)
    assert (first[:32] == second[:32]).all()
    assert (first[32:64] != second[32:64]).any()
    assert (first[:64] != third[:64]).any()
    assert (prompt_tokens(shared, 0, 4096, seed=1) == first).all()
    assert (prompt_tokens(shared, 0, 4096, seed=2)[:64] != first[:64]).any()


@pytest.mark.parametrize("vocabulary", [1, 10, 4096, 128_256])
def test_token_ids_lie_in_the_vocabulary(vocabulary: int) -> None:
    low, high = token_range(vocabulary)
    assert 0 <= low < high <= vocabulary
    assert set(random_tokens(50, vocabulary, (1,)).tolist()) <= set(range(low, high))


class OneToken(BaseHTTPRequestHandler):
    """Answers every request with one token and counts connections."""

    protocol_version = "HTTP/1.1"
    connections = 0
    body = b'data: {"choices":[{"text":"a"}]}\n\ndata: {"choices":[],"usage":{"completion_tokens":1}}\n\n'

    def setup(self) -> None:
        type(self).connections += 1
        super().setup()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.mark.parametrize(("keep_alive_s", "connections"), [(3600.0, 1), (0.0, 3)])
def test_a_connection_is_used_again_unless_it_lay_idle_for_too_long(
    keep_alive_s: float, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may be closing it at this very moment. However slow the machine, each call waits for the last."""
    monkeypatch.setattr(load, "KEEP_ALIVE_S", keep_alive_s)
    monkeypatch.setattr(OneToken, "connections", 0)
    with ThreadingHTTPServer(("127.0.0.1", 0), OneToken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        calls = [Call([1], 1, follows=before, tokens_before=2) for before in (None, 0, 1)]
        _, answers = send(calls, f"http://127.0.0.1:{server.server_port}", "m")
        server.shutdown()
    assert [answer.error for answer in answers] == [None] * 3
    assert OneToken.connections == connections


def test_how_tokens_are_sampled_is_left_to_the_server() -> None:
    posted = json.loads(load._body(Call([1, 2, 3], 5), "model"))
    assert posted["ignore_eos"] and posted["max_tokens"] == 5
    assert not posted.keys() & {"temperature", "top_p", "top_k", "seed", "logprobs"}
