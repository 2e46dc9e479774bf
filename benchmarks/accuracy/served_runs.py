"""A profile's step times beside a plain straight line, on the runs of a validated study: which predicts them better?

    python benchmarks/accuracy/served_runs.py STUDY [--profile PROFILE]

STUDY was validated on the engine (`slotune validate`, or benchmarks/end_to_end.py, whose study is OUT/study). The line
is constant + a * prefill tokens + b * decode rows, fitted to the profile's own samples by least absolute relative
error; "fitted anew" is what today's fit makes of those samples. Each run is predicted twice: with step times as they
are, and for steps that are longer by the factor that the run's own were, so that a machine that slowed down since does
not count.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import nnls
from tables import row

from slotune.arrays import F64
from slotune.profiler.profile_folder import load_profile
from slotune.profiler.surrogate.samples import StepSamples, read_samples
from slotune.profiler.surrogate.steps import samples_of_files
from slotune.profiler.surrogate.surrogate import fit
from slotune.simulator.features import CONSTANT, DECODE_ROWS, PHYSICS, PREFILL_TOKENS
from slotune.simulator.metrics import summarise
from slotune.simulator.simulation import simulate
from slotune.simulator.step_time import StepTimeModel, pack_model, step_times_s
from slotune.simulator.timing import Pace
from slotune.tuner.study.study import Study, Trial, settings_key
from slotune.tuner.study.task import Task, load_task

KEYS = ("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms")
TERMS = (CONSTANT, PREFILL_TOKENS, DECODE_ROWS)
REFITS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--profile", help="another profile of the same engine (default: the study's own)")
    options = parser.parse_args()
    with Study.open(options.study) as study:
        task = load_task(study.asked)
        trials = [trial for trial in study.trials("hardware") if trial.metrics]
        folder = Path(options.profile or study.asked.profile)
    task = replace(task, profile=load_profile(str(folder)))
    samples = read_samples(folder / "steps.parquet")
    anew = fit(samples, task.profile.step.graph_sizes, in_order=True).model
    print(row("step times", "predicted", *(f"{key}, mean absolute error %" for key in KEYS)))
    print(row(*["---"] * (2 + len(KEYS))))
    for name, step in (("profile", None), ("fitted anew", anew), ("straight line", straight_line(samples))):
        for when, errors in errors_of(task, trials, options.study, step):
            print(row(name, when, *errors), flush=True)


def straight_line(samples: StepSamples) -> StepTimeModel:
    """Non-negative least absolute relative deviations, by reweighting."""
    totals = np.column_stack([np.ones(len(samples)), samples.totals[:, PREFILL_TOKENS], samples.totals[:, DECODE_ROWS]])
    relative = totals / samples.duration_s[:, None]
    weights = np.ones(len(samples))
    for _ in range(REFITS):
        rooted = np.sqrt(weights)
        solution, _ = nnls(relative * rooted[:, None], rooted)
        weights = 1 / np.maximum(np.abs(relative @ solution - 1), 1e-3)
    physics = np.zeros(PHYSICS)
    physics[list(TERMS)] = solution
    return pack_model(physics)


def errors_of(
    task: Task, trials: list[Trial], study: Path, step: StepTimeModel | None
) -> Iterator[tuple[str, list[str]]]:
    """Mean absolute error of the configurations' means, for unchanged step times and for each run's own."""
    asked = {settings_key(trial.settings) for trial in trials}
    for when in ("as profiled", "at each run's step times"):
        shares = []
        for key in sorted(asked):
            runs = [trial for trial in trials if settings_key(trial.settings) == key]
            ratios = [_ratio(task, run, study, step, when != "as profiled") for run in runs]
            shares.append(np.mean(ratios, axis=0) - 1)
        yield when, [f"{100 * error:.1f}" for error in np.abs(shares).mean(axis=0)]


def _ratio(task: Task, run: Trial, study: Path, step: StepTimeModel | None, at_speed: bool) -> F64:
    """Predicted over measured, of KEYS."""
    timing = task.profile.timing(run.settings)
    timing = replace(timing, step=step or timing.step)
    if at_speed:
        samples = samples_of_files([study / run.details["folder"] / "steps.jsonl"])
        factor = samples.duration_s.sum() / step_times_s(timing.step, samples.totals).sum()
        timing = timing.at(Pace(float(factor)))
    result = simulate(task.trace, task.profile.engine_config(run.settings), timing)
    predicted = summarise(result.requests, result.gaps)
    assert run.metrics is not None
    return np.array([predicted[key] / run.metrics[key] for key in KEYS])


if __name__ == "__main__":
    main()
