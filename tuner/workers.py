"""A function over the processes of this machine, or over the workers of a Dask cluster (cluster.py)."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any, TypeVar

from ..errors import InputError, SlotuneError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
KEPT_BYTES, LARGEST_KEPT_BYTES = 128 << 20, 32 << 20
"""What a process may hold of the memory that it has freed, and the largest array of it."""

Question = TypeVar("Question")
Answer = TypeVar("Answer")


def _nothing() -> None:
    pass


@contextmanager
def workers(
    function: Callable[[Question], Answer],
    jobs: int | None = None,
    *,
    prepare: Callable[[], object] = _nothing,
    dask_scheduler: str | None = None,
) -> Iterator[Callable[[Iterable[Question]], Iterator[Answer]]]:
    """`function` over `jobs` processes (default: one a core this process may use), or in this one for jobs=1.

    Answers come in the order of the questions. The processes inherit `function` and what `prepare`, called first, has
    made, so a trace is shared and not copied; they end with this process, however it ends. Raises SlotuneError when one
    of them dies. With the address of a Dask scheduler, the workers of that cluster answer instead (see cluster.py).
    """
    if dask_scheduler is not None:
        if jobs is not None:
            raise InputError("--jobs and --dask-scheduler: give one; a cluster has as many workers as were started")
        from .cluster import cluster_workers

        with cluster_workers(function, prepare, dask_scheduler) as ask_all:
            yield ask_all
        return
    _keep_freed_memory()
    prepare()
    count = jobs or len(os.sched_getaffinity(0))
    if count == 1:
        yield lambda questions: map(function, questions)
        return
    others = set(active_children())
    # Forked, also where Python has another way by default: what was compiled and read is there at once.
    pool = ProcessPoolExecutor(count, get_context("fork"), _start_worker, (function, os.getpid()))
    finished = False
    try:
        yield lambda questions: _ordered(pool, questions)
        finished = True
    finally:
        # Where nobody waits for the answers any more, which may take minutes, the workers must not finish them.
        for child in set() if finished else set(active_children()) - others:
            child.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def _keep_freed_memory() -> None:
    """Let malloc reuse what a run frees, here and in processes forked from here: the next run needs as much, and the
    page faults of several processes get in each other's way. Only glibc has such a call."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)


def _ordered(pool: ProcessPoolExecutor, questions: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from pool.map(_call, questions)
    except BrokenProcessPool as error:
        raise SlotuneError(
            "a worker process died, out of memory perhaps; run again with --jobs 1 (what is done is kept)"
        ) from error


_function: Callable[[Any], Any]
"""What this worker process runs; set once, when it starts."""


def _start_worker(function: Callable[[Any], Any], parent: int) -> None:
    global _function  # noqa: PLW0603 - the one thing a pool's initializer can hand to the calls that follow
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)


def _call(question: Any) -> Any:
    return _function(question)
