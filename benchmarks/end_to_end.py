"""From nothing to a configuration proven on a real engine, unattended: model, profile, trace, search, runs, report.

    python benchmarks/end_to_end.py --vllm-python PY --out FOLDER             # the CPU engine: some 20 to 35 minutes
    python benchmarks/end_to_end.py --vllm-python PY --out FOLDER --short     # about 8 minutes

Killed at any point (kill -9 too) it leaves no engine behind, and the same call goes on from what was done. On a GPU,
give --model; without it a Llama-shaped model without weights is made, of the size that a CPU serves.

Prints predicted beside measured for the default and the best configurations, with intervals over interleaved repeats.
Exit code 1 where fewer than three configurations could be measured; whether the targets are met is not judged here.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slotune.cli import main as slotune
from slotune.profiler.profile import Profile
from slotune.profiler.profile_folder import load_profile
from slotune.traces.generate import make_trace, parse_lengths
from slotune.traces.read import read_trace
from slotune.traces.trace import Trace
from slotune.tuner.evaluate import SimulatedRun
from slotune.tuner.study.comparison import compared, quantities
from slotune.tuner.study.study import Study
from slotune.tuner.study.task import objective_of

DONE, INFEASIBLE = 0, 3


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done."""

    budget: str
    load_s: float
    """Length of the trace."""
    trials: int
    repeats: int


FULL = Size(budget="6m", load_s=60.0, trials=64, repeats=3)
SHORT = Size(budget="2m", load_s=15.0, trials=24, repeats=2)
PROMPT_TOKENS, OUTPUT_TOKENS = "400/300/1200", "40/30/120"
FEWEST_REQUESTS = 30
LOAD = 0.4
"""Request rate, as a share of what the default serves when all requests are there at once. Far from saturation, where a
shared machine that slows by a tenth answers half as fast."""
TTFT_SHARE, TPOT_SHARE = 1.5, 0.8
"""Targets, as shares of the default's predicted p90: one it meets, one it misses, on a machine of any speed."""
SETTINGS = ("max_model_len=4096", "enforce_eager=true")
DUMMY = ("load_format=dummy", "dtype=float32")
"""For a model without weights, on a CPU: many emulate bfloat16, at a third of the speed."""
TOP = 2
CONFIGURATIONS = 3
"""To be measured: the default and the best TOP, or more where a search finds more."""


def main() -> int:
    options = parsed()
    size = SHORT if options.short else FULL
    out: Path = options.out
    settings = [*SETTINGS, *(() if options.model else DUMMY)]
    model = options.model or str(out / "model")
    if not options.model:
        with timed("model"):
            make_model(options.vllm_python, out / "model")
    with timed("profile"):
        measure(options.vllm_python, model, settings, size, out / "profile")
    with timed("search"):
        search(size, out)
    with timed("validation"):
        validate(options.vllm_python, model, size, out / "study")
    with timed("report"):
        run("report", out / "study")
    return judged(out / "study", size.repeats)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", required=True, help="an interpreter with vLLM")
    parser.add_argument("--out", required=True, type=Path, help="where everything is kept")
    parser.add_argument("--model", help="a model folder or a name on a hub (default: one without weights)")
    parser.add_argument("--short", action="store_true", help="in minutes, for CI")
    return parser.parse_args()


@contextmanager
def timed(what: str) -> Iterator[None]:
    started_s = time.monotonic()
    print(f"== {what}", flush=True)
    yield
    print(f"== {what}: {time.monotonic() - started_s:.0f} s\n", flush=True)


def run(*words: object, accept: tuple[int, ...] = (DONE,)) -> None:
    """slotune in this process, so that whoever kills this kills all of it."""
    code = slotune([str(word) for word in words])
    if code not in accept:
        sys.exit(code)


def make_model(python: str, folder: Path) -> None:
    if not (folder / "tokenizer.json").exists():
        subprocess.run([python, Path(__file__).with_name("make_model.py"), folder], check=True)


def measure(python: str, model: str, settings: list[str], size: Size, out: Path) -> None:
    if (out / "profile.json").exists():
        run("profile", "show", out)
        return
    asked = [word for setting in settings for word in ("--engine", setting)]
    run("profile", "measure", "--model", model, "--vllm-python", python, "--budget", size.budget, *asked, "--out", out)


def search(size: Size, out: Path) -> None:
    trace, profile = out / "trace.jsonl", load_profile(out / "profile")
    if not trace.exists():
        rate = LOAD * saturation(profile)
        requests = max(FEWEST_REQUESTS, round(size.load_s * rate))
        lengths = ("--prompt-tokens", PROMPT_TOKENS, "--output-tokens", OUTPUT_TOKENS)
        run("trace", "make", "--requests", requests, "--rate", f"{rate:.3g}", *lengths, "--seed", 1, "--out", trace)
    targets = [word for target in targets_for(profile, read_trace(trace)) for word in ("--slo", target)]
    given = ("--profile", out / "profile", "--trace", trace, "--trials", size.trials, *targets)
    run("tune", *given, "--out", out / "study", accept=(DONE, INFEASIBLE))


def saturation(profile: Profile) -> float:
    """Requests per second that the default serves when all are there at once, in simulation."""
    lengths = (parse_lengths(PROMPT_TOKENS), parse_lengths(OUTPUT_TOKENS))
    trace = make_trace(200, 1.0, lengths, seed=1)
    return predicted(profile, replace(trace, arrival_s=np.zeros(len(trace))))["request_throughput"]


def targets_for(profile: Profile, trace: Trace) -> list[str]:
    """Targets that the default meets in part."""
    default = predicted(profile, trace)
    return [
        f"p90:ttft:{TTFT_SHARE * default['p90_ttft_ms']:.1f}",
        f"p90:tpot:{TPOT_SHARE * default['p90_tpot_ms']:.1f}",
    ]


def predicted(profile: Profile, trace: Trace) -> Mapping[str, float]:
    """Metrics of the default settings."""
    outcome = SimulatedRun(profile, trace)({})
    if outcome.metrics is None:
        sys.exit(f"the default settings cannot run: {outcome.message}")
    return outcome.metrics


def validate(python: str, model: str, size: Size, study: Path) -> None:
    given = ("--top", TOP, "--repeats", size.repeats, "--vllm-python", python, "--model", model)
    run("validate", study, *given, accept=(DONE, INFEASIBLE))


def judged(folder: Path, repeats: int) -> int:
    """How many configurations have intervals, and how far the predictions of their means were off."""
    with Study.open(folder) as study:
        found = [one for one in compared(study) if len(one.runs) >= repeats]
        means = [quantity for quantity in quantities(objective_of(study.asked)) if quantity.key.startswith("mean_")]
    for quantity in means:
        errors = [one.prediction_error(quantity) for one in found]
        at_speed = [one.error_at_speed(quantity) for one in found]
        print(
            f"{quantity.label}: predictions off by {percents(errors)}; at each run's step times by {percents(at_speed)}"
        )
    print(f"{len(found)} configurations measured {repeats} times or more; {CONFIGURATIONS} are asked for")
    return DONE if len(found) >= CONFIGURATIONS else 1


def percents(shares: list[float]) -> str:
    return ", ".join(f"{100 * share:+.1f} %" for share in shares)


if __name__ == "__main__":
    sys.exit(main())
