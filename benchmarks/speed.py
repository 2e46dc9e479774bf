"""How fast slotune is: steps per CPU second, how cost grows, memory, start-up, parallel screening.

    python benchmarks/speed.py [SECTION ...] [--quick] [--trace AZURE_CONV.csv] [--repeats N]

Sections (default: all): chat, reference, where, scenarios, growth, startup, screening. CPU seconds are those of the
process that works, medians of repeats; on a machine with other work they are higher than on an idle one, so the load is
printed with each section and the section `reference` tells ratios.
"""

import argparse
import cProfile
import os
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from slotune.benchmarks import speed_ratio
from slotune.benchmarks.speed_loads import BUSY_RATE, REQUESTS, chat_loads, conversations, scenarios, write_grid
from slotune.benchmarks.speed_measure import MOST_MEMORY_GB, Taken, cpu_s, median_of, run_slotune
from slotune.commands.output import table
from slotune.simulator.metrics import summarise
from slotune.tests.loopback import loopback
from slotune.traces.generate import make_trace
from slotune.traces.mooncake import write_trace
from slotune.traces.read import read_trace

SHARED_TRACE = Path(__file__).resolve().parents[2] / "shared/traces/azure2023/AzureLLMInferenceTrace_conv.csv"
PROFILE = "h200-llama-3.1-8b"
RATE_PER_REPLICA = 8.0
"""Requests per second that one replica of PROFILE serves without a growing queue."""
MOST_WITH_STEPS = 10_000
"""Requests up to which --steps-out is measured: a step is about 300 bytes."""
SCREENED_REQUESTS = 4000
SCREENING_ROUNDS = 5
"""On shared cores a second one is there at times only: the ratio of neighbouring runs, and many of them."""
WHERE_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Options:
    """How much to measure."""

    trace: Path | str
    """Whose lengths the 1,000 conversations have."""
    repeats: int
    quick: bool


def chat(options: Options) -> None:
    """1,000 conversations: targets 1,000,000 steps per CPU second and 30 CPU ms."""
    rows = []
    for load in chat_loads(options.trace):
        load.run()
        spent_s, result = cpu_s(load.run, options.repeats)
        width = load.trace.output_tokens.sum() / result.steps
        rows.append([load.name, result.steps, float(width), spent_s * 1e3, result.steps / spent_s])
    columns = ["step times and features", "steps", "rows/step", "CPU ms", "steps/CPU s"]
    table(columns, rows, title=f"{REQUESTS} requests with the lengths of {options.trace}")


def reference(options: Options) -> None:
    """Against the pure-Python loop without KV blocks and caches, in turns."""
    ratios = speed_ratio.measure(options.trace, options.repeats)
    rows = [[r.name, r.steps, r.cpu_s * 1e3, r.reference_cpu_s * 1e3, r.times] for r in ratios]
    table(["features", "steps", "CPU ms", "reference ms", "times faster"], rows, title="Against the reference loop")


def where(options: Options) -> None:
    """Where the CPU time of a simulation goes, from the trace file to the metrics; the step loop is Replica.advance."""
    load = next(chat_loads(options.trace))
    load.run()
    profiler = cProfile.Profile()
    for _ in range(options.repeats):
        profiler.enable()
        read_trace("chat")
        result = load.run()
        summarise(result.requests, result.gaps)
        profiler.disable()
    stats = pstats.Stats(profiler)
    total_s = stats.total_tt  # type: ignore[attr-defined]  # not in typeshed
    spent = [(own_s, place) for place, (_, _, own_s, _, _) in stats.stats.items()]  # type: ignore[attr-defined]
    rows = [
        [f"{Path(file).name}:{name}", own_s / options.repeats * 1e3, f"{own_s / total_s:.0%}"]
        for own_s, (file, _, name) in sorted(spent, reverse=True)[:WHERE_SHOWN]
    ]
    table(
        ["function", "own CPU ms", "share"], rows, title=f"Where the time goes: read 1,000 lines, {load.name}, metrics"
    )


def worst_scenarios(options: Options) -> None:
    """The scenarios of the reference schedules, a hundred times as long: target 300,000 steps per CPU second."""
    rows: list[list[float | str]] = []
    for load in scenarios(10 if options.quick else 100):
        load.run()
        spent_s, result = cpu_s(load.run, min(options.repeats, 5))
        width = load.trace.output_tokens.sum() / result.steps
        rows.append([load.name, len(load.trace), result.steps, float(width), spent_s * 1e3, result.steps / spent_s])
    rows.sort(key=lambda row: row[-1])
    table(
        ["scenario", "requests", "steps", "rows/step", "CPU ms", "steps/CPU s"], rows, title="Scenarios, slowest first"
    )


def growth(options: Options) -> None:
    """Whole processes with the trace from disk: target 2 GB and 60 s for 1,000,000 requests."""
    sizes = (10_000, 100_000) if options.quick else (10_000, 100_000, 1_000_000)
    cases = [(size, 1, "round-robin") for size in sizes] + [(sizes[-1], n, "round-robin") for n in (8, 64)]
    cases += [(sizes[0], 8, "least-outstanding"), (sizes[0], 64, "least-outstanding"), (sizes[0], 64, "prefix-aware")]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for size in sizes:
            write_trace(make_trace(size, RATE_PER_REPLICA, read_trace(options.trace), seed=0), folder / f"{size}.jsonl")
        for size, replicas, router in cases:
            rows += [
                _grown(size, replicas, router, outputs, folder) for outputs in _outputs(size, replicas, router, folder)
            ]
    columns = ["requests", "replicas", "router", "written", "wall s", "CPU s", "CPU µs/request", "peak MB"]
    table(columns, rows, title="Growth, whole processes")


def _grown(size: int, replicas: int, router: str, outputs: dict[str, Path], folder: Path) -> list[object]:
    """A row of the table; what ran out of memory is a row too."""
    case: list[object] = [size, replicas, router, " ".join(outputs) or "-"]
    words = _simulate_words(folder / f"{size}.jsonl", replicas, router)
    try:
        taken = run_slotune(*words, *[word for flag, path in outputs.items() for word in (flag, path)])
    except MemoryError:
        return [*case, None, None, None, f"more than {MOST_MEMORY_GB} GB"]
    return [*case, taken.wall_s, taken.cpu_s, taken.cpu_s / size * 1e6, taken.peak_mb]


def _outputs(size: int, replicas: int, router: str, folder: Path) -> list[dict[str, Path]]:
    """What to write in turn."""
    requests = {"--requests-out": folder / "requests.csv"}
    if replicas > 1 or router != "round-robin":
        return [{}]
    steps = [{"--steps-out": folder / "steps.jsonl"}] if size <= MOST_WITH_STEPS else []
    return [{}, requests, *steps]


def _simulate_words(trace: Path, replicas: int, router: str) -> list[object]:
    rate = RATE_PER_REPLICA * replicas
    return [
        "simulate",
        "--profile",
        PROFILE,
        "--trace",
        trace,
        "--replicas",
        replicas,
        "--router",
        router,
        "--rate",
        rate,
    ]


def startup(options: Options) -> None:
    """Whole processes: targets 0.3 s for the help, 1.5 s for 1,000 requests once compiled, 20 s to compile."""
    words = ["simulate", "--profile", PROFILE, "--trace", "chat"]
    run_slotune(*words)
    rows = [_times("slotune --help", [run_slotune("--help") for _ in range(options.repeats)], "")]
    rows += [_times("simulate, 1,000 requests", [run_slotune(*words) for _ in range(options.repeats)], "")]
    with tempfile.TemporaryDirectory() as folder:
        first, again = (run_slotune(*words, environment={"NUMBA_CACHE_DIR": folder}) for _ in range(2))
    rows += [_times("the first, which compiles", [first], first.stderr), _times("the next", [again], again.stderr)]
    table(["process", "wall s", "CPU s", "peak MB", "said on stderr"], rows, title="Start-up, whole processes")


def _times(name: str, runs: list[Taken], said: str) -> list[object]:
    run = median_of(runs)
    return [name, run.wall_s, run.cpu_s, run.peak_mb, said]


def screening(options: Options) -> None:
    """Many configurations with one worker, with two and on a cluster of two: target 1.8 times on two cores.

    Beside it, what the machine gives: two such processes at once that share nothing. The cluster is up for its own runs
    alone: its heartbeats would take from the others. The start of a process, about a second, is one core's work: it
    weighs on the small screen, and hardly on the large one.
    """
    rounds = 1 if options.quick else SCREENING_ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        small, large, trace = (Path(folder) / name for name in ("small.yaml", "large.yaml", "trace.jsonl"))
        count = write_grid(small, (16, 32, 64, 128))
        write_trace(conversations(options.trace, SCREENED_REQUESTS, BUSY_RATE), trace)
        words = ["screen", "--profile", PROFILE, "--trace", trace, "--json", "--configs"]
        found = {
            "2 workers": _pairs([*words, small], ["--jobs", 2], rounds),
            "half of two processes at once": [_half_of_two([*words, small, "--jobs", 1]) for _ in range(rounds)],
        }
        with loopback(Path(folder), 2) as cluster:
            found["Dask, 2 workers"] = _pairs([*words, small], ["--dask-scheduler", cluster.address], rounds)
        rows = [_ratios(name, count, pairs) for name, pairs in found.items()]
        if not options.quick:
            count = write_grid(large, (16, 24, 32, 48, 64, 96, 128, 192), (0, 256))
            rows.append(_ratios("2 workers", count, _pairs([*words, large], ["--jobs", 2], rounds)))
    columns = ["screening", "configurations", "wall s, 1 worker", "wall s", "times faster", "round by round"]
    table(columns, rows, title="Screening, whole processes")


def _ratios(name: str, count: int, pairs: list[tuple[Taken, Taken]]) -> list[object]:
    if len({run.stdout for pair in pairs for run in pair}) != 1:
        raise RuntimeError(f"{name}: where it ran changed the results")
    ratios = [one.wall_s / run.wall_s for one, run in pairs]
    walls = [median_of([pair[k] for pair in pairs]).wall_s for k in (0, 1)]
    return [name, count, *walls, statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"]


def _pairs(words: list[object], where_to: list[object], rounds: int) -> list[tuple[Taken, Taken]]:
    """Neighbouring runs: with one worker, and `where_to`."""
    return [(run_slotune(*words, "--jobs", 1), run_slotune(*words, *where_to)) for _ in range(rounds)]


def _half_of_two(words: list[object]) -> tuple[Taken, Taken]:
    """A run on its own, and one beside another like it with half its wall time."""
    alone = run_slotune(*words)
    begin_s = time.perf_counter()
    with ThreadPoolExecutor(2) as both:
        one, _ = both.map(lambda _: run_slotune(*words), range(2))
    return alone, replace(one, wall_s=(time.perf_counter() - begin_s) / 2)


SECTIONS: dict[str, Callable[[Options], None]] = {
    "chat": chat,
    "reference": reference,
    "where": where,
    "scenarios": worst_scenarios,
    "growth": growth,
    "startup": startup,
    "screening": screening,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=" ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="smaller and fewer: some minutes")
    parser.add_argument("--trace", default=str(SHARED_TRACE) if SHARED_TRACE.exists() else "chat")
    parser.add_argument("--repeats", type=int)
    args = parser.parse_args()
    unknown = [name for name in args.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}: choose from {', '.join(SECTIONS)}")
    options = Options(args.trace, args.repeats or (3 if args.quick else 9), args.quick)
    for name in args.sections or SECTIONS:
        print(f"\nload {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores", flush=True)
        SECTIONS[name](options)


if __name__ == "__main__":
    main()
