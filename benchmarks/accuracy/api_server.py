"""CPU time that vLLM's API server takes for a request, a token of its prompt, and a streamed piece of an answer.

    python benchmarks/accuracy/api_server.py --vllm-python PYTHON --out FOLDER

A Llama-shaped model of one small layer is served by vLLM's CPU build, so that the engine has little to do. Loads of
many requests, of long prompts and of long answers are sent, and the CPU seconds of the API server's process are read
from /proc before and after each (Linux). The three numbers are fitted to every second load, non-negative and by
relative error, and predict the others. Requests one at a time are left out: there the process is woken for every token
by itself, which takes more and does no harm. They are the constants of simulator/api_server.py.
"""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from real_engine import made_model
from scipy.optimize import nnls
from tables import percent, row

from slotune.arrays import F64
from slotune.profiler.engine.launch import find_vllm
from slotune.profiler.engine.load import Call, send
from slotune.profiler.engine.server import Server, running_server

SETTINGS = {"load_format": "dummy", "dtype": "float32", "max_model_len": 8192, "max_num_seqs": 256}
VOCABULARY = 4000
HEADS = ("requests", "prompt tokens", "pieces", "in flight", "CPU s", "predicted", "off by, %")


@dataclass(frozen=True, slots=True)
class Load:
    requests: int
    prompt_tokens: int
    output_tokens: int
    in_flight: int


LOADS = (
    Load(400, 16, 1, 16),
    Load(400, 64, 1, 64),
    Load(200, 1024, 1, 16),
    Load(100, 2048, 1, 32),
    Load(200, 16, 64, 16),
    Load(200, 32, 64, 128),
    Load(100, 16, 256, 64),
    Load(100, 32, 256, 32),
)
"""In pairs: the first of each is fitted, the second predicted."""


def cpu_s(process: int) -> float:
    """User and system time of a process, all its threads (proc(5))."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def api_server(supervisor: int) -> int:
    """The process that the supervisor has started: `vllm serve`, whose children are the engine's."""
    (child,) = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return int(child)


def measured(server: Server, load: Load, rng: np.random.Generator) -> tuple[F64, float]:
    """What was sent (requests, prompt tokens, pieces) and the API server's CPU seconds for it."""
    calls = [
        Call(prompt=rng.integers(100, VOCABULARY, load.prompt_tokens).tolist(), output_tokens=load.output_tokens)
        for _ in range(load.requests)
    ]
    process = api_server(server.process.pid)
    before_s = cpu_s(process)
    _, answers = send(calls, server.base_url, server.model, max_concurrency=load.in_flight)
    spent_s = cpu_s(process) - before_s
    failed = [answer.error for answer in answers if answer.error]
    if failed:
        raise SystemExit(f"{len(failed)} of {load.requests} requests failed: {failed[0]}")
    pieces = sum(len(answer.chunks) for answer in answers)
    return np.array([load.requests, load.requests * load.prompt_tokens, pieces], np.float64), spent_s


def runs(server: Server, repeats: int, seed: int) -> Iterator[tuple[Load, F64, float]]:
    rng = np.random.default_rng(seed)
    measured(server, LOADS[0], rng)  # the first requests pay for what is loaded late
    for _ in range(repeats):
        for load in LOADS:
            yield load, *measured(server, load, rng)


def fit(amounts: F64, spent_s: F64) -> F64:
    """Seconds for one of each column, by relative error."""
    solution, _ = nnls(amounts / spent_s[:, None], np.ones(len(spent_s)))
    return np.asarray(solution)


def report(found: list[tuple[Load, F64, float]], solution: F64) -> None:
    print(f"{row(*HEADS)}\n{row(*['---'] * len(HEADS))}")
    for place, load in enumerate(LOADS):
        spent_s = float(np.median([seconds for _, _, seconds in found[place :: len(LOADS)]]))
        amounts = np.mean([sent for _, sent, _ in found[place :: len(LOADS)]], axis=0)
        predicted_s = float(amounts @ solution)
        mark = " *" if place % 2 == 0 else ""
        cells = (load.requests, int(amounts[1]), int(amounts[2]), load.in_flight)
        print(row(*cells, f"{spent_s:.2f}", f"{predicted_s:.2f}", f"{percent(predicted_s, spent_s)}{mark}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    model = made_model(given.vllm_python, "mini", given.out / "model")
    config = Path(model) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 1}))
    with running_server(find_vllm(given.vllm_python), model, SETTINGS, given.out / "run") as server:
        found = list(runs(server, given.repeats, given.seed))
    fitted = [one for place, one in enumerate(found) if place % 2 == 0]
    solution = fit(np.array([sent for _, sent, _ in fitted]), np.array([seconds for _, _, seconds in fitted]))
    report(found, solution)
    request_us, token_us, piece_us = 1e6 * solution
    print(f"\nA request takes {request_us:.0f} us, a prompt token {token_us:.2f} us, a piece {piece_us:.0f} us.")


if __name__ == "__main__":
    main()
