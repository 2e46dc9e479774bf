"""Which replica a request goes to, a function per policy."""

from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import numpy.typing as npt

from ..errors import unknown_name
from .kv_cache import count_hits
from .policy_names import ROUTERS
from .replica import Replica

Router = Callable[[Sequence[Replica], int, float], int]
"""(replicas, request, now in seconds) -> place in replicas."""


def static_choices(router: str, requests: int, replicas: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """The replica of every request, for one of STATIC_ROUTERS."""
    if router == "round-robin":
        return np.arange(requests) % replicas
    return rng.integers(replicas, size=requests)


def make_router(name: str, rng: np.random.Generator) -> Router:
    """The router called `name`, one of ROUTERS. Raises InputError for another name."""
    if name == "round-robin":
        turns = count()
        return lambda replicas, request, now_s: next(turns) % len(replicas)
    if name == "random":
        return lambda replicas, request, now_s: int(rng.integers(len(replicas)))
    if name == "least-outstanding":
        return lambda replicas, request, now_s: _best(replicas, lambda r: (-r.outstanding(now_s),))
    if name == "least-kv":
        return lambda replicas, request, now_s: _best(replicas, lambda r: (r.free_at(now_s), -r.outstanding(now_s)))
    if name == "prefix-aware":
        return lambda replicas, request, now_s: _best(
            replicas, lambda r: (count_hits(r.engine, request)[0], -r.outstanding(now_s))
        )
    raise unknown_name("router", name, ROUTERS)


def _best(replicas: Sequence[Replica], merit: Callable[[Replica], tuple[int, ...]]) -> int:
    """Place of the replica of most merit, the first of equals."""
    return max(range(len(replicas)), key=lambda place: merit(replicas[place]))
