"""Runs configurations in the simulator, many at a time; a configuration that cannot run is a result, not an error."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..errors import InputError, SlotuneError
from ..profiler.profile import Profile
from ..simulator.engine_config import Settings
from ..simulator.metrics import summarise
from ..simulator.simulation import simulate
from ..traces.trace import Trace

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run: metrics, or a failure with its reason."""

    metrics: Mapping[str, float] | None
    failure: str | None = None
    message: str | None = None
    duration_s: float = 0.0
    """Wall time of the run itself."""


Evaluate = Callable[[Settings], Outcome]
"""Runs one configuration. Must be picklable where workers are not forked."""


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """An `Evaluate` that replays the trace in the simulator."""

    profile: Profile
    trace: Trace
    goodput: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds by metric: what a good request keeps."""
    policy: str = "vllm-v1"
    max_concurrency: int | None = None
    replicas: int = 1
    seed: int = 0

    def __call__(self, settings: Settings) -> Outcome:
        start_s = time.perf_counter()
        try:
            engine = self.profile.engine_config(settings)
        except InputError as error:
            return Outcome(None, "refused", str(error))
        result = simulate(
            self.trace,
            engine,
            self.profile.timing(settings),
            policy=self.policy,
            replicas=self.replicas,
            seed=self.seed,
            max_concurrency=self.max_concurrency,
        )
        metrics = summarise(result, self.goodput)
        metrics["extrapolated_share"] = result.extrapolated_steps / max(result.steps, 1)
        return Outcome(metrics, duration_s=time.perf_counter() - start_s)


RunAll = Callable[[Iterable[Settings]], Iterator[Outcome]]
"""Runs many configurations; outcomes come in the order of the settings, each as soon as it and those before are done."""


@contextmanager
def workers(evaluate: Evaluate, jobs: int | None = None) -> Iterator[RunAll]:
    """`evaluate` over `jobs` processes (default: one a core this process may use), or in this one for jobs=1.

    The processes inherit `evaluate`, so its trace is shared and not copied; they end with this process, however it ends.
    Raises SlotuneError when one of them dies.
    """
    count = jobs or len(os.sched_getaffinity(0))
    if count == 1:
        yield lambda many: map(evaluate, many)
        return
    pool = ProcessPoolExecutor(count, initializer=_start_worker, initargs=(evaluate, os.getpid()))
    try:
        yield lambda many: _ordered(pool, many)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ordered(pool: ProcessPoolExecutor, many: Iterable[Settings]) -> Iterator[Outcome]:
    try:
        yield from pool.map(_run_one, many)
    except BrokenProcessPool as error:
        raise SlotuneError(
            "a worker process died, out of memory perhaps; run again with --jobs 1 (what is done is kept)"
        ) from error


_evaluate: Evaluate
"""What this worker process runs; set once, when it starts."""


def _start_worker(evaluate: Evaluate, parent: int) -> None:
    global _evaluate  # noqa: PLW0603 - the one thing a pool's initializer can hand to the calls that follow
    _evaluate = evaluate
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)


def _run_one(settings: Settings) -> Outcome:
    return _evaluate(settings)
