"""Predicted beside measured for the runs of real_engine.py."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from real_engine_runs import Run
from served_runs import straight_line
from tables import row

from slotune.arrays import F64, Mask
from slotune.profiler.profile import Profile
from slotune.profiler.surrogate.samples import StepSamples
from slotune.simulator.metrics import summarise
from slotune.simulator.simulation import simulate
from slotune.simulator.step_time import StepTimeModel, slowed, step_times_s
from slotune.simulator.timing import Timing
from slotune.traces.trace import Trace
from slotune.tuner.sensitivity import Doubt, doubt_of

LATENCIES, STATISTICS = ("ttft", "tpot", "e2el"), ("mean", "median", "p90", "p99")
KEYS = (*(f"{statistic}_{name}_ms" for name in LATENCIES for statistic in STATISTICS), "output_throughput")
PROFILE, AT_SPEED, LINE, LINE_AT_SPEED = "profile", "profile, at the run's speed", "line", "line, at the run's speed"
FASTER, SLOWER = "profile, faster steps", "profile, slower steps"


def predict(profile: Profile, timing: Timing, settings: Mapping[str, Any], trace: Trace) -> dict[str, float]:
    """Metrics of the trace under the settings, with this timing."""
    result = simulate(trace, profile.engine_config(settings), timing)
    return summarise(result.requests, result.gaps)


def predictions(profile: Profile, line: StepTimeModel, run: Run) -> dict[str, F64]:
    """KEYS by each way to predict them."""
    timing, doubt = profile.timing(run.settings), doubt_of(profile, []) or Doubt(0.0, 0.0)
    found = {
        side: np.array([predict(profile, timing.at(pace), run.settings, run.sent)[key] for key in KEYS])
        for side, pace in ((FASTER, doubt.faster), (SLOWER, doubt.slower))
    }
    for name, at_speed, step in (
        (PROFILE, AT_SPEED, timing.step),
        (LINE, LINE_AT_SPEED, line),
    ):
        factor = float(run.steps.duration_s.sum() / step_times_s(step, run.steps.totals).sum())
        for way, used in ((name, step), (at_speed, slowed(step, factor))):
            metrics = predict(profile, replace(timing, step=used), run.settings, run.sent)
            found[way] = np.array([metrics[key] for key in KEYS])
    return found


def report(profile: Profile, samples: StepSamples, runs: Sequence[Run]) -> None:
    """Print a table for each configuration and load, and the errors over all of them."""
    line = straight_line(samples)
    by_case: dict[tuple[str, float], list[Run]] = defaultdict(list)
    for run in runs:
        by_case[run.configuration, run.load].append(run)
    errors: dict[str, list[F64]] = defaultdict(list)
    spreads, between = [], []
    for case, repeats in by_case.items():
        measured = np.array([[run.measured[key] for key in KEYS] for run in repeats])
        found = [predictions(profile, line, run) for run in repeats]
        means = {way: np.mean([one[way] for one in found], axis=0) for way in found[0]}
        spreads.append(apart(measured))
        ends = np.sort([means.pop(side) for side in (FASTER, SLOWER)], axis=0)
        between.append((ends[0] <= measured.mean(axis=0)) & (measured.mean(axis=0) <= ends[1]))
        for way, predicted in means.items():
            errors[way].append(predicted / measured.mean(axis=0) - 1)
        report_case(case, repeats, means, measured)
    report_all({way: np.array(rows) for way, rows in errors.items()}, np.array(spreads), np.array(between))


def apart(measured: F64) -> F64:
    """How far the repeats of a case lie apart, as shares of their means; NaN where it ran but once."""
    return np.ptp(measured, axis=0) / measured.mean(axis=0) if len(measured) > 1 else np.full(len(KEYS), np.nan)


def percent(share: float, decimals: int) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.{decimals}f}"


def report_case(case: tuple[str, float], repeats: Sequence[Run], means: Mapping[str, F64], measured: F64) -> None:
    name, load = case
    rate = np.mean([len(run.sent) / run.sent.arrival_s[-1] for run in repeats])
    print(f"\n{name}, load {load:g} ({rate:.2f} requests/s), {len(repeats)} runs\n")
    print(row("metric", "measured", "repeats apart %", *(f"{way}, error %" for way in means)))
    print(row(*["---"] * (3 + len(means))))
    spread = apart(measured)
    for k, key in enumerate(KEYS):
        middle = measured[:, k].mean()
        cells = [f"{value[k]:.1f} ({100 * (value[k] / middle - 1):+.1f})" for value in means.values()]
        print(row(key, f"{middle:.1f}", percent(spread[k], 0), *cells))


def report_all(errors: Mapping[str, F64], spreads: F64, between: Mask) -> None:
    """Mean absolute errors over the cases, how far repeats of one case lie apart, and in how many cases the measured
    value lies between those for faster and slower steps."""
    print(f"\nAll {len(spreads)} cases\n")
    print(row("mean absolute error %", *KEYS))
    print(row(*["---"] * (1 + len(KEYS))))
    for way, values in errors.items():
        both = zip(np.abs(values).mean(axis=0), values.mean(axis=0), strict=True)
        print(row(way, *(f"{100 * size:.1f} ({100 * bias:+.1f})" for size, bias in both)))
    print(row("repeats apart (max - min)", *(percent(value, 1) for value in spreads.mean(axis=0))))
    print(row("cases between faster and slower steps", *between.sum(axis=0)))
