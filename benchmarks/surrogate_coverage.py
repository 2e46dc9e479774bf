"""How often a step's time lies within the error that a profile says 90 % of steps stay within, by regime.

    python benchmarks/surrogate_coverage.py [--profile h200-llama-3.1-8b] [--steps steps.jsonl] [--sizes 200 1000]

The steps are a profile's own samples, with 2 % noise, or step records such as accuracy/rtxpro6000_steps.py writes. Each
time some are fitted and the bound of each regime is tried on others, which the fit has not seen. `sizes between` are
steps whose numbers of tokens and rows the fit has not seen either.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from slotune.arrays import F64
from slotune.profiler.profile_folder import SAMPLES, load_profile, profile_folder
from slotune.profiler.surrogate.errors import folds, regime_names
from slotune.profiler.surrogate.samples import StepSamples, read_samples
from slotune.profiler.surrogate.steps import samples_of_files
from slotune.profiler.surrogate.surrogate import fit
from slotune.simulator.step_time import step_times_s

Within = dict[str, list[bool]]


def noisy(samples: StepSamples, noise: float, rng: np.random.Generator) -> StepSamples:
    return StepSamples(samples.totals, samples.duration_s * np.exp(rng.normal(0.0, noise, len(samples))))


def try_bounds(train: StepSamples, test: StepSamples, sizes: F64, seed: int, within: Within) -> None:
    fitted = fit(train, sizes, seed)
    bounds = {error.regime: error.p90 for error in fitted.held_out}
    errors = np.abs(step_times_s(fitted.model, test.totals) / test.duration_s - 1)
    for name, error in zip(regime_names(test.totals), errors, strict=True):
        bound = bounds.get(name)
        if bound is not None:
            within[name].append(bool(error <= bound))
            within["all"].append(bool(error <= bound))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="h200-llama-3.1-8b")
    parser.add_argument("--steps", type=Path, help="step records in place of a profile's samples")
    parser.add_argument("--noise", type=float, default=0.02)
    parser.add_argument("--sizes", type=int, nargs="*", default=[200, 1000])
    parser.add_argument("--repeats", type=int, default=4)
    asked = parser.parse_args()
    folder = profile_folder(asked.profile) or Path(asked.profile)
    graph_sizes = load_profile(folder).step.graph_sizes
    samples = samples_of_files([asked.steps]) if asked.steps else read_samples(folder / SAMPLES)
    kinds = ["all", *(f"{kind} {size}" for kind in ("decode", "prefill", "mixed") for size in ("small", "large"))]
    print(f"| steps | tried on | {' | '.join(kinds)} |\n|{'---|' * (len(kinds) + 2)}")
    for size in asked.sizes:
        for where in ("steps alike", "sizes between"):
            within: Within = defaultdict(list)
            for seed in range(asked.repeats):
                rng = np.random.default_rng(seed)
                known = noisy(samples, asked.noise, rng)
                held = folds(known, seed)[0] if where == "sizes between" else rng.random(len(known)) < 0.2
                inside = rng.permutation(np.flatnonzero(~held))[:size]
                try_bounds(known[inside], known[held], graph_sizes, seed, within)
            shares = [f"{100 * np.mean(within[kind]):.0f}" if within[kind] else "" for kind in kinds]
            print(f"| {size} | {where} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
