"""CPU seconds, wall seconds and memory: of calls in this process, and of whole processes."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")

MOST_MEMORY_GB = 12
"""Address space of a measured process: one that wants more is told as such, before it takes the machine down."""

_COMMAND = f"""
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, ({MOST_MEMORY_GB << 30}, {MOST_MEMORY_GB << 30}))
from slotune.cli import main
code = main()
with open("/proc/self/status") as status:
    peak_kb = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
print(json.dumps(dict(cpu_s=time.process_time(), peak_kb=peak_kb)), file=sys.stderr)
sys.exit(code)
"""
"""`slotune ARGS`, and what it took. VmHWM is the process's own; getrusage's ru_maxrss starts at the parent's size."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    stdout: str
    stderr: str


def cpu_s(function: Callable[[], Result], repeats: int) -> tuple[float, Result]:
    """The median CPU seconds of this process over `repeats` calls, and what the last call returned."""
    spent = []
    for _ in range(repeats):
        start_s = time.process_time()
        result = function()
        spent.append(time.process_time() - start_s)
    return statistics.median(spent), result


def run_slotune(*words: object, environment: Mapping[str, str] | None = None) -> Taken:
    """`slotune WORDS` in a process of its own.

    Raises MemoryError if it wants more than MOST_MEMORY_GB, RuntimeError with its stderr if it fails otherwise.
    """
    start_s = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *map(str, words)],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    wall_s = time.perf_counter() - start_s
    if "MemoryError" in done.stderr:
        raise MemoryError(f"slotune {words[0]} wants more than {MOST_MEMORY_GB} GB")
    if done.returncode != 0:
        raise RuntimeError(f"slotune {words[0]} ended with {done.returncode}: {done.stderr.strip()}")
    *messages, last = done.stderr.splitlines()
    taken: dict[str, Any] = json.loads(last)
    return Taken(wall_s, taken["cpu_s"], taken["peak_kb"] / 1024, done.stdout, "\n".join(messages))


def median_of(runs: list[Taken]) -> Taken:
    """The run of median wall time."""
    return sorted(runs, key=lambda run: run.wall_s)[len(runs) // 2]
