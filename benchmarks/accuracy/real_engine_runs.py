"""Runs of real_engine.py: who sends the load, and how a run is kept."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from slotune.profiler.engine.launch import Launch
from slotune.profiler.engine.load import Call, replay, send
from slotune.profiler.engine.prompts import random_tokens
from slotune.profiler.engine.server import Server
from slotune.profiler.model_folder import vocabulary_of
from slotune.profiler.surrogate.samples import StepSamples, read_samples
from slotune.simulator.metrics import summarise
from slotune.traces.mooncake import write_trace
from slotune.traces.read import read_trace
from slotune.traces.trace import Trace

WARM_UP = ((400, 8), (100, 8), (1200, 8))
"""(prompt, output) tokens."""
SPREAD = 0.6
"""`vllm bench serve` draws lengths evenly within this share of their means."""
Metrics = Mapping[str, float]


class Client(Protocol):
    """Sends a load; returns what was sent and the metrics of `vllm bench serve`."""

    def __call__(self, server: Server, trace: Trace, folder: Path, seed: int) -> tuple[Trace, Metrics]: ...


@dataclass(frozen=True, slots=True)
class Run:
    """A load on a configuration, measured once."""

    configuration: str
    load: float
    settings: Mapping[str, Any]
    sent: Trace
    measured: Metrics
    steps: StepSamples


def warm_up(server: Server) -> None:
    """A few requests that are not measured."""
    vocabulary = vocabulary_of(str(server.facts["model"]))
    calls = [
        Call(random_tokens(prompt, vocabulary, (0, place)).tolist(), output)
        for place, (prompt, output) in enumerate(WARM_UP)
    ]
    send(calls, server.base_url, server.model)
    server.check()


def own_client(server: Server, trace: Trace, folder: Path, seed: int) -> tuple[Trace, Metrics]:
    """slotune's own: arrivals and lengths are the trace's."""
    vocabulary = vocabulary_of(str(server.facts["model"]))
    result = replay(trace, server.base_url, server.model, vocabulary=vocabulary, seed=seed)
    if any(result.errors):
        raise SystemExit(f"{folder}: requests failed, the first because: {next(filter(None, result.errors))}")
    return trace, summarise(result.requests, result.gaps)


def bench_client(launch: Launch) -> Client:
    """`vllm bench serve` with random prompts: as many requests at the trace's rate, of its mean lengths."""

    def client(server: Server, trace: Trace, folder: Path, seed: int) -> tuple[Trace, Metrics]:
        words = {
            "backend": "openai",
            "base-url": server.base_url,
            "endpoint": "/v1/completions",
            "model": server.model,
            "dataset-name": "random",
            "random-input-len": round(float(trace.input_tokens.mean())),
            "random-output-len": round(float(trace.output_tokens.mean())),
            "random-range-ratio": SPREAD,
            "num-prompts": len(trace),
            "request-rate": len(trace) / float(trace.arrival_s[-1]),
            "seed": seed,
            "result-dir": folder,
            "result-filename": f"bench-{seed}.json",
            "metric-percentiles": "90,99",
            "percentile-metrics": "ttft,tpot,itl,e2el",
        }
        options = [part for name, value in words.items() for part in (f"--{name}", str(value))]
        options += ["--ignore-eos", "--save-result", "--save-detailed", "--disable-tqdm"]
        command = [*launch.command[:-1], "bench", "serve", *options]
        environment = {**os.environ, **launch.environment(folder / "site")}
        with (folder / f"bench-{seed}.log").open("w") as log:
            subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)
        path = folder / f"bench-{seed}.json"
        return read_trace(str(path)), json.loads(path.read_text())

    return client


def run_path(folder: Path, name: str, load: float, number: int) -> Path:
    return folder / f"{name.replace(' ', '-').replace(',', '')}-{load:g}-{number}.json"


def keep(
    path: Path,
    name: str,
    load: float,
    settings: Mapping[str, Any],
    sent: Trace,
    measured: Metrics,
    steps: StepSamples,
) -> None:
    """The .json comes last: a run that has one is whole."""
    write_trace(sent, path.with_suffix(".jsonl"))
    steps.write(path.with_suffix(".parquet"))
    figures = {key: value for key, value in measured.items() if isinstance(value, int | float)}
    record = {"configuration": name, "load": load, "settings": dict(settings), "measured": figures}
    path.write_text(json.dumps(record, indent=1))


def read_runs(folder: Path) -> list[Run]:
    runs = []
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        sent, steps = read_trace(str(path.with_suffix(".jsonl"))), read_samples(path.with_suffix(".parquet"))
        runs.append(Run(sent=sent, steps=steps, **record))
    return runs
