"""Published vLLM runs on H100, A100 and L40S, predicted from kernel tables: what a stranger's server would have shown.

    python benchmarks/accuracy/public_runs.py [--only G K]

The runs and their sources are in public_runs_data.py. Each is simulated with the settings and the load that its page
tells; nothing is fitted, and what a page leaves out is vLLM's default. The number of KV blocks is the page's where it
tells one, else the profile's estimate. Latencies that one page gives as a percentile are compared with that percentile.
In brackets stands whether the measured value lies between those for faster and for slower steps, as `slotune simulate`
tells them. Two kinds of runs are told apart: those whose requests mostly found a place at once, and bursts and
overload, where all requests come together and a TTFT is mostly the time of the work that is ahead.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from public_runs_data import BURST, CONFIGS, RUNS, STEADY, Load, Run, Served
from tables import percent, row

from slotune.arrays import I32
from slotune.profiler.profile import Profile
from slotune.profiler.silicon import silicon_profile
from slotune.simulator.api_server import cpu_s
from slotune.simulator.request_table import RequestTable
from slotune.simulator.simulation import simulate
from slotune.simulator.timing import AS_TOLD, Pace
from slotune.traces.arrivals import arrival_times
from slotune.traces.generate import plain
from slotune.traces.lengths import three_figures
from slotune.traces.trace import Trace
from slotune.tuner.sensitivity import Doubt, doubt_of

APART_S = 20_000.0
"""From the start of one pass to the next: longer than any pass takes."""
SHARED = 1_000_000
"""The name of the text that all prompts begin with; below it are those of the prompts."""
ROUNDS = 20
"""Of clipping lengths and restoring their mean: it moves by less than a token after them."""
KINDS = {"ttft": "TTFT", "tpot": "TPOT", "rps": "throughput"}
HEADS = ("run", "GPU", "model", "load", "TTFT, ms", "TPOT, ms", "requests/s", "API server", "remark")


@cache
def profile_of(served: Served) -> Profile:
    with tempfile.TemporaryDirectory() as folder:
        model = served.model
        if model in CONFIGS:
            model = folder
            (Path(folder) / "config.json").write_text(json.dumps(CONFIGS[served.model]))
        settings = {"async_scheduling": served.async_scheduling}
        system, precision = served.system, served.precision
        return silicon_profile.import_silicon(system, model, 1, "p", precision=precision, settings=settings)


def lengths(spec: int | tuple[int, ...], count: int, rng: np.random.Generator) -> I32:
    if isinstance(spec, int):
        return np.full(count, spec, np.int32)
    if len(spec) == 2:
        return rng.integers(spec[0], spec[1] + 1, count).astype(np.int32)
    mean, p50, p99, least, most = spec
    drawn = np.clip(three_figures(mean, p50, p99).sample(count, rng), least, most)
    for _ in range(ROUNDS):
        drawn = np.clip(np.round(drawn * mean / drawn.mean()), least, most)
    return drawn.astype(np.int32)


def workload(load: Load, seed: int) -> Trace:
    """What filled the cache before, one by one, and then all passes, each after the other has ended."""
    rng, count = np.random.default_rng(seed), load.requests
    prompts, outputs = lengths(load.prompt, count, rng), lengths(load.output, count, rng)
    before = np.arange(load.cached)
    names = np.concatenate([before, *[np.arange(count)] * load.passes])
    starts = [APART_S * (number + 1) + _arrivals(load, seed + number) for number in range(load.passes)]
    answers = np.concatenate([np.ones(load.cached, np.int32), *[outputs] * load.passes])
    trace = plain(np.concatenate([5.0 * before, *starts]), prompts[names], answers)
    common = np.minimum(load.shared, prompts[names])
    texts = np.stack([np.full(len(names), SHARED), names], axis=1) if load.shared else names[:, None]
    tokens = np.stack([common, prompts[names] - common], axis=1) if load.shared else prompts[names][:, None]
    return replace(
        trace,
        run_offsets=np.arange(len(names) + 1, dtype=np.int64) * texts.shape[1],
        run_name=texts.ravel().astype(np.int64),
        run_tokens=tokens.ravel().astype(np.int32),
    )


def _arrivals(load: Load, seed: int) -> npt.NDArray[np.float64]:
    if load.rate is None:
        return np.zeros(load.requests)
    return arrival_times(load.requests, load.rate, 1.0, np.random.default_rng(seed))


def figures(done: RequestTable, load: Load) -> dict[str, float]:
    """Milliseconds and requests/s, the mean over the passes that count."""
    passes = [
        _of_pass(done, slice(load.cached + number * load.requests, load.cached + (number + 1) * load.requests))
        for number in range(load.counted_from, load.passes)
    ]
    return {name: float(np.mean([each[name] for each in passes])) for name in passes[0]}


def _of_pass(done: RequestTable, part: slice) -> dict[str, float]:
    ttft, tpot = 1e3 * done.ttft_s[part], 1e3 * done.tpot_s[part]
    took_s = np.max(done.finish_s[part]) - np.min(done.arrival_s[part])
    return {
        "ttft": float(np.mean(ttft)),
        "ttft_p50": float(np.median(ttft)),
        "tpot": float(np.nanmean(tpot)),
        "tpot_p99": float(np.nanpercentile(tpot, 99)),
        "rps": len(ttft) / float(took_s),
        "busy": float(cpu_s(done.prompt_tokens[part], done.output_tokens[part]).sum() / took_s),
    }


def predict(run: Run, pace: Pace) -> dict[str, float]:
    profile = profile_of(run.served)
    engine, timing = profile.engine_config(run.settings), profile.timing(run.settings).at(pace)
    found = []
    for seed in run.seeds:
        result = simulate(workload(run.load, seed), engine, timing, max_concurrency=run.load.in_flight)
        found.append(figures(result.requests, run.load))
    return {name: float(np.mean([each[name] for each in found])) for name in found[0]}


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure of a run: what it is, measured, predicted, and predicted with faster and slower steps."""

    run: Run
    name: str
    measured: float
    predicted: float
    ends: tuple[float, float]

    @property
    def metric(self) -> str:
        return self.name.split("_")[0]

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1

    @property
    def between(self) -> bool:
        return min(self.ends) <= self.measured <= max(self.ends)

    def __str__(self) -> str:
        statistic = self.name.partition("_")[2]
        digits = ".0f" if self.measured >= 1000 else ".4g"
        shown = f"{self.measured:{digits}} -> {self.predicted:{digits}} ({percent(self.predicted, self.measured)} %"
        return f"{statistic} {shown}, {'between' if self.between else 'outside'})".strip()


def compare(run: Run) -> tuple[list[Compared], float]:
    """The run's figures, and for what share of its time one API server would be busy at the rate that is predicted."""
    doubt = doubt_of(profile_of(run.served), []) or Doubt(0.0, 0.0)
    middle, faster, slower = (predict(run, pace) for pace in (AS_TOLD, doubt.faster, doubt.slower))
    found = [
        Compared(run, name, value, middle[name], (faster[name], slower[name])) for name, value in run.measured.items()
    ]
    return found, middle["busy"]


def report(run: Run, found: list[Compared], busy: float) -> None:
    shown = {each.metric: str(each) for each in found}
    link = f"[{run.name}]({run.source})"
    cells = (shown.get(metric, "") for metric in KINDS)
    print(
        row(link, run.served.system, run.served.model.split("/")[-1], run.load, *cells, f"{busy:.0%}", run.mark),
        flush=True,
    )


def summary(title: str, found: Iterable[Compared]) -> None:
    """Median absolute error and, in brackets, the median's sign; how many lie between faster and slower steps."""
    cells = []
    everything = list(found)
    for metric in KINDS:
        part = [each for each in everything if each.metric == metric]
        cells.append(_medians(part) if part else "")
    print(row(title, *cells))


def _medians(part: list[Compared]) -> str:
    errors = 100 * np.array([each.error for each in part])
    held = sum(each.between for each in part)
    return f"{np.median(np.abs(errors)):.1f} ({np.median(errors):+.1f}; {held} of {len(part)} between)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[""], help="runs whose names begin so, such as G or K2")
    only = tuple(parser.parse_args().only)
    print("Measured -> predicted\n")
    print(f"{row(*HEADS)}\n{row(*['---'] * len(HEADS))}")
    found: list[Compared] = []
    for run in (run for run in RUNS if run.name.startswith(only)):
        compared, busy = compare(run)
        report(run, compared, busy)
        found += compared
    print(f"\n{row('median error, %', *KINDS.values())}\n{row(*['---'] * (len(KINDS) + 1))}")
    summary("all", found)
    for kind in (STEADY, BURST):
        summary(kind, (each for each in found if each.run.kind == kind))


if __name__ == "__main__":
    main()
