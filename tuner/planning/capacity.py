"""Capacity: the highest rate that one engine serves within the targets.

The rate is found by bisection over the trace's arrivals, rescaled. It counts when every target is met and the queue
does not grow (traffic/growth.py).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from ...errors import InfeasibleError, InputError
from ...figures import figure
from ...profiler.profile import Profile
from ...simulator.misses import unanswered
from ...simulator.policy_names import DEFAULT_POLICY
from ...simulator.settings import Settings
from ...simulator.simulation import simulate
from ...simulator.timing import AS_TOLD, Pace
from ...traces.trace import Trace
from ...traces.transform import head
from ..evaluate import SimulatedRun, judged
from ..objective import GOOD_SHARE, Metrics, Objective
from ..traffic.growth import is_steady, queue_is_steady
from ..traffic.sample import least_requests
from ..traffic.steady_load import MOST_LOAD_REQUESTS
from ..traffic.warm import finds_others, warmed

TOLERANCE = 0.02
"""Relative width at which bisection stops; one ordering's answer is no more exact than that."""
LEAST_REQUESTS = 1000
"""A load has at least so many, whatever the percentiles of the targets."""
CONFIRMING_REQUESTS = 10_000
"""And the load on which a rate that was found must hold: long waits come in bursts, which a short load may lack."""
STAYS = 20.0
"""The load lasts this many times as long as a request stays in an unloaded engine, or as the largest limit."""
LOADED_STAYS = 10.0
"""And this many times as long as it stays under this very load, which is known afterwards."""
MOST_FLEET_REQUESTS = 1_000_000
LIGHT_GAP_S = 1e4
"""Longer than any request stays: at such gaps no two meet."""
MOST_DOUBLINGS = 24
BELOW = (0.97, 0.93)
"""Shares of a found rate at which the targets must be met too: noise makes single rates pass by luck."""
QUEUE, GOODPUT = "queue", "goodput"
"""What binds where no target is missed but the queue grows, or too few requests are good."""
LARGEST_STEP = 0.5
"""Down from a rate that failed on a longer load, or up from one that passed."""
LEAST_SHARE = 1e-3
"""Of the rate at which one request follows another: where less than that passes, none does."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """An engine and a workload whose capacity is asked for."""

    name: str
    profile: Profile
    trace: Trace
    objective: Objective
    settings: Settings = field(default_factory=dict)
    policy: str = DEFAULT_POLICY
    pace: Pace = AS_TOLD

    def compile(self) -> None:
        """Compile the step loop under the policy, as `SimulatedRun.compile` does."""
        SimulatedRun(self.profile, self.trace, policy=self.policy).compile()


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate tried on one ordering."""

    rate: float
    metrics: Metrics
    ok: bool
    binding: str
    """The target with the least headroom, GOODPUT or QUEUE."""
    certain: bool = True
    """Whether a longer load would say the same: a target that is missed or a queue that grows is so under one, too."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """The highest rate found on one ordering, and the lowest above it that failed."""

    best: Probe
    failed: Probe


def probe(
    scenario: Scenario,
    rate: float,
    stay_s: float,
    seed: int,
    replicas: int = 1,
    least: int = LEAST_REQUESTS,
    router: str = "round-robin",
) -> Probe:
    """Simulate a load at `rate` that is long against `stay_s` seconds, the time a request stays alone, and against the
    time that it stays under this load, and of at least `least` requests a replica, behind those that warm the caches;
    `router` (simulator/routing.py) tells which replica each goes to."""
    longest_s = max([stay_s, *(slo.limit_ms / 1000 for slo in scenario.objective.limits)])
    most = _most(replicas)
    fewest = _fewest(scenario, replicas, least)
    requests = max(fewest, len(scenario.trace), min(math.ceil(rate * STAYS * longest_s), most))
    while True:
        load, cold = warmed(scenario.trace, requests, rate, seed, replicas)
        tried = _run(scenario, load, rate, seed, replicas, router, cold)
        if tried.certain or requests >= most:
            return tried
        wanted = math.ceil(rate * LOADED_STAYS * float(tried.metrics["mean_e2el_ms"]) / 1000)
        if tried.ok and wanted <= requests:
            return tried
        # A batch that only seems to grow, by chance or because it was empty at first, does not under a longer load.
        requests = min(max(wanted, 2 * requests), most)


def _most(replicas: int) -> int:
    return min(MOST_LOAD_REQUESTS * replicas, MOST_FLEET_REQUESTS)


def _fewest(scenario: Scenario, replicas: int, least: int) -> int:
    """At least `least` requests a replica, and enough for every percentile that is a limit."""
    enough = max([least * replicas, *(least_requests(slo.percentile) for slo in scenario.objective.limits)])
    return min(enough, _most(replicas))


def _run(
    scenario: Scenario,
    load: Trace,
    rate: float,
    seed: int,
    replicas: int = 1,
    router: str = "round-robin",
    cold: int = 0,
) -> Probe:
    """What comes of a load, without its first `cold` requests."""
    engine = scenario.profile.engine_config(scenario.settings)
    timing = scenario.profile.timing(scenario.settings).at(scenario.pace)
    result = simulate(
        load, engine, timing, policy=scenario.policy, replicas=replicas, router=router, seed=seed, cold=cold
    )
    metrics = judged(result, load, cold, scenario.objective.goodput, scenario.objective.percentiles)
    met, steady = scenario.objective.fulfilled(metrics), is_steady(result)
    certain = not (met and queue_is_steady(result))
    return Probe(rate, metrics, met and steady, _binding(scenario.objective, metrics, steady), certain)


def _binding(objective: Objective, metrics: Metrics, steady: bool) -> str:
    if objective.fulfilled(metrics) and not steady:
        return QUEUE
    ratios = {str(slo): slo.ratio(metrics) for slo in objective.limits}
    if not objective.slos or (objective.good_ratio(metrics) and max(ratios.values()) <= 1):
        return GOODPUT
    return max(ratios, key=lambda name: ratios[name])


def unloaded(scenario: Scenario) -> tuple[Probe, float]:
    """As many requests as a rate is tried on, none of which meets another, and how long one stays then (seconds).

    Raises InfeasibleError where the targets are missed even so.
    """
    load, cold = _sample(scenario, _fewest(scenario, 1, LEAST_REQUESTS))
    apart = replace(load, arrival_s=np.arange(len(load), dtype=np.float64) * LIGHT_GAP_S)
    alone = _run(scenario, apart, 1 / LIGHT_GAP_S, 0, cold=cold)
    stay_s = float(alone.metrics["mean_e2el_ms"]) / 1000
    if not stay_s > 0:
        raise InputError("no request of the trace could be served: see `slotune simulate` for the reasons")
    if alone.binding == GOODPUT and not alone.ok:
        raise InfeasibleError(
            f"{scenario.name}: no rate meets the targets: fewer than {GOOD_SHARE:.0%} of the requests are good even "
            "alone in the engine"
        )
    if not alone.ok:
        missed = {str(s): s.ratio(alone.metrics) for s in scenario.objective.limits}
        worst = max(missed, key=lambda name: missed[name])
        if math.isinf(missed[worst]):
            why = unanswered(alone.metrics)[0]
            raise InfeasibleError(f"{scenario.name}: no rate meets the targets: {why}: `slotune simulate` tells why")
        raise InfeasibleError(
            f"{scenario.name}: no rate meets the targets: {worst} is missed by requests that are alone in the engine "
            f"({figure(missed[worst], 3)} times the limit)"
        )
    return alone, stay_s


def saturated_rate(scenario: Scenario) -> float:
    """Requests a second that one engine answers where all are there at once, whatever the targets."""
    load, _ = _sample(scenario, LEAST_REQUESTS)
    at_once = replace(load, arrival_s=np.zeros(len(load)))
    return float(_run(scenario, at_once, math.inf, 0).metrics["request_throughput"])


def _sample(scenario: Scenario, count: int) -> tuple[Trace, int]:
    """At least `count` requests in the trace's order, of a long one not many more, behind others that warm the cache
    (`warmed`)."""
    some = head(scenario.trace, min(len(scenario.trace), max(count, CONFIRMING_REQUESTS)))
    return warmed(some, count, 1.0, 0, replicas=1)


def find_capacity(scenario: Scenario, seed: int, alone: Probe, stay_s: float) -> Capacity:
    """The highest rate on the ordering `seed`, within TOLERANCE; `alone` and `stay_s` are what `unloaded` tells.

    Raises InfeasibleError where no rate will do.
    """
    # What waits for a prefix that is not cached yet is many of a short load's requests and few of a service's.
    least = CONFIRMING_REQUESTS if finds_others(scenario.trace) else LEAST_REQUESTS
    tried = partial(probe, scenario, stay_s=stay_s, seed=seed)
    try:
        found = highest_rate(partial(tried, least=least), replace(alone, rate=0.0), 1 / stay_s)
        return found if least == CONFIRMING_REQUESTS else confirmed(partial(tried, least=CONFIRMING_REQUESTS), found)
    except InfeasibleError as error:
        raise InfeasibleError(f"{scenario.name}: {error}") from error


def highest_rate(at: Callable[[float], Probe], nothing: Probe, start: float) -> Capacity:
    """The highest rate that passes, as do BELOW shares of it; `nothing` is the probe that passed at rate 0.

    Raises InputError where no rate fails, InfeasibleError where none passes.
    """
    low, high = _bracket(at, nothing, start)
    while True:
        low, high = _bisect(at, low, high, LEAST_SHARE * start)
        failed = next((p for p in (at(low.rate * share) for share in BELOW) if not p.ok), None)
        if failed is None:
            return Capacity(low, high)
        low, high = nothing, failed


def confirmed(at: Callable[[float], Probe], found: Capacity) -> Capacity:
    """The rate that was found or, by the longer loads of `at`, the next below it that passes or above it that does not
    fail, sought in growing steps: on a short load a clump of long prompts may be a percentile. Raises InfeasibleError
    where none passes."""
    tried = at(found.best.rate)
    return _raised(at, tried, found.failed.rate) if tried.ok else _lowered(at, tried)


def _raised(at: Callable[[float], Probe], passed: Probe, rate: float) -> Capacity:
    step = TOLERANCE
    while (tried := at(rate)).ok:
        passed, rate, step = tried, rate * (1 + step), min(2 * step, LARGEST_STEP)
    return Capacity(*_bisect(at, passed, tried, 0.0))


def _lowered(at: Callable[[float], Probe], failed: Probe) -> Capacity:
    tried, step, least = failed, TOLERANCE, LEAST_SHARE * failed.rate
    while not tried.ok:
        failed, rate, step = tried, tried.rate * (1 - step), min(2 * step, LARGEST_STEP)
        if rate < least:
            raise InfeasibleError(_none_does(failed.binding, rate))
        tried = at(rate)
    return Capacity(*_bisect(at, tried, failed, least))


def _none_does(binding: str | None, rate: float) -> str:
    return f"no rate meets the targets: {binding} stops even {figure(rate, 2)} requests/s"


def _bracket(at: Callable[[float], Probe], low: Probe, start: float) -> tuple[Probe, Probe]:
    """Double the rate until it fails: the last that passed and the first that failed."""
    for doubling in range(MOST_DOUBLINGS):
        tried = at(start * 2**doubling)
        if not tried.ok:
            return low, tried
        low = tried
    raise InputError(f"no limit found up to {figure(low.rate, 3)} requests/s: these targets do not limit it")


def _bisect(at: Callable[[float], Probe], low: Probe, high: Probe, least: float) -> tuple[Probe, Probe]:
    while high.rate - low.rate > TOLERANCE * high.rate:
        if high.rate < least:
            raise InfeasibleError(
                f"{_none_does(high.binding, high.rate)}, where requests overlap only in bursts, or some miss the "
                "targets even alone"
            )
        tried = at((low.rate + high.rate) / 2)
        low, high = (tried, high) if tried.ok else (low, tried)
    return low, high
