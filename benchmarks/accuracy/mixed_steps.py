"""How much longer a step of decodes is on an H100 when it begins a new prompt too, by its logged step times.

    python benchmarks/accuracy/mixed_steps.py --data ../shared/measured/h100-64gb-steps

The log (benchmarks/surrogate_h100.py says where it is from; no async scheduling) has no compositions, but one kind of
step is known: all requests of a run answer with as many tokens, C, and the first came alone, so it ends alone, and step
k * C has one new prompt of five tokens where the steps before it had decodes only. What that step takes beyond the line
through the decodes of its wave, against what the attention of the decodes takes there (the line's rise over the wave):
the slope is what a prefill adds to each millisecond of it, the rest comes once a step. Both are in
profiler/silicon/omitted.py. Runs with a CUDA graph only; least absolute deviations.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import QuantileRegressor
from tables import require, row

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from surrogate_h100 import MODELS, read_runs

from slotune.arrays import F64

MOST_CAPTURED = 400
"""Sequences of the largest runs whose steps have a CUDA graph."""
BEGUN = 20
"""Steps into a wave by which all its requests are decoding."""


def beyond_the_line(step_s: F64, answer: int) -> tuple[F64, F64]:
    """Milliseconds of the decodes' attention, and those beyond the line, of every step k * `answer` but the last."""
    attention_ms, excess_ms = [], []
    into = np.arange(BEGUN, answer)
    for start in range(0, len(step_s) - 2 * answer, answer):
        rise, base = np.polyfit(into, 1e3 * step_s[start + BEGUN : start + answer], 1)
        attention_ms.append(rise * answer)
        excess_ms.append(1e3 * step_s[start + answer] - base - rise * answer)
    return np.array(attention_ms), np.array(excess_ms)


def steps_of(runs: dict[str, F64]) -> tuple[F64, F64]:
    """The same of all runs of decodes with a CUDA graph."""
    found = []
    for run, step_s in runs.items():
        if run.startswith("output") and int(run.split("_")[1]) <= MOST_CAPTURED:
            found.append(beyond_the_line(step_s, int(run.split("_")[-1])))
    return np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])


def report(name: str, attention_ms: F64, excess_ms: F64) -> None:
    line = QuantileRegressor(quantile=0.5, alpha=0.0, solver="highs").fit(attention_ms[:, None], excess_ms)
    ends = "{:.1f} to {:.1f}".format(*np.percentile(attention_ms, (5, 95)))
    print(row(name, len(excess_ms), ends, f"{1 + line.coef_[0]:.2f}", f"{line.intercept_:.2f}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    folder = require(parser.parse_args().data)
    print(row("model", "steps", "decode attention, ms", "times longer beside a prefill", "ms more a step"))
    print(row(*["---"] * 5))
    found = {model: steps_of(read_runs(folder, model)) for model in MODELS}
    for model, steps in found.items():
        report(model, *steps)
    report("both", *(np.concatenate(part) for part in zip(*found.values(), strict=True)))


if __name__ == "__main__":
    main()
