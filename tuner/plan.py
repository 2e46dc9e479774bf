"""Planning: how much one engine takes, how many engines and GPUs a forecast needs, and what if.

Capacity is found on several orderings of the trace; its interval is what these span, up to where they fail. Replicas
are not just divided out: the whole rate is simulated on that many engines, and the fewest are sought that meet the
targets on every ordering. A router may spread the load better than one engine gets it, or worse.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from ..errors import InfeasibleError, InputError
from ..profiler.trust import step_time_error
from ..simulator.settings import setting
from .capacity import CONFIRMING_REQUESTS, LEAST_REQUESTS, Capacity, Probe, Scenario, find_capacity, probe, unloaded
from .objective import Metrics
from .sensitivity import factors
from .steady_load import scaled_lengths
from .workers import workers

ORDERINGS = 5
MOST_ADDED, MOST_ADDED_SHARE = 8, 0.25
"""Replicas added to what division says before giving up, the larger of the two: routing loses no factor."""
MOST_REPLICAS = 2000
"""More than stand behind one router; a forecast for more is planned in parts."""
LENGTHS = ("input_tokens", "output_tokens")
STEP_TIME = "step_time"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one scenario takes and needs."""

    scenario: Scenario
    capacities: tuple[Capacity, ...]
    """One an ordering of the trace; the first keeps the recorded order."""
    rate: float | None
    """The forecast, requests a second."""
    replicas: int | None
    at_rate: Probe | None
    """The forecast on that many replicas, on the ordering that did worst."""
    reason: str | None = None
    """Why no rate meets the targets, or no number of replicas the forecast."""

    @property
    def max_request_rate(self) -> float:
        """Of one engine: the median over the orderings."""
        return statistics.median(capacity.best.rate for capacity in self.capacities)

    @property
    def interval(self) -> tuple[float, float]:
        """From the lowest rate that passed on an ordering to the highest that failed just above one: what an ordering
        takes lies between the two."""
        found = [capacity.best.rate for capacity in self.capacities]
        return min(found), max(capacity.failed.rate for capacity in self.capacities)

    @property
    def binding(self) -> str:
        """What stops one engine most often: a target, or "queue"."""
        return statistics.mode(capacity.failed.binding for capacity in self.capacities)

    @property
    def gpus(self) -> int:
        """GPUs of all replicas; of one where no rate was given."""
        engine = self.scenario.profile.engine_config(self.scenario.settings)
        return (self.replicas or 1) * engine.tensor_parallel_size * engine.pipeline_parallel_size

    @property
    def runs(self) -> list[Metrics]:
        """The metrics at every rate that the plan names."""
        probes = (self.at_rate, *(capacity.best for capacity in self.capacities))
        return [probe.metrics for probe in probes if probe]

    @property
    def step_time_error(self) -> float | None:
        """By what share the steps of these runs may be too short or too long; None where that is not known."""
        return step_time_error(self.scenario.profile, self.runs)


def plan(
    scenarios: Sequence[Scenario],
    rate: float | None = None,
    *,
    jobs: int | None = None,
    dask_scheduler: str | None = None,
    on_done: Callable[[int], None] = lambda done: None,
    after: Sequence[Plan] = (),
) -> list[Plan]:
    """A plan for each scenario; one that cannot meet the targets comes back with the reason and no capacities.

    Raises InputError where the first scenario is wrong in itself, unless other plans came before (`after`). `on_done`
    hears how many orderings of all scenarios (ORDERINGS each) are done.
    """
    plans: list[Plan] = []
    steps = itertools.count(1)

    def step() -> None:
        on_done(next(steps))

    for scenario in scenarios:
        try:
            answer, prepare = partial(_answer, scenario), scenario.simulated().compile
            with workers(answer, jobs, prepare=prepare, dask_scheduler=dask_scheduler) as ask_all:
                plans.append(_planned(scenario, rate, ask_all, step))
        except InfeasibleError as error:
            plans.append(Plan(scenario, (), rate, None, None, str(error)))
        except InputError as error:
            if not (plans or after):  # what is wrong with a change is told beside the base
                raise
            told = str(error) if str(error).startswith(scenario.name) else f"{scenario.name}: {error}"
            plans.append(Plan(scenario, (), rate, None, None, told))
    return plans


def require_targets(plans: Sequence[Plan]) -> None:
    """Raise InfeasibleError where the first plan, the base, does not meet the targets or the forecast."""
    if plans[0].reason:
        raise InfeasibleError(plans[0].reason)


Question = Callable[[Scenario], Capacity | Probe]
AskAll = Callable[[Sequence[Question]], Any]
Answer = TypeVar("Answer")


def _answer(scenario: Scenario, question: Question) -> Capacity | Probe:
    return question(scenario)


def _planned(scenario: Scenario, rate: float | None, ask_all: AskAll, step: Callable[[], None]) -> Plan:
    alone, stay_s = unloaded(scenario)
    capacities: list[Capacity] = []
    ask = partial(find_capacity, alone=alone, stay_s=stay_s)
    for capacity in ask_all([partial(ask, seed=seed) for seed in range(ORDERINGS)]):
        capacities.append(capacity)
        step()
    one_engine = Plan(scenario, tuple(capacities), rate, None, None)
    return one_engine if rate is None else _fleet(one_engine, rate, stay_s, ask_all)


def _fleet(one_engine: Plan, rate: float, stay_s: float, ask_all: AskAll) -> Plan:
    """The plan with the fewest replicas that serve the rate on every ordering, or the reason why none do."""
    scenario = one_engine.scenario
    fewest = max(1, math.ceil(rate / one_engine.interval[1]))
    if fewest > MOST_REPLICAS:
        reason = (
            f"{scenario.name}: {rate:g} requests/s need {fewest:,} replicas or more, and at most {MOST_REPLICAS:,} are "
            "simulated: plan for a part of the rate and multiply"
        )
        return replace(one_engine, reason=reason)

    def worst_on(replicas: int) -> Probe | None:
        """What came of the ordering that did worst; None where one missed the targets."""
        least = max(LEAST_REQUESTS, math.ceil(CONFIRMING_REQUESTS / replicas))
        ask = partial(probe, rate=rate, stay_s=stay_s, replicas=replicas, least=least)
        probes: list[Probe] = list(ask_all([partial(ask, seed=seed) for seed in range(ORDERINGS)]))
        if not all(p.ok for p in probes):
            return None
        return max(probes, key=lambda p: scenario.objective.worst_ratio(p.metrics))

    most = fewest + max(MOST_ADDED, math.ceil(MOST_ADDED_SHARE * fewest))
    found = fewest_that_do(worst_on, fewest, most)
    if found is not None:
        return replace(one_engine, replicas=found[0], at_rate=found[1])
    reason = (
        f"{scenario.name}: {most} replicas do not meet the targets at {rate:g} requests/s "
        f"although one takes {one_engine.max_request_rate:.3g}; the round-robin router spreads the load too "
        "unevenly"
    )
    return replace(one_engine, reason=reason)


def fewest_that_do(does: Callable[[int], Answer | None], start: int, most: int) -> tuple[int, Answer] | None:
    """The least number that does, and what it answers, sought from `start` in growing strides; None up to `most`."""
    below, above, stride = 0, start, 1
    while (answer := does(above)) is None:
        if above == most:
            return None
        below, above, stride = above, min(above + stride, most), 2 * stride
    stride = 1
    while above - below > 1:
        # Downwards in strides while nothing below is known to fail, by halves after that.
        tried = max(above - stride, 1) if below == 0 else (below + above) // 2
        better = does(tried)
        if better is None:
            below = tried
        else:
            above, answer = tried, better
        stride *= 2
    return above, answer


def what_if(base: Scenario, text: str) -> Scenario:
    """The base with one change: an engine setting (`max_num_seqs=64`), lengths (`input_tokens=x1.5`), or the time that
    every step takes (`step_time=x1.1`).

    Raises InputError for anything else. Settings that vLLM refuses are changes, whose plan has the reason.
    """
    name, _, value = text.partition("=")
    if name == "rate":
        raise InputError(f"--what-if {text!r}: a rate changes neither engine nor lengths: plan with another --rate")
    if name not in (*LENGTHS, STEP_TIME):
        return replace(base, name=text, settings=base.settings | setting(name, value, f"--what-if {text}"))
    try:
        factor = float(value.removeprefix("x"))
    except ValueError:
        factor = math.nan
    if not (value.startswith("x") and 0 < factor < math.inf):
        raise InputError(f"--what-if {text!r}: expected a factor, for example {name}=x1.5")
    if name == STEP_TIME:
        return replace(base, name=text, step_factor=base.step_factor * factor)
    inputs, outputs = (factor, 1.0) if name == "input_tokens" else (1.0, factor)
    return replace(base, name=text, trace=scaled_lengths(base.trace, inputs=inputs, outputs=outputs))


def with_other_step_times(base: Plan) -> list[Scenario]:
    """The base with steps that are faster and slower by its profile's error; none where that is not known."""
    error = base.step_time_error
    if error is None or not base.capacities:
        return []
    return [
        replace(base.scenario, name=f"steps {100 * error:.2g}% {how}", step_factor=factor)
        for how, factor in zip(("faster", "slower"), factors(error), strict=True)
    ]
