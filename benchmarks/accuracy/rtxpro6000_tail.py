"""The steps of a run's end, when decodes alone are left, against the sums of layer times: no schedule enters.

    python benchmarks/accuracy/rtxpro6000_tail.py --data FOLDER

FOLDER is as rtxpro6000.py takes it, with vllm/timeseries.csv, the engine's counts second by second. In a second whose
decodes generated so many tokens, a step took (decodes * 1 s / tokens). How many decode, with which contexts, comes from
the requests' first and last tokens; where a second of the counts begins on that clock, from the requests that ran.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from layer_times import LayerTimes, read_layer_times
from layer_times_engine import read_engine
from rtxpro6000 import KERNEL_GAP_MS
from tables import percent, require, row

from slotune.arrays import F64

BATCHES = (1, 8, 16, 32, 64, 128)
"""Decodes, from which on a row of the table counts."""
LOOKS = 20
"""A second, at how many decode and with which contexts."""


def read_ends(folder: Path) -> dict[str, F64]:
    """(requests,) each: their times on one clock, and how many tokens they had and got."""
    rows = [json.loads(line) for line in require(folder / "vllm" / "requests.jsonl").open()]
    names = ("scheduled_ts", "first_token_ts", "last_token_ts", "input_toks", "output_toks")
    return {name: np.array([row[name] for row in rows], np.float64) for name in names}


def read_seconds(folder: Path) -> dict[str, F64]:
    """(seconds,) each, in the order of time."""
    with require(folder / "vllm" / "timeseries.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    return {name: np.array([row[name] for row in rows], np.float64) for name in ("t", "running", "gen_throughput")}


def clock_s(ends: dict[str, F64], seconds: dict[str, F64]) -> float:
    """When t = 0 of the seconds is on the requests' clock: where as many run at the end as were counted."""
    last = slice(-min(len(seconds["t"]), 40), None)

    def differs(start_s: float) -> float:
        at = seconds["t"][last, None] + start_s
        runs = (ends["scheduled_ts"] <= at) & (at < ends["last_token_ts"])
        return float(np.abs(runs.sum(axis=1) - seconds["running"][last]).sum())

    begins_s = ends["scheduled_ts"].min()
    return float(min(np.arange(begins_s - 3, begins_s + 3, 0.05), key=differs))


def contexts_at(ends: dict[str, F64], now_s: float) -> list[int]:
    """Of what decodes then: tokens come evenly between a request's first and last."""
    first, last = ends["first_token_ts"], ends["last_token_ts"]
    decodes = (first <= now_s) & (now_s < last)
    got = (ends["output_toks"] - 1)[decodes] * (now_s - first[decodes]) / (last - first)[decodes]
    contexts: list[int] = (ends["input_toks"][decodes] + got).astype(int).tolist()
    return contexts


def second(ends: dict[str, F64], begins_s: float, times: LayerTimes, sizes: F64) -> tuple[float, float]:
    """Decodes on average, and tokens that the layer times give them in the second from `begins_s` on."""
    looks = [contexts_at(ends, begins_s + (i + 0.5) / LOOKS) for i in range(LOOKS)]
    gap_s = KERNEL_GAP_MS * times.kernels / 1e3
    steps_s = [times.step_s([(1, context) for context in look], sizes, gap_s) if look else np.inf for look in looks]
    decodes = np.array([len(look) for look in looks])
    return float(decodes.mean()), float((decodes / np.array(steps_s)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args().data
    ran = read_engine(folder)
    times = read_layer_times(folder, ran.engine.tensor_parallel_size, ran.link)
    ends, seconds = read_ends(folder), read_seconds(folder)
    start_s = clock_s(ends, seconds)
    begins_s = start_s + seconds["t"] - 1
    tail = np.flatnonzero((begins_s > ends["first_token_ts"].max()) & (seconds["gen_throughput"] > 0))
    told = np.array([second(ends, begins_s[i], times, ran.graph_sizes) for i in tail])
    decodes, tokens, measured = told[:, 0], told[:, 1], seconds["gen_throughput"][tail]
    print(row("decodes", "seconds", "step of layer times, ms", "measured, ms", "error %"))
    print(row(*["---"] * 5))
    for low, high in zip(BATCHES, (*BATCHES[1:], np.inf), strict=True):
        part = (decodes >= low) & (decodes < high)
        if part.any():
            ours, theirs = (1e3 * decodes[part].sum() / count[part].sum() for count in (tokens, measured))
            span = f"{low} to {high - 1:g}" if high < np.inf else f"{low} and more"
            print(row(span, part.sum(), f"{ours:.2f}", f"{theirs:.2f}", percent(ours, theirs)))


if __name__ == "__main__":
    main()
