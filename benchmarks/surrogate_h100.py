"""Step times of a real H100: fit on some batch sizes and lengths, predict the others.

    python benchmarks/surrogate_h100.py --data FOLDER

FOLDER holds steps.csv.gz: 213,870 scheduler steps of vLLM V1 (github.com/FerranAgulloLopez/GPULLMAdapterOptimization,
arXiv 2508.08343). The log has times but no compositions. They are found by replaying each run in the simulator: one
request to warm up, then all requests at the rate at which the log's batches grow, prompts of 5 tokens (`output` runs)
or the named length (`input` runs). Prints median and mean errors in per cent, in range and extrapolated, and what the
fit itself tells of its errors.
"""

import argparse
import csv
import gzip
from collections import defaultdict
from pathlib import Path

import numpy as np
from surrogate_peers import PEERS

from slotune.arrays import F64
from slotune.profiler.graph_sizes import captured_graph_sizes
from slotune.profiler.surrogate.model import BEYOND
from slotune.profiler.surrogate.samples import StepSamples, join
from slotune.profiler.surrogate.surrogate import fit
from slotune.simulator.engine_config import EngineConfig
from slotune.simulator.features import totals_of
from slotune.simulator.replica import Replica
from slotune.simulator.simulation import simulate
from slotune.simulator.step_time import linear_model
from slotune.simulator.timing import Timing
from slotune.traces.generate import plain

ROUGH = linear_model(0.012, 2.1e-5, 2.7e-5, 5e-8)
"""Good enough to know which requests meet in a step."""
GRAPH_SIZES = captured_graph_sizes(EngineConfig(num_gpu_blocks=2, max_num_batched_tokens=2048), {})
ARRIVALS_PER_S = 2000.0
"""The log's batches reach 400 sequences within ten steps of 20 ms."""
IDLE_S = 1.0
"""A longer pause is the one between warming up and the load."""
LONGEST_DRIFT = 0.03
"""Runs whose replay has more than this share of steps too many or too few are left out: their log is cut."""
MODELS = ("llama-3.1-8b-instruct", "qwen-2.5-7b-instruct")


def read_runs(folder: Path, model: str) -> dict[str, F64]:
    """Step times in seconds of each run, from the step after the pause on."""
    ends: dict[str, list[float]] = defaultdict(list)
    with gzip.open(folder / "steps.csv.gz", "rt") as lines:
        for row in csv.DictReader(lines):
            if row["model"] == model:
                ends[f"{row['mode']}{row['run']}"].append(float(row["ts_s"]))
    return {run: after_pause(np.diff(times)) for run, times in ends.items()}


def after_pause(durations_s: F64) -> F64:
    pauses = np.flatnonzero(durations_s > IDLE_S)
    return durations_s[pauses[-1] + 1 :] if len(pauses) else durations_s


def requests_of(max_num_seqs: int) -> int:
    """Requests of an `output` run: 4,100, and twice that from 600 sequences on (steps * sequences / output tokens)."""
    return 4100 if max_num_seqs <= 400 else 8200


def replay(mode: str, max_num_seqs: int, prompt: int, output: int, blocks: int) -> F64:
    """Totals of the steps that vLLM's scheduler makes of the run."""
    count = requests_of(max_num_seqs) if mode == "output" else 4 * 2048
    lengths = np.full(count, prompt + 4, np.int32), np.full(count, output, np.int32)
    totals: list[F64] = []

    def collect(replica: Replica) -> None:
        engine, row = replica.engine, 0
        for end in engine.step_log.row_end[: engine.state[0].logged_steps]:
            rows = engine.row_log[row:end]
            totals.append(totals_of(rows["tokens"], rows["context"]))
            row = end

    engine = EngineConfig(
        num_gpu_blocks=blocks,
        max_num_batched_tokens=2048,
        max_num_seqs=max_num_seqs,
        enable_prefix_caching=False,
        async_scheduling=False,
    )
    simulate(plain(np.arange(count) / ARRIVALS_PER_S, *lengths), engine, Timing(ROUGH), steps_out=collect)
    return np.array(totals)


def samples_of_run(run: str, durations_s: F64) -> StepSamples | None:
    """Replayed compositions beside measured times; None where the two do not match in number."""
    mode = "output" if run.startswith("output") else "input"
    max_num_seqs, prompt, output = (int(part) for part in run.removeprefix(mode).replace("__", "_").split("_")[1:])
    totals = replay(mode, max_num_seqs, prompt, output, 334944 // 16)
    length = min(len(totals), len(durations_s))
    if mode == "output" and abs(len(totals) - len(durations_s)) > LONGEST_DRIFT * length:
        print(f"left out: {run} has {len(durations_s)} steps, its replay {len(totals)}")
        return None
    return StepSamples(totals[:length], durations_s[:length])


def compare(name: str, train: list[StepSamples], test: list[StepSamples]) -> None:
    fitted_on, tested_on = join(train), join(test)
    thinned = fitted_on[:: max(1, len(fitted_on) // 20_000)]
    for form, peer in PEERS.items():
        predicted = peer(thinned.totals, thinned.duration_s, GRAPH_SIZES)(tested_on.totals)
        error = 100 * np.abs(predicted / tested_on.duration_s - 1)
        bias = 100 * (predicted.sum() / tested_on.duration_s.sum() - 1)
        print(f"| {name} | {form} | {np.median(error):.1f} | {error.mean():.1f} | {bias:+.1f} |", flush=True)
    told = {error.regime: f"{100 * error.median:.1f}" for error in fit(thinned, GRAPH_SIZES).held_out}
    print(f"| {name} | told of steps like those fitted; of up to twice as large | {told['all']}; {told[BEYOND]} | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    asked = parser.parse_args()
    for model in MODELS:
        runs = {run: samples_of_run(run, times) for run, times in read_runs(asked.data, model).items()}
        known = {run: samples for run, samples in runs.items() if samples is not None}
        print(f"\n{model}: {len(known)} runs, {sum(len(s) for s in known.values())} steps")
        print("| predicted runs | form | median % | mean % | bias % |\n|---|---|---|---|---|")
        for name, held in {
            "200 and 600 sequences, from the others": ("output_200_", "output_600_"),
            "lengths of 200, from the others": ("_200",),
            "800 and 1000 sequences, from fewer": ("output_800_", "output_1000_"),
        }.items():
            is_held = {run: any(run.startswith(h) or (h[0] == "_" and run.endswith(h)) for h in held) for run in known}
            test = [samples for run, samples in known.items() if is_held[run]]
            compare(name, [samples for run, samples in known.items() if not is_held[run]], test)


if __name__ == "__main__":
    main()
