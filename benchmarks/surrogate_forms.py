"""Which form of step-time surrogate errs least, in range and out of range, at several numbers of measured steps.

    python benchmarks/surrogate_forms.py [--profile h200-llama-3.1-8b] [--noise 0.02]

The steps are a profile's own samples (steps.parquet). In range: tested on steps like those fitted. Out of range: fitted
on steps of at most 2048 tokens, 128 sequences and contexts of 4096, tested on the others. Prints median errors in per
cent as a Markdown table.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from surrogate_peers import PEERS, errors_by_regime

from slotune.profiler.profile_folder import SAMPLES, load_profile, profile_folder
from slotune.profiler.surrogate.samples import StepSamples, read_samples
from slotune.simulator.features import DECODE_ROWS, MAX_CONTEXT, PREFILL_ROWS, PREFILL_TOKENS

MOST_TOKENS, MOST_SEQUENCES, MOST_CONTEXT = 2048, 128, 4096


def in_range(samples: StepSamples) -> npt.NDArray[np.bool_]:
    totals = samples.totals
    tokens = totals[:, PREFILL_TOKENS] + totals[:, DECODE_ROWS]
    sequences = totals[:, PREFILL_ROWS] + totals[:, DECODE_ROWS]
    return (tokens <= MOST_TOKENS) & (sequences <= MOST_SEQUENCES) & (totals[:, MAX_CONTEXT] <= MOST_CONTEXT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="h200-llama-3.1-8b")
    parser.add_argument("--noise", type=float, default=0.02, help="standard deviation of the log of measured times")
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 300, 1000])
    asked = parser.parse_args()
    folder = profile_folder(asked.profile) or Path(asked.profile)
    sizes = load_profile(folder).step.graph_sizes
    samples, rng = read_samples(folder / SAMPLES), np.random.default_rng(0)
    inside = in_range(samples)
    near, far = samples[inside], samples[~inside]
    order = rng.permutation(len(near))
    near, test = near[order[: len(near) // 2]], near[order[len(near) // 2 :]]
    print("| steps | form | in range | decode | prefill | mixed | out of range | decode | prefill | mixed | fit s |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for size in asked.sizes:
        train = near[: min(size, len(near))]
        noisy = train.duration_s * np.exp(rng.normal(0, asked.noise, len(train)))
        for name, peer in PEERS.items():
            start = time.perf_counter()
            predict = peer(train.totals, noisy, sizes)
            took = time.perf_counter() - start
            cells = [errors_by_regime(predict, part.totals, part.duration_s) for part in (test, far)]
            figures = " | ".join(f"{value:.1f}" for part in cells for value in part.values())
            print(f"| {len(train)} | {name} | {figures} | {took:.1f} |", flush=True)


if __name__ == "__main__":
    main()
