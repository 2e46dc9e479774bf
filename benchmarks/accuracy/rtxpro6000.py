"""A real vLLM run predicted from its GPU's layer times: predicted, measured, error.

    python benchmarks/accuracy/rtxpro6000.py --data FOLDER
    python benchmarks/accuracy/rtxpro6000.py --data FOLDER --profile P      # from a profile instead of layer times

FOLDER holds layer times and the engine's arguments (layer_times.py, layer_times_engine.py), and a run:
workload.jsonl.gz with the tokens of its prompts, and vllm/requests.jsonl. The one that was looked at is vLLM 0.19 with
Llama-3.1-8B on an RTX PRO 6000 under 300 requests of ShareGPT at 10 a second, more than the GPU serves, so that TTFT is
mostly queueing. Runs with other engine arguments, on other GPUs and of other dense models are read alike; for several
GPUs the time of all-reduces is that of config.json's link. Nothing is fitted on the run. What enters of it are the
workload (arrivals, tokens of the prompts, output lengths) and the engine arguments; all else is vLLM's default.

llmservingsim_folder.py makes such a folder of a run in LLMServingSim's repository. A profile, say from kernel tables,
predicts the same run by its steps, as it tells them and shorter and longer by its expected error.

Both clocks are the engine's, as LLMServingSim compares: TTFT is first_token_ts - queued_ts, E2E last_token_ts -
queued_ts, TPOT (last - first) / (output tokens - 1).
"""

import argparse
import gzip
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from layer_times import LayerTimes, Row, read_layer_times
from layer_times_engine import MeasuredEngine, read_engine
from rtxpro6000_steps import step_records
from tables import require

from slotune.arrays import F64
from slotune.profiler.profile import Profile
from slotune.profiler.profile_folder import load_profile
from slotune.profiler.surrogate.steps import samples_of
from slotune.profiler.surrogate.surrogate import fit
from slotune.simulator.features import PREFILL_ROWS, totals_of
from slotune.simulator.replica import Replica
from slotune.simulator.simulation import simulate
from slotune.simulator.step_time import StepTimeModel, step_times_s
from slotune.simulator.timing import AS_TOLD, Timing
from slotune.traces.generate import plain
from slotune.traces.trace import Trace
from slotune.tuner.sensitivity import doubt_of

KERNEL_GAP_MS = 0.5e-3
"""From one kernel to the next inside a CUDA graph: 3.4 us a kernel that runs 2.9 us (NVIDIA's blog "Getting Started
with CUDA Graphs", a V100). The layer times are of kernels alone."""
STEP_GAP_MS = 0.11
"""From one step's output to the next step's schedule: median 0.09-0.13 ms in four runs of vLLM 0.32 on a CPU. Under
async scheduling the next step is scheduled before. That this gap and KERNEL_GAP_MS hold on the run's GPU is assumed."""
PEER_ERRORS = "llmservingsim-own-error.txt"
"""What LLMServingSim's own comparison printed for the run."""


def read_workload(folder: Path, block_size: int) -> Trace:
    """The offered requests; blocks of leading tokens that prompts share are runs of the same name."""
    with gzip.open(require(folder / "workload.jsonl.gz"), "rt") as lines:
        requests = sorted((json.loads(line) for line in lines), key=lambda request: request["arrival_time_ns"])
    names: dict[tuple[int, ...], int] = {}
    runs = [_leading_blocks(request["input_tok_ids"], block_size, names) for request in requests]
    trace = plain(
        np.array([request["arrival_time_ns"] / 1e9 for request in requests]),
        np.array([request["input_toks"] for request in requests], np.int32),
        np.array([request["output_toks"] for request in requests], np.int32),
    )
    return replace(
        trace,
        run_offsets=np.concatenate(([0], np.cumsum([len(run) for run in runs]))).astype(np.int64),
        run_name=np.array([name for run in runs for name in run], np.int64),
        run_tokens=np.full(sum(len(run) for run in runs), block_size, np.int32),
    )


def _leading_blocks(tokens: list[int], block_size: int, names: dict[tuple[int, ...], int]) -> list[int]:
    """A number for each whole block, the same for the same tokens behind the same blocks."""
    chain: list[int] = []
    for start in range(0, len(tokens) - block_size + 1, block_size):
        key = (chain[-1] if chain else -1, *tokens[start : start + block_size])
        chain.append(names.setdefault(key, len(names)))
    return chain


def read_measured(folder: Path, trace: Trace) -> dict[str, F64]:
    """Of the requests of `trace`, in their order. Ends the command where they are not the run's."""
    path = require(folder / "vllm" / "requests.jsonl")
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.open()]
    rows.sort(key=lambda row: row["queued_ts"])
    sent = [[row["input_toks"], row["output_toks"]] for row in rows]
    if sent != np.stack([trace.input_tokens, trace.output_tokens], axis=1).tolist():
        raise SystemExit(f"{path}: not the lengths of workload.jsonl.gz, in the order of its arrivals")
    queued, first, last, outputs = (
        np.array([row[key] for row in rows]) for key in ("queued_ts", "first_token_ts", "last_token_ts", "output_toks")
    )
    return latencies(queued, first, last, outputs)


def latencies(start: F64, first: F64, last: F64, outputs: F64) -> dict[str, F64]:
    """Seconds by metric and request; tokens per second of the whole run."""
    several = outputs > 1
    return {
        "TTFT": first - start,
        "TPOT": (last - first)[several] / (outputs - 1)[several],
        "E2E": last - start,
        "throughput": outputs.sum() / (last.max() - start.min())[None],
    }


def predict(trace: Trace, measured: MeasuredEngine, model: StepTimeModel) -> tuple[dict[str, F64], list[list[Row]]]:
    """Latencies, and the rows of every step."""
    steps: list[list[Row]] = []
    free_blocks = [measured.engine.num_gpu_blocks]

    def collect(replica: Replica) -> None:
        engine, start = replica.engine, 0
        log = engine.step_log[: engine.state[0].logged_steps]
        free_blocks.extend(log.free_blocks.tolist())
        for end in log.row_end:
            rows = engine.row_log[start:end]
            steps.append(list(zip(rows["tokens"].tolist(), rows["context"].tolist(), strict=True)))
            start = end

    done = simulate(trace, measured.engine, Timing(model), steps_out=collect).requests
    if not done.finished.all():
        raise SystemExit(f"{(~done.finished).sum()} requests of the run would not be answered by such an engine")
    print(f"\n{(done.preemptions > 0).sum()} of {len(trace)} requests are preempted in the simulation")
    if measured.blocks_are_estimated and min(free_blocks) < CLOSE * measured.engine.num_gpu_blocks:
        print(
            f"\nThe KV cache fills up, and its {measured.engine.num_gpu_blocks} blocks are an estimate: no number holds"
        )
    return latencies(trace.arrival_s, done.first_token_s, done.finish_s, done.output_tokens.astype(float)), steps


def report_surrogate(
    model: StepTimeModel, times: LayerTimes, graph_sizes: F64, steps: list[list[Row]], gap_s: float
) -> None:
    """How much of the error is the surrogate's: its times of the simulated steps against the layer times' sums."""
    totals = np.array([totals_of(*np.array(rows, np.int64).T) for rows in steps])
    fitted_s = step_times_s(model, totals)
    summed_s = np.array([times.step_s(rows, graph_sizes, gap_s) for rows in steps])
    mixed = totals[:, PREFILL_ROWS] > 0
    print("\n| simulated steps | count | share of time % | surrogate against layer times % |\n|---|---|---|---|")
    for name, part in (("all", mixed | ~mixed), ("decode only", ~mixed), ("with prefill", mixed)):
        ours_s, theirs_s = fitted_s[part].sum(), summed_s[part].sum()
        share = 100 * theirs_s / summed_s.sum()
        print(f"| {name} | {part.sum()} | {share:.0f} | {100 * (ours_s / theirs_s - 1):+.1f} |")


CLOSE = 0.1
"""Of the KV blocks: where no more than that are free, their number matters."""
STATISTICS: dict[str, Callable[[F64], float]] = {
    "mean": np.mean,
    **{f"p{q}": partial(np.percentile, q=q) for q in (50, 90, 99)},
}


def report(title: str, predicted: dict[str, F64], measured: dict[str, F64]) -> None:
    print(f"\n{title}\n\n| metric | statistic | predicted | measured | error % |\n|---|---|---|---|---|")
    for metric in ("TTFT", "TPOT", "E2E"):
        for name, statistic in STATISTICS.items():
            ours, theirs = statistic(predicted[metric]) * 1e3, statistic(measured[metric]) * 1e3
            print(f"| {metric} ms | {name} | {ours:.1f} | {theirs:.1f} | {100 * (ours / theirs - 1):+.1f} |")
        each = np.mean(np.abs(predicted[metric] / measured[metric] - 1))
        print(f"| {metric} | mean absolute error of single requests | | | {100 * each:.1f} |")
    ours, theirs = predicted["throughput"][0], measured["throughput"][0]
    print(f"| output tokens/s | whole run | {ours:.0f} | {theirs:.0f} | {100 * (ours / theirs - 1):+.1f} |")


def report_profile(profile: Profile, ran: MeasuredEngine, folder: Path) -> None:
    if profile.engine.tensor_parallel_size != ran.engine.tensor_parallel_size:
        sys.exit(f"{profile.name}: of {profile.engine.tensor_parallel_size} GPUs, and the run had others")
    trace = read_workload(folder, ran.engine.block_size)
    measured = read_measured(folder, trace)
    sizes = {name: getattr(ran.engine, name) for name in ("max_num_seqs", "max_num_batched_tokens")}
    timing, doubt = profile.timing(sizes), doubt_of(profile, [])
    paces = {"": AS_TOLD} | ({", faster steps": doubt.faster, ", slower steps": doubt.slower} if doubt else {})
    for name, pace in paces.items():
        report(f"{profile.name}{name}", predict(trace, ran, timing.at(pace).step)[0], measured)
    for doubted in profile.doubts:
        print(f"\nIn doubt: {doubted}")


def report_layer_times(asked: argparse.Namespace, ran: MeasuredEngine) -> None:
    times = read_layer_times(asked.data, ran.engine.tensor_parallel_size, ran.link)
    if not times.skew:
        print("No table of unequal contexts: decodes are taken as if all had the mean one, which is too short a time")
    if times.blocks:
        reach, off = times.blocks.reach, times.blocks.error
        print(f"Unequal decodes: a block reads up to {reach:.1f} shares; batches of two lengths are off by {off:.1%}")
    trace = read_workload(asked.data, ran.engine.block_size)
    measured = read_measured(asked.data, trace)
    between_ms = 0.0 if ran.engine.async_scheduling else STEP_GAP_MS
    for gap_ms in asked.gap_ms or (0.0, between_ms + times.kernels * KERNEL_GAP_MS):
        samples = samples_of(step_records(times, ran, asked.count, asked.seed, gap_ms / 1e3))
        model = fit(samples, ran.graph_sizes, asked.seed).model
        predicted, steps = predict(trace, ran, model)
        report(
            f"Kernels and {gap_ms:.2f} ms between them in each step" if gap_ms else "Kernels alone", predicted, measured
        )
        report_surrogate(model, times, ran.graph_sizes, steps, gap_ms / 1e3)
    if (asked.data / PEER_ERRORS).exists():
        print(f"\nLLMServingSim, by its own comparison:\n{(asked.data / PEER_ERRORS).read_text()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--profile", help="to take step times from, instead of putting them together")
    parser.add_argument("--count", type=int, default=20_000, help="steps put together from the layer times")
    parser.add_argument("--gap-ms", type=float, action="append", help="time of a step outside its kernels; repeatable")
    parser.add_argument("--num-gpu-blocks", type=int, help="KV blocks, where the folder does not tell them")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    ran = read_engine(asked.data, asked.num_gpu_blocks)
    if asked.profile:
        report_profile(load_profile(asked.profile), ran, asked.data)
    else:
        report_layer_times(asked, ran)


if __name__ == "__main__":
    main()
