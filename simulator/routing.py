"""Which replica a request goes to, a function per policy."""

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import unknown_name
from .kv_cache import count_hits
from .replica import Replica
from .state import Contents, Requests, Rules

Router = Callable[[Sequence[Replica], int, float], int]
"""(replicas, request, now in seconds) -> place in replicas."""

STATIC = ("round-robin", "random")
"""Routers that look at no replica: their choices can be made before anything runs."""
ROUTERS = (*STATIC, "least-outstanding", "least-kv", "prefix-aware")


def static_choices(router: str, requests: int, replicas: int, rng: np.random.Generator) -> np.ndarray:
    """The replica of every request, for a router of STATIC."""
    if router == "round-robin":
        return np.arange(requests) % replicas
    return rng.integers(replicas, size=requests)


def make_router(name: str, rules: Rules, requests: Requests, contents: Contents, rng: np.random.Generator) -> Router:
    """The router called `name`, one of ROUTERS. Raises InputError for another name."""
    if name == "round-robin":
        return lambda replicas, request, now_s: request % len(replicas)
    if name == "random":
        return lambda replicas, request, now_s: int(rng.integers(len(replicas)))
    if name == "least-outstanding":
        return lambda replicas, request, now_s: _least_outstanding(replicas, now_s)
    if name == "least-kv":
        return lambda replicas, request, now_s: max(range(len(replicas)), key=lambda k: replicas[k].free_blocks)
    if name == "prefix-aware":
        return lambda replicas, request, now_s: _most_hits(replicas, request, now_s, rules, requests, contents)
    raise unknown_name("router", name, ROUTERS)


def _least_outstanding(replicas: Sequence[Replica], now_s: float) -> int:
    return min(range(len(replicas)), key=lambda k: replicas[k].outstanding(now_s))


def _most_hits(
    replicas: Sequence[Replica], request: int, now_s: float, rules: Rules, requests: Requests, contents: Contents
) -> int:
    """The replica whose prefix cache holds most of the prompt; among equals the least busy one."""

    def merit(k: int) -> tuple[int, int]:
        hits, _ = count_hits(rules, requests, contents, replicas[k].engine.pool, request)
        return hits, -replicas[k].outstanding(now_s)

    return max(range(len(replicas)), key=merit)
