"""How good a configuration the search finds, SMAC beside random search at the same budget, over seeds.

    python benchmarks/search_quality.py --rate 18 --seeds 5

The score is the worst ratio of a latency to its target (lower is better, below 1 all targets are met) of the best
configuration after a number of trials, on the simulator. `found` is the smallest that any run found.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from slotune.simulator.slo import parse_slo
from slotune.tuner.study.study import Study, Trial
from slotune.tuner.study.task import Task, ask, load_task
from slotune.tuner.tune import tune


def main() -> None:
    """Print a table: optimizer, trials, and the scores over seeds."""
    words = arguments()
    scores: dict[tuple[str, int], list[float]] = {}
    for seed in range(words.seeds):
        for optimizer in ("random", "smac"):
            curve = best_so_far(words, optimizer, seed)
            for trials in words.after:
                scores.setdefault((optimizer, trials), []).append(curve[min(trials, len(curve)) - 1])
            print(f"seed {seed} {optimizer}: " + " ".join(f"{curve[t - 1]:.4f}" for t in words.after), flush=True)
    print(f"\ndefault {curve[0]:.4f}, found {min(map(min, scores.values())):.4f}, {words.seeds} seeds\n")
    print("trials  optimizer  median    mean   worst  smac better")
    for trials in words.after:
        pairs = list(zip(scores["smac", trials], scores["random", trials], strict=True))
        for optimizer in ("random", "smac"):
            values = scores[optimizer, trials]
            wins = f"{sum(s < r for s, r in pairs)} of {len(pairs)}" if optimizer == "smac" else ""
            middle, mean = statistics.median(values), statistics.mean(values)
            print(f"{trials:6}  {optimizer:9}  {middle:.4f}  {mean:.4f}  {max(values):.4f}  {wins}")


def arguments() -> argparse.Namespace:
    """What is compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="h200-llama-3.1-8b")
    parser.add_argument("--trace", default="chat")
    parser.add_argument("--rate", type=float, default=18.0)
    parser.add_argument("--slo", nargs="+", default=["p99:ttft:500", "p99:tpot:30"])
    parser.add_argument("--after", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seeds", type=int, default=5)
    return parser.parse_args()


def best_so_far(words: argparse.Namespace, optimizer: str, seed: int) -> list[float]:
    """The smallest worst ratio after 1, 2, ... trials. The order of requests is the same for every seed."""
    slos = [parse_slo(text) for text in words.slo]
    asked = ask(
        words.profile, words.trace, slos=slos, rate=words.rate, optimizer=optimizer, seed=seed, trials=max(words.after)
    )
    with tempfile.TemporaryDirectory() as folder:
        tune(asked, Path(folder) / "study")
        with Study.open(Path(folder) / "study") as study:
            trials = study.trials("simulation")
    task = load_task(asked)
    curve: list[float] = []
    for trial in trials:
        curve.append(min([score(task, trial), *curve[-1:]]))
    return curve


def score(task: Task, trial: Trial) -> float:
    """The worst ratio; large for a configuration that did not run."""
    return task.objective.worst_ratio(trial.metrics) if trial.metrics is not None else float("inf")


if __name__ == "__main__":
    main()
