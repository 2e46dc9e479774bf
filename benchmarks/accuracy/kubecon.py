"""Two vLLM 0.11 configurations on an H100 over seven request rates, predicted from public kernel tables.

    python benchmarks/accuracy/kubecon.py [--data ../shared/measured] [--profile P]

The run is kubernetes-sigs/inference-perf's demo (demos/kubecon-na-2025, Apache-2.0): Llama-3.1-8B, 100 prompts of 192
tokens (10 system prompts of 128, a question of 64 behind each) sent over and over, answers of 64 tokens, 60 s a rate,
at most 440 requests in flight. Without --profile the profile is made from kernel tables of the H100, as by

    slotune profile import silicon --system h100_sxm --model meta-llama/Meta-Llama-3.1-8B \\
        --engine async_scheduling=false

Nothing is fitted on the run but, in the second of the two predictions, one number: the time that a request spends
between the load generator and the engine, from the mean TTFT of one stage, the plain configuration at 31.4 requests/s,
which is left out of the errors. (At 1 request/s client and GPU fall idle between requests: TTFT is longer there than at
43.) Beside every prediction stand those for faster and slower steps, as `slotune simulate` has them, and it is counted
how many measured values lie between. Rates near saturation are reported apart: there one per cent of speed decides
whether a queue grows. The run's own TPOT counts every event twice (README beside the data), so TPOT is taken here as
(mean E2E - mean TTFT) / 63.
"""

import argparse
import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tables import percent, require, row

from slotune.profiler.profile import Profile
from slotune.profiler.profile_folder import load_profile
from slotune.profiler.silicon.silicon_profile import import_silicon
from slotune.simulator.request_table import RequestTable
from slotune.simulator.simulation import simulate
from slotune.simulator.timing import AS_TOLD, Pace
from slotune.traces.generate import plain
from slotune.traces.trace import Trace
from slotune.tuner.sensitivity import Doubt, doubt_of

FOLDER = "h100-llama-3.1-8b-kubecon"
SYSTEM, MODEL = "h100_sxm", "meta-llama/Meta-Llama-3.1-8B"
PLAIN, CACHING = "vllm", "vllm+chunking_and_prefix_caching"
COMMON = {
    "max_model_len": 512,
    "gpu_memory_utilization": 0.9,
    "max_num_seqs": 128,
    "max_num_batched_tokens": 8192,  # not recorded: vLLM 0.11's default on an H100
    "async_scheduling": False,  # vLLM 0.11's default
}
ENGINES: dict[str, dict[str, Any]] = {
    PLAIN: COMMON | {"enable_prefix_caching": False, "enable_chunked_prefill": False},
    CACHING: COMMON | {"enable_prefix_caching": True, "enable_chunked_prefill": True},
}
SYSTEM_PROMPTS, USERS, SYSTEM_TOKENS, QUESTION_TOKENS, OUTPUT_TOKENS = 10, 10, 128, 64, 64
STAGE_S = 60.0
APART_S = 240.0
"""From the start of one stage to the start of the next: long enough for all requests of a stage to be answered."""
IN_FLIGHT = 440
"""44 workers of 10 connections each."""
KEPT_UP = 0.98
"""A stage whose achieved rate is at least this share of the requested one is below saturation."""
NEAR = 0.9
"""Of the rate that is served at most, measured: above it, a stage below saturation is near it."""
LEARNT_FROM = (PLAIN, 1)
"""The stage whose mean TTFT tells the time between client and engine."""
LATENCIES = ("ttft_mean", "ttft_p50", "ttft_p99", "tpot_mean", "e2e_mean", "e2e_p99")


@dataclass(frozen=True, slots=True)
class Stage:
    """One rate of one configuration: what was sent, and what came of it (seconds, requests/s)."""

    requested_rate: float
    count: int
    figures: dict[str, float]

    @property
    def kept_up(self) -> bool:
        return self.figures["rate"] >= KEPT_UP * self.requested_rate


def read_stages(folder: Path) -> dict[str, list[Stage]]:
    stages: dict[str, list[Stage]] = {PLAIN: [], CACHING: []}
    with (folder / "table.csv").open() as lines:
        for line in csv.DictReader(lines):
            figures = {name: float(line[f"{name}_s"]) for name in LATENCIES if name != "tpot_mean"}
            figures["tpot_mean"] = (figures["e2e_mean"] - figures["ttft_mean"]) / (OUTPUT_TOKENS - 1)
            figures["rate"] = float(line["achieved_rate"])
            stages[line["config"]].append(Stage(float(line["requested_rate"]), int(line["count"]), figures))
    return stages


def workload(stages: list[Stage], seed: int) -> Trace:
    """All stages one after the other: exponential gaps scaled to fill 60 s, as the load generator draws them."""
    rng = np.random.default_rng(seed)
    arrivals = []
    for number, stage in enumerate(stages):
        gaps = rng.exponential(1.0, stage.count)
        arrivals.append(number * APART_S + np.cumsum(gaps) * STAGE_S / gaps.sum())
    arrival_s = np.concatenate(arrivals)
    prompts = rng.permutation(SYSTEM_PROMPTS * USERS)[np.arange(len(arrival_s)) % (SYSTEM_PROMPTS * USERS)]
    lengths = np.full(len(arrival_s), SYSTEM_TOKENS + QUESTION_TOKENS, np.int32)
    names = np.stack([prompts // USERS, SYSTEM_PROMPTS + prompts], axis=1)
    return replace(
        plain(arrival_s, lengths, np.full(len(arrival_s), OUTPUT_TOKENS, np.int32)),
        run_offsets=np.arange(len(arrival_s) + 1, dtype=np.int64) * 2,
        run_name=names.ravel().astype(np.int64),
        run_tokens=np.tile(np.array([SYSTEM_TOKENS, QUESTION_TOKENS], np.int32), len(arrival_s)),
    )


def predict(profile: Profile, settings: dict[str, Any], stages: list[Stage], seed: int, pace: Pace) -> list[Stage]:
    timing = profile.timing(settings).at(pace)
    engine = profile.engine_config(settings)
    done = simulate(workload(stages, seed), engine, timing, max_concurrency=IN_FLIGHT).requests
    ends = np.cumsum([stage.count for stage in stages])
    return [
        replace(stage, figures=figures_of(done, slice(end - stage.count, end)))
        for stage, end in zip(stages, ends, strict=True)
    ]


def figures_of(done: RequestTable, part: slice) -> dict[str, float]:
    sent, ttft, e2e = done.arrival_s[part], done.ttft_s[part], done.e2el_s[part]
    return {
        "ttft_mean": float(ttft.mean()),
        "ttft_p50": float(np.median(ttft)),
        "ttft_p99": float(np.percentile(ttft, 99)),
        "tpot_mean": float((e2e.mean() - ttft.mean()) / (OUTPUT_TOKENS - 1)),
        "e2e_mean": float(e2e.mean()),
        "e2e_p99": float(np.percentile(e2e, 99)),
        "rate": float(len(sent) / (sent[-1] - sent[0])),
    }


@dataclass(frozen=True, slots=True)
class Predicted:
    """The stages of each configuration, as predicted and with faster and slower steps."""

    stages: dict[str, list[Stage]]
    faster: dict[str, list[Stage]]
    slower: dict[str, list[Stage]]

    def holds(self, config: str, number: int, name: str, value: float) -> bool:
        """Whether a measured value lies between the one for faster and the one for slower steps."""
        ends = [side[config][number].figures[name] for side in (self.faster, self.slower)]
        return min(ends) <= value <= max(ends)


def predictions(profile: Profile, measured: dict[str, list[Stage]], seed: int, doubt: Doubt) -> Predicted:
    return Predicted(
        *(
            {config: predict(profile, ENGINES[config], measured[config], seed, pace) for config in measured}
            for pace in (AS_TOLD, doubt.faster, doubt.slower)
        )
    )


def report_stages(config: str, predicted: Predicted, measured: list[Stage]) -> None:
    print(f"\n{config}\n")
    print(row("requested/s", "metric", "predicted", "faster / slower steps", "measured", "error %"))
    print(row(*["---"] * 6))
    sides = (predicted.stages[config], predicted.faster[config], predicted.slower[config])
    for ours, faster, slower, theirs in zip(*sides, measured, strict=True):
        for name in (*LATENCIES, "rate"):
            scale, label = (1.0, "requests/s") if name == "rate" else (1e3, f"{name} ms")
            mine, low, high, real = (scale * stage.figures[name] for stage in (ours, faster, slower, theirs))
            ends = f"{low:.1f} / {high:.1f}"
            print(row(theirs.requested_rate, label, f"{mine:.1f}", ends, f"{real:.1f}", percent(mine, real)))


def saturation(stages: list[Stage]) -> float:
    """The highest rate that was achieved, requests/s."""
    return max(stage.figures["rate"] for stage in stages)


def report(title: str, predicted: Predicted, measured: dict[str, list[Stage]], learnt: bool) -> None:
    print(f"\n## {title}")
    for config in measured:
        report_stages(config, predicted, measured[config])
    ours = {config: saturation(predicted.stages[config]) for config in measured}
    theirs = {config: saturation(measured[config]) for config in measured}
    print(f"\n{row('summary', 'predicted', 'measured', 'error %')}\n{row(*['---'] * 4)}")
    for config in measured:
        print(row(f"saturation of {config}, requests/s", f"{ours[config]:.1f}", f"{theirs[config]:.1f}",
                  percent(ours[config], theirs[config])))  # fmt: skip
    gains = ours[CACHING] / ours[PLAIN], theirs[CACHING] / theirs[PLAIN]
    print(row("gain of chunking and prefix caching", *(f"{gain:.2f}" for gain in gains), percent(*gains)))
    for near in (False, True):
        report_errors(predicted, measured, near, learnt)


def report_errors(predicted: Predicted, measured: dict[str, list[Stage]], near: bool, learnt: bool) -> None:
    """The errors of the rates below saturation that are, or are not, near it."""
    cases = [
        (config, number, real)
        for config in measured
        for number, real in enumerate(measured[config])
        if real.kept_up and (real.requested_rate > NEAR * saturation(measured[config])) == near
        if not (learnt and (config, number) == LEARNT_FROM)
    ]
    where = f"{'from' if near else 'up to'} {NEAR:.0%} of saturation"
    for name in LATENCIES:
        errors = [
            abs(predicted.stages[config][number].figures[name] / real.figures[name] - 1)
            for config, number, real in cases
        ]
        held = sum(predicted.holds(config, number, name, real.figures[name]) for config, number, real in cases)
        shown = f"{100 * np.mean(errors):.1f} (largest {100 * max(errors):.1f}; {held} between faster and slower steps)"
        print(row(f"{name}, mean absolute error of {len(cases)} rates {where}", "", "", shown))


def with_client(profile: Profile, measured: Stage, predicted: Stage) -> Profile:
    """The profile with the time between client and engine that a stage tells."""
    missing_s = measured.figures["ttft_mean"] - predicted.figures["ttft_mean"]
    overhead = replace(profile.overhead, before_s=max(0.0, profile.overhead.before_s + missing_s))
    return replace(profile, overhead=overhead)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/measured"))
    parser.add_argument("--profile", help="a profile in place of the one from kernel tables")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    measured = read_stages(require(asked.data / FOLDER))
    if asked.profile:
        profile = load_profile(asked.profile)
    else:
        profile = import_silicon(SYSTEM, MODEL, 1, "kubecon", settings={"async_scheduling": False})
    print(profile.provenance)

    doubt = doubt_of(profile, []) or Doubt(0.0, 0.0)
    blind = predictions(profile, measured, asked.seed, doubt)
    report("As the tables have it", blind, measured, learnt=False)
    config, number = LEARNT_FROM
    learnt = with_client(profile, measured[config][number], blind.stages[config][number])
    added_ms = 1e3 * (learnt.overhead.before_s - profile.overhead.before_s)
    rate = measured[config][number].requested_rate
    title = f"With {added_ms:.1f} ms more between client and engine, from {config} at {rate} requests/s"
    report(title, predictions(learnt, measured, asked.seed, replace(doubt, later_s=0.0)), measured, learnt=True)


if __name__ == "__main__":
    main()
