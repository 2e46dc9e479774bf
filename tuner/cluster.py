"""A Dask cluster, given by its scheduler's address, as the place where questions are answered.

What all questions have in common (profile and trace, inside the function that answers them) goes to the cluster once
and from worker to worker there. The scheduler keeps what it is made from, unlike data that is scattered: a worker that
dies takes nothing with it, and one that joins late gets it too.
"""

import asyncio
import itertools
import logging
import operator
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import compile_cache
from ..errors import InputError, SlotuneError

if TYPE_CHECKING:
    from distributed import Client, Future

PACKAGE = Path(__file__).resolve().parents[1]
ANSWERS_WITHIN_S = 5.0
"""A scheduler that is there answers at once; workers started together with it are there soon."""
RETURNS_WITHIN_S = 60.0
"""How long a cluster may be without workers: a nanny or a batch system starts new ones for those that died."""
LOOK_AFTER_S = 5.0
"""How often a wait for an answer looks whether there are workers."""
LOGGERS = ("distributed", "distributed.client")
"""Where Dask writes tracebacks of lost connections, of which one line of ours tells. The second has its own level."""
MOST_UNDER_WAY = 1000
"""Questions sent ahead of the answer that is waited for: a scheduler holds a grid of a million badly."""
HELD = 4
"""Functions that a worker keeps unpacked: of several studies that share it."""
RUN_AGAIN = "run again once it is mended (what is done is kept)"


@dataclass(frozen=True, slots=True)
class _Work:
    """A function on its way to the workers; called there with a pickled question."""

    sources: str
    pickled: bytes
    """The function, and what to call once in each process before it."""

    def __call__(self, question: bytes) -> Any:
        if _sources() != self.sources:
            raise InputError(
                "a worker of the Dask cluster has another version of slotune; install the same one everywhere"
            )
        return _unpacked(self.pickled)(pickle.loads(question))


@cache
def _sources() -> str:
    """What decides the answers; the same numbers come only from the same code."""
    return compile_cache.fingerprint(PACKAGE, ("traces", "simulator", "profiler", "tuner"))


@lru_cache(HELD)
def _unpacked(pickled: bytes) -> Callable[[Any], Any]:
    function: Callable[[Any], Any]
    function, prepare = pickle.loads(pickled)
    prepare()
    return function


@contextmanager
def cluster_workers(
    function: Callable[[Any], Any], prepare: Callable[[], object], address: str
) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """`function` on the workers of the Dask cluster at `address`, after `prepare` once in each of their processes.

    Answers come in the order of the questions. A question whose worker dies is asked again on another. Raises
    InputError where no scheduler answers, it has no workers, or they have another slotune; SlotuneError when the
    cluster is lost.
    """
    import dask

    work = pickle.dumps(_Work(_sources(), pickle.dumps((function, prepare))))
    with _connected(address) as client:
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": f"{len(work) + 2**20} B"}):
            sent = client.submit(pickle.loads, work, pure=False)
        yield lambda questions: _ordered(client, sent, questions)


@contextmanager
def _connected(address: str) -> "Iterator[Client]":
    from distributed import Client

    try:
        asyncio.run(_greet(address))
    except (OSError, ValueError, TypeError) as error:  # TypeError: tls without a certificate
        raise InputError(
            f"--dask-scheduler {address}: no Dask scheduler answers there "
            f"({str(error) or f'waited {ANSWERS_WITHIN_S:g} s'}); "
            "give the address that `dask scheduler` prints, such as tcp://10.0.0.5:8786"
        ) from error
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with Client(address, timeout=ANSWERS_WITHIN_S, set_as_default=False) as client:
        if not _has_workers(client, ANSWERS_WITHIN_S):
            raise InputError(
                f"--dask-scheduler {address}: the cluster has no workers; "
                f"start some with `dask worker {address} --nworkers auto --nthreads 1`"
            )
        yield client


async def _greet(address: str) -> None:
    """Shake hands with a scheduler: a Client would wait for ever for one that takes the call and says nothing."""
    from distributed.comm import connect
    from distributed.security import Security

    arguments = Security().get_connection_args("client")
    comm = await asyncio.wait_for(connect(address, timeout=ANSWERS_WITHIN_S, **arguments), ANSWERS_WITHIN_S)
    await comm.close()


def _has_workers(client: "Client", within_s: float) -> bool:
    try:
        client.wait_for_workers(1, timeout=within_s)
    except TimeoutError:
        return False
    return True


def _ordered(client: "Client", work: "Future", questions: Iterable[Any]) -> Iterator[Any]:
    under_way: deque[Future] = deque()
    with _one_line_errors():
        for question in questions:
            under_way.append(client.submit(operator.call, work, pickle.dumps(question), pure=False))
            if len(under_way) == MOST_UNDER_WAY:
                yield from _first_answers(client, under_way)
        while under_way:
            yield from _first_answers(client, under_way)


def _first_answers(client: "Client", under_way: "deque[Future]") -> list[Any]:
    """Wait for the first answer; take it off with those behind it that are there too: fetching one takes as long."""
    while not _has_ended(under_way[0]):
        if not _has_workers(client, RETURNS_WITHIN_S):
            raise SlotuneError(f"the Dask cluster has had no workers for {RETURNS_WITHIN_S:g} s; {RUN_AGAIN}")
    there = list(itertools.takewhile(lambda future: future.status == "finished", under_way))
    for _ in there:
        under_way.popleft()
    return list(client.gather(there)) if there else [under_way.popleft().result()]  # which raises what went wrong


def _has_ended(future: "Future") -> bool:
    try:
        future.exception(timeout=LOOK_AFTER_S)
    except TimeoutError:
        return False
    return True


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What goes wrong on the cluster, and not in a simulation, as SlotuneErrors."""
    from distributed import KilledWorker
    from distributed.client import ClosedClientError

    try:
        yield
    except KilledWorker as error:
        raise SlotuneError(
            f"one configuration killed one worker of the Dask cluster after another, out of memory perhaps; {RUN_AGAIN}"
        ) from error
    except (CancelledError, ClosedClientError, OSError) as error:
        raise SlotuneError(f"the connection to the Dask scheduler was lost; {RUN_AGAIN}") from error
    except ImportError as error:
        raise InputError(f"a worker of the Dask cluster cannot load slotune: {error}; install it there") from error
