"""Error against time spent measuring: slotune's staircases beside a grid and random points at equal time.

    python benchmarks/measure_design.py [--data ../shared/measured/rtxpro6000-llama-3.1-8b] [--budgets 30 120]
        [--seeds N] [--first-seed N] [--trace TRACE]

No real engine runs: an "engine" is a table of step times, which takes the time that its steps take, and a tenth of a
second more for each staircase (groups of requests and their answers). With --data it is the RTX PRO 6000 put together
from its layer times (accuracy/layer_times.py); without, a made-up GPU of tiles and a roofline. Neither is of the
surrogate's own form. Times come with 2 % noise.

The error is that of steps the profile would be used for: those of simulated traffic at three rates, by the noiseless
times. The design was settled with seeds below 10, on chat; --trace has the lengths of other traffic. Grid and random
points are groups of equal prompts sent together.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from slotune.arrays import F64
from slotune.profiler.graph_sizes import captured_graph_sizes
from slotune.profiler.measurement.chooser import STAIRCASE_S, Chooser
from slotune.profiler.measurement.design import Space, Staircase, steps_of
from slotune.profiler.measurement.measure import FIRST, OUTGROWN, REFIT_EVERY_S, STAIRCASE_SHARE
from slotune.profiler.surrogate.model import FittedStepTime
from slotune.profiler.surrogate.samples import StepSamples
from slotune.profiler.surrogate.surrogate import fit
from slotune.simulator.engine_config import EngineConfig
from slotune.simulator.features import DECODE_ROWS, PREFILL_ROWS, totals_of
from slotune.simulator.replica import Replica
from slotune.simulator.simulation import simulate
from slotune.simulator.step_time import linear_model, step_times_s
from slotune.simulator.timing import Timing
from slotune.traces.read import read_trace
from slotune.traces.transform import at_rate, head

Row = tuple[int, int]

ENGINE = EngineConfig(num_gpu_blocks=29_000, max_num_seqs=128, max_num_batched_tokens=2048, max_model_len=16384)
SPACE = Space(2048, 128, 16384, 28_999 * 16)
GRAPH_SIZES = captured_graph_sizes(ENGINE, {})
NOISE = 0.02
ROUGH = linear_model(0.008, 3e-5, 3e-5, 5e-8)
"""Good enough to know which requests meet in a step of the test's traffic."""
RATES = (2.0, 6.0, 12.0)
TESTED = 400
"""Steps of each rate."""
GROUP_TOKENS = 8
"""Answers of grid and random points."""


def made_up_s(rows: Sequence[Row]) -> float:
    """A GPU of 64-token tiles: compute or weights, whichever takes longer, attention and launches on top."""
    tokens = sum(row[0] for row in rows)
    fits = GRAPH_SIZES[tokens <= GRAPH_SIZES]
    tiles = np.ceil((fits[0] if len(fits) else tokens) / 64)
    work = sum(n * (c + n / 2) for n, c in rows if n > 1)
    read = sum(c for n, c in rows if n == 1)
    longest = max((c for n, c in rows if n == 1), default=0)
    dense = max(7.5e-3, 1.4e-3 * tiles**0.97)
    attention = max(8e-10 * work + 6e-8 * read, 4e-7 * longest)
    return float(1e-3 + dense + attention + (0 if len(fits) else 2e-3))


@dataclass(slots=True)
class Bench:
    """An engine under measurement: what it was asked, what that took, what it told."""

    true_s: Callable[[Sequence[Row]], float]
    rng: np.random.Generator
    spent_s: float = 0.0
    totals: list[F64] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)

    def run(self, staircase: Staircase) -> None:
        fresh = []
        for rows in steps_of(staircase, SPACE):
            seconds = self.true_s(rows) * float(np.exp(self.rng.normal(0.0, NOISE)))
            fresh.append(totals_of(*np.array(rows).T))
            self.durations.append(seconds)
            self.spent_s += seconds
        self.spent_s += STAIRCASE_S
        self.totals += fresh

    def fitted(self, seed: int) -> FittedStepTime:
        return fit(StepSamples(np.array(self.totals), np.array(self.durations)), GRAPH_SIZES, seed)


def measured(bench: Bench, budget_s: float, seed: int) -> None:
    """What `slotune profile measure` does, without its sentinel."""
    chooser = Chooser(SPACE, seed)
    for staircase in FIRST:
        bench.run(staircase)
    model, fitted_at_s, fitted_on = bench.fitted(seed), bench.spent_s, len(bench.totals)
    while bench.spent_s < budget_s:
        limit_s = min(budget_s - bench.spent_s, max(1.0, STAIRCASE_SHARE * budget_s))
        chosen = chooser.next(model, limit_s)
        if chosen is None:
            return
        bench.run(chosen)
        if bench.spent_s - fitted_at_s > REFIT_EVERY_S or len(bench.totals) > OUTGROWN * fitted_on:
            model, fitted_at_s, fitted_on = bench.fitted(seed), bench.spent_s, len(bench.totals)


def scattered(bench: Bench, budget_s: float, seed: int) -> None:
    """Random points: batch and prompt length log-uniform."""
    rng = np.random.default_rng(seed)
    while bench.spent_s < budget_s:
        batch, length = (round(float(np.exp(rng.uniform(0, np.log(most))))) for most in (128, 16000))
        if max(length, 8) * batch <= SPACE.kv_tokens:
            bench.run(group(batch, max(length, 8)))


def grid(bench: Bench, budget_s: float, seed: int) -> None:
    """The finest grid of batches and prompt lengths, both in equal ratios, that the time allows."""
    chosen: list[Staircase] = []
    for side in range(2, 40):
        staircases = list(grid_of(side))
        if sum(staircase_s(bench, staircase) for staircase in staircases) > budget_s:
            break
        chosen = staircases
    for staircase in chosen or list(grid_of(2)):
        bench.run(staircase)


def grid_of(side: int) -> Iterator[Staircase]:
    for batch in np.unique(np.geomspace(1, 128, side).round().astype(int)).tolist():
        for length in np.unique(np.geomspace(8, 16000, side).round().astype(int)).tolist():
            if batch * length <= SPACE.kv_tokens:
                yield group(batch, length)


def group(batch: int, length: int) -> Staircase:
    return Staircase(((length,) * batch,), 0, GROUP_TOKENS)


def staircase_s(bench: Bench, staircase: Staircase) -> float:
    """Its true time, which no measurement could know beforehand: to the advantage of those who ask."""
    return STAIRCASE_S + sum(bench.true_s(rows) for rows in steps_of(staircase, SPACE))


WAYS = {"profile measure": measured, "random points": scattered, "grid": grid}


def traffic(trace: str, seed: int) -> list[list[Row]]:
    """Steps of simulated traffic."""
    found: list[list[Row]] = []

    def collect(replica: Replica) -> None:
        engine, start = replica.engine, 0
        for end in engine.step_log.row_end[: engine.state[0].logged_steps]:
            rows = engine.row_log[start:end]
            steps.append(list(zip(rows["tokens"].tolist(), rows["context"].tolist(), strict=True)))
            start = end

    for rate in RATES:
        steps: list[list[Row]] = []
        simulate(at_rate(head(read_trace(trace), 300), rate, seed), ENGINE, Timing(ROUGH), steps_out=collect)
        found += [steps[i] for i in np.random.default_rng(seed).permutation(len(steps))[:TESTED]]
    return found


def errors(model: FittedStepTime, totals: F64, true_s: F64) -> list[float]:
    """Per cent: median and 90th percentile of all steps, median of decodes and of steps with a prefill, bias."""
    predicted = step_times_s(model.model, totals)
    error = 100 * np.abs(predicted / true_s - 1)
    prefill = totals[:, PREFILL_ROWS] > 0
    with_decodes = prefill & (totals[:, DECODE_ROWS] > 0)
    parts = (np.median(error), np.percentile(error, 90), np.median(error[~prefill]), np.median(error[with_decodes]))
    return [float(part) for part in parts] + [float(100 * (predicted.sum() / true_s.sum() - 1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the RTX PRO 6000's layer times")
    parser.add_argument("--budgets", type=float, nargs="*", default=[30.0, 120.0], help="seconds of engine time")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trace", default="chat", help="the lengths of the traffic that is predicted")
    asked = parser.parse_args()
    true_s: Callable[[Sequence[Row]], float] = made_up_s
    if asked.data:
        sys.path.insert(0, str(Path(__file__).parent / "accuracy"))
        from layer_times import read_layer_times
        from tables import require

        times = read_layer_times(require(asked.data))
        true_s = partial(times.step_s, graph_sizes=GRAPH_SIZES, gap_s=2e-4)
    tested = traffic(asked.trace, seed=100)
    totals, truth = np.array([totals_of(*np.array(rows).T) for rows in tested]), np.array([true_s(r) for r in tested])
    print("| engine s | way | steps | median % | 90th % | decode % | mixed % | bias % | worst median % | CPU s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for budget_s in asked.budgets:
        for name, way in WAYS.items():
            begin, found, steps = time.process_time(), [], []
            for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
                bench = Bench(true_s, np.random.default_rng(seed))
                way(bench, budget_s, seed)
                found.append(errors(bench.fitted(seed), totals, truth))
                steps.append(len(bench.totals))
            figures = [f"{value:.1f}" for value in np.median(found, axis=0)] + [f"{max(f[0] for f in found):.1f}"]
            took = (time.process_time() - begin) / asked.seeds
            print(
                f"| {budget_s:g} | {name} | {np.median(steps):.0f} | {' | '.join(figures)} | {took:.0f} |", flush=True
            )


if __name__ == "__main__":
    main()
