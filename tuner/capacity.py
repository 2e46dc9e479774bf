"""Capacity: the highest rate that one engine serves within the targets.

The rate is found by bisection over the trace's arrivals, rescaled. It counts when every target is met and the queue
does not grow (see steady_load).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..errors import InfeasibleError, InputError
from ..profiler.profile import Profile
from ..simulator.engine_config import Settings
from ..simulator.metrics import summarise
from ..simulator.simulation import simulate
from ..traces.trace import Trace
from ..traces.transform import head
from .evaluate import SimulatedRun
from .objective import Metrics, Objective, failed_share
from .steady_load import keeps_up, ordered

TOLERANCE = 0.02
"""Relative width at which bisection stops; one ordering's answer is no more exact than that."""
GOOD_SHARE = 0.99
"""With --goodput: the share of requests that must be good, as in vLLM's recipes."""
LEAST_REQUESTS = 1000
"""Below this a 99th percentile stands on fewer than ten requests."""
STAYS = 20.0
"""The load lasts this many times as long as a request stays in an unloaded engine, or as the largest limit."""
MOST_REQUESTS = 50_000
"""Above this a limit of hours does not make the load longer: a queue that grows shows all the same."""
LIGHT_REQUESTS = 200
LIGHT_RATE = 1e-6
"""Requests a second at which no two meet."""
MOST_DOUBLINGS = 24
BELOW = (0.97, 0.93)
"""Shares of a found rate at which the targets must be met too: noise makes single rates pass by luck."""
QUEUE = "queue"
"""What binds where no target is missed but the queue grows."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """An engine and a workload whose capacity is asked for."""

    name: str
    profile: Profile
    trace: Trace
    objective: Objective
    settings: Settings = field(default_factory=dict)
    policy: str = "vllm-v1"
    router: str = "round-robin"
    step_factor: float = 1.0
    """How many times as long as the profile says every step takes."""

    def simulated(self) -> SimulatedRun:
        """Runs settings on the trace as it is."""
        return SimulatedRun(self.profile, self.trace, policy=self.policy)


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate tried on one ordering."""

    rate: float
    metrics: Metrics
    ok: bool
    binding: str
    """The target with the least headroom, or QUEUE."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """The highest rate found on one ordering, and the lowest above it that failed."""

    best: Probe
    failed: Probe


def probe(scenario: Scenario, rate: float, stay_s: float, seed: int, replicas: int = 1) -> Probe:
    """Simulate a load at `rate` that is long against `stay_s` seconds, the time a request stays."""
    longest_s = max([stay_s, *(slo.limit_ms / 1000 for slo in scenario.objective.limits)])
    long_enough = min(math.ceil(rate * STAYS * longest_s), MOST_REQUESTS)
    requests = max(LEAST_REQUESTS, len(scenario.trace), long_enough)
    return _run(scenario, ordered(scenario.trace, requests, rate, seed), rate, seed, replicas)


def _run(scenario: Scenario, load: Trace, rate: float, seed: int, replicas: int) -> Probe:
    engine = scenario.profile.engine_config(scenario.settings)
    timing = scenario.profile.timing(scenario.settings).slowed(scenario.step_factor)
    result = simulate(
        load, engine, timing, policy=scenario.policy, replicas=replicas, router=scenario.router, seed=seed
    )
    percentiles = [slo.percentile for slo in scenario.objective.limits]
    metrics = summarise(result.requests, result.gaps, scenario.objective.goodput, percentiles)
    metrics["extrapolated_share"] = result.extrapolated_steps / max(result.steps, 1)
    steady = keeps_up(result)
    met = meets(scenario.objective, metrics)
    ratios = {str(slo): scenario.objective.ratio(slo, metrics) for slo in scenario.objective.limits}
    binding = QUEUE if met and not steady else max(ratios, key=lambda name: ratios[name])
    return Probe(rate, metrics, met and steady, binding)


def meets(objective: Objective, metrics: Metrics) -> bool:
    """Whether every target is met and, with goodput limits, GOOD_SHARE of all requests are good."""
    if not objective.meets(metrics):
        return False
    if not objective.goodput:
        return True
    throughput = metrics["request_throughput"]
    good = metrics["request_goodput"] / throughput * (1 - failed_share(metrics)) if throughput else 0.0
    return good >= GOOD_SHARE


def unloaded(scenario: Scenario) -> tuple[Probe, float]:
    """A load so light that requests hardly meet, and how long a request stays then (seconds).

    Raises InfeasibleError where the targets are missed even so.
    """
    count = min(LIGHT_REQUESTS, len(scenario.trace))
    alone = _run(scenario, ordered(head(scenario.trace, count), count, LIGHT_RATE, 0), LIGHT_RATE, 0, 1)
    stay_s = float(alone.metrics["mean_e2el_ms"]) / 1000
    if not stay_s > 0:
        raise InputError("no request of the trace could be served: see `slotune simulate` for the reasons")
    if not alone.ok:
        missed = {str(s): scenario.objective.ratio(s, alone.metrics) for s in scenario.objective.limits}
        worst = max(missed, key=lambda name: missed[name])
        raise InfeasibleError(
            f"{scenario.name}: no rate meets the targets: {worst} is missed by requests that are alone in the engine "
            f"({missed[worst]:.3g} times the limit)"
        )
    return alone, stay_s


def find_capacity(scenario: Scenario, seed: int) -> Capacity:
    """The highest rate on the ordering `seed`, within TOLERANCE. Raises InfeasibleError where no rate will do."""
    alone, stay_s = unloaded(scenario)
    return highest_rate(lambda rate: probe(scenario, rate, stay_s, seed), replace(alone, rate=0.0), 1 / stay_s)


def highest_rate(at: Callable[[float], Probe], nothing: Probe, start: float) -> Capacity:
    """The highest rate that passes, as do BELOW shares of it; `nothing` is the probe that passed at rate 0.

    Raises InputError where no rate fails.
    """
    low, high = _bracket(at, nothing, start)
    while True:
        low, high = _bisect(at, low, high)
        failed = next((p for p in (at(low.rate * share) for share in BELOW) if not p.ok), None)
        if failed is None:
            return Capacity(low, high)
        low, high = nothing, failed


def _bracket(at: Callable[[float], Probe], low: Probe, start: float) -> tuple[Probe, Probe]:
    """Double the rate until it fails: the last that passed and the first that failed."""
    for doubling in range(MOST_DOUBLINGS):
        tried = at(start * 2**doubling)
        if not tried.ok:
            return low, tried
        low = tried
    raise InputError(f"no limit found up to {low.rate:.3g} requests/s: these targets bind nothing")


def _bisect(at: Callable[[float], Probe], low: Probe, high: Probe) -> tuple[Probe, Probe]:
    while high.rate - low.rate > TOLERANCE * high.rate:
        tried = at((low.rate + high.rate) / 2)
        low, high = (tried, high) if tried.ok else (low, tried)
    return low, high
