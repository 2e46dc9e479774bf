"""Planning: how much one engine takes, how many engines and GPUs a forecast needs, and what if.

Capacity is found on several orderings of the trace, and on traces that are drawn from it, which tell its interval
(draws.py). The replicas for a forecast are simulated (fleet.py).
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ...errors import InfeasibleError, InputError
from ...simulator.settings import assigned
from ...simulator.speculation import with_drafts
from ..objective import Metrics
from ..sensitivity import Doubt, doubt_of
from ..traffic.overlay import is_overlaid
from ..traffic.steady_load import scaled_lengths
from ..workers import workers
from .capacity import Capacity, Probe, Scenario, find_capacity, unloaded
from .draws import DRAWS, drawable, drawn, rate_interval
from .fleet import ORDERINGS, AskAll, Fleet, FleetTrial, Question, by_division, find_fleet, fleet_interval

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
    drawn_rates: tuple[float, ...] = ()
    """What one engine takes of each draw of the trace; 0 where no rate meets the targets. None of conversations."""
    fleet: Fleet | None = None
    """The replicas that serve the forecast."""
    reason: str | None = None
    """Why no rate meets the targets, or no number of replicas the forecast, or what refuses the change."""
    refused: bool = False
    """Whether the engine, or the profile, does not have what was asked."""

    @property
    def max_request_rate(self) -> float:
        """Of one engine: the median over the orderings."""
        return statistics.median(capacity.best.rate for capacity in self.capacities)

    @property
    def spanned(self) -> tuple[float, float]:
        """From the lowest rate that passed on an ordering to the highest that failed just above one: what an ordering
        takes lies between the two."""
        found = [capacity.best.rate for capacity in self.capacities]
        return min(found), max(capacity.failed.rate for capacity in self.capacities)

    @property
    def interval(self) -> tuple[float, float]:
        """Within which one engine's rate lies on traffic like the trace, which is a sample of it (draws.py)."""
        low, high = rate_interval(self.max_request_rate, self.drawn_rates)
        return min(low, self.spanned[0]), max(high, self.spanned[1])

    @property
    def binding(self) -> str:
        """What stops one engine most often: a target, QUEUE or GOODPUT (capacity.py)."""
        return statistics.mode(capacity.failed.binding for capacity in self.capacities)

    @property
    def shown(self) -> Probe:
        """The forecast on its replicas where there is one, else what one engine takes on the first ordering."""
        return self.fleet.worst if self.fleet else self.capacities[0].best

    @property
    def gpus(self) -> int:
        """GPUs of all replicas; of one where no rate was given."""
        engine = self.scenario.profile.engine_config(self.scenario.settings)
        return (self.fleet.replicas if self.fleet else 1) * engine.tensor_parallel_size * engine.pipeline_parallel_size

    @property
    def runs(self) -> list[Metrics]:
        """The metrics at every rate that the plan names."""
        probes = [capacity.best for capacity in self.capacities]
        return [probe.metrics for probe in ([self.fleet.worst, *probes] if self.fleet else probes)]

    @property
    def doubt(self) -> Doubt | None:
        """By what the predictions of these runs may be off; None where that is not known."""
        return doubt_of(self.scenario.profile, self.runs)


def plan(
    scenarios: Sequence[Scenario],
    rate: float | None = None,
    *,
    jobs: int | None = None,
    dask_scheduler: str | None = None,
    on_done: Callable[[int, str], None] = lambda done, note: None,
    after: Sequence[Plan] = (),
) -> list[Plan]:
    """A plan for each scenario; one that cannot meet the targets comes back with the reason and no capacities.

    Raises InputError where the first scenario is wrong in itself, unless other plans came before (`after`). `on_done`
    hears how many of the `steps_of` all scenarios are done, and what goes on.
    """
    plans: list[Plan] = []
    before = 0
    for scenario in scenarios:
        try:
            answer, prepare = partial(_answer, scenario), scenario.compile
            with workers(answer, jobs, prepare=prepare, dask_scheduler=dask_scheduler) as ask_all:
                plans.append(_planned(scenario, rate, ask_all, on_done, before, [*after, *plans]))
        except InfeasibleError as error:
            plans.append(Plan(scenario, (), rate, reason=str(error)))
        except InputError as error:
            if not (plans or after):  # what is wrong with a change is told beside the base
                raise
            told = str(error) if str(error).startswith(scenario.name) else f"{scenario.name}: {error}"
            plans.append(Plan(scenario, (), rate, reason=told, refused=True))
        before += steps_of([scenario], rate)
    return plans


def steps_of(scenarios: Sequence[Scenario], rate: float | None) -> int:
    """Steps of progress of the scenarios' plans: each one's orderings, the draws of its trace and, with a forecast, its
    replicas."""
    forecast = 0 if rate is None else 1
    return sum(ORDERINGS + (DRAWS if drawable(one.trace) else 0) + forecast for one in scenarios)


def require_targets(plans: Sequence[Plan]) -> None:
    """Raise InfeasibleError where the first plan, the base, does not meet the targets or the forecast."""
    if plans[0].reason:
        raise InfeasibleError(plans[0].reason)


def _answer(scenario: Scenario, question: Question) -> Capacity | Probe | float:
    return question(scenario)


def _planned(
    scenario: Scenario,
    rate: float | None,
    ask_all: AskAll,
    on_done: Callable[[int, str], None],
    before: int,
    others: Sequence[Plan],
) -> Plan:
    """The plan of one scenario, when `before` steps of `others` are done."""
    on_done(before, scenario.name)
    alone, stay_s = unloaded(scenario)
    numbers = range(1, DRAWS + 1) if drawable(scenario.trace) else ()
    questions: list[Question] = [
        *(partial(find_capacity, seed=seed, alone=alone, stay_s=stay_s) for seed in range(ORDERINGS)),
        *(partial(_drawn_rate, number=number, alone=alone, stay_s=stay_s) for number in numbers),
    ]
    answers: list[Any] = []
    for answer in ask_all(questions):
        answers.append(answer)
        on_done(before + len(answers), scenario.name)
    one_engine = Plan(scenario, tuple(answers[:ORDERINGS]), rate, tuple(answers[ORDERINGS:]))
    if rate is None:
        return one_engine

    def tried(replicas: int) -> None:
        on_done(before + len(answers), f"{scenario.name} on {replicas:,} replicas")

    overlaid_at = rate if is_overlaid(scenario.trace, rate) else None
    try:
        beyond = _beyond_division(others[0]) if others else 1.0
        fleet = _fleet(one_engine, rate, FleetTrial(scenario, stay_s, ask_all, tried, overlaid_at, beyond))
    except InfeasibleError as error:
        return replace(one_engine, reason=str(error))
    on_done(before + steps_of([scenario], rate), scenario.name)
    return replace(one_engine, fleet=fleet)


def _fleet(one_engine: Plan, rate: float, trial: FleetTrial) -> Fleet:
    """The fleet for the forecast, with its interval where samples of the traffic were drawn."""
    fleet = find_fleet(trial, rate, one_engine.spanned[1])
    if not one_engine.drawn_rates:
        return fleet
    low, high = (limit / one_engine.max_request_rate for limit in one_engine.interval)
    return replace(fleet, interval=fleet_interval(trial, rate, fleet.replicas, (low, high)))


def _beyond_division(base: Plan) -> float:
    """How many times what division says the fleet of the base is: changes of it do not differ much in that."""
    if base.fleet is None:
        return 1.0
    return base.fleet.replicas / by_division(base.fleet.worst.rate, base.spanned[1])


def _drawn_rate(scenario: Scenario, number: int, alone: Probe, stay_s: float) -> float:
    """What one engine takes of draw `number` of the trace; 0 where no rate meets the targets."""
    try:
        return find_capacity(replace(scenario, trace=drawn(scenario.trace, number)), number, alone, stay_s).best.rate
    except InfeasibleError:
        return 0.0


def what_if(base: Scenario, text: str, acceptance: str | None = None) -> Scenario:
    """The base with one change: an engine setting (`max_num_seqs=64`), lengths (`input_tokens=x1.5`), or the time that
    every step takes (`step_time=x1.1`). `acceptance` is how many drafts of a change are accepted.

    Raises InputError for anything else. Settings that vLLM refuses are changes, whose plan has the reason.
    """
    name, _, value = text.partition("=")
    if name == "rate":
        raise InputError(f"--what-if {text!r}: a rate changes neither engine nor lengths: plan with another --rate")
    if name not in (*LENGTHS, STEP_TIME):
        change = assigned(text, "--what-if")
        known = {**base.profile.defaults, **base.settings}
        return replace(base, name=text, settings=base.settings | with_drafts(change, known, acceptance))
    try:
        factor = float(value.removeprefix("x"))
    except ValueError:
        factor = math.nan
    if not (value.startswith("x") and 0 < factor < math.inf):
        raise InputError(f"--what-if {text!r}: expected a factor, for example {name}=x1.5")
    if name == STEP_TIME:
        return replace(base, name=text, pace=replace(base.pace, step_factor=base.pace.step_factor * factor))
    inputs, outputs = (factor, 1.0) if name == "input_tokens" else (1.0, factor)
    return replace(base, name=text, trace=scaled_lengths(base.trace, inputs=inputs, outputs=outputs))


def with_other_step_times(base: Plan) -> list[Scenario]:
    """The base with steps that are faster and slower by its profile's error; none where that is not known."""
    doubt = base.doubt
    if doubt is None or not base.capacities:
        return []
    sides = zip(doubt.labels, (doubt.faster, doubt.slower), strict=True)
    return [replace(base.scenario, name=name, pace=pace) for name, pace in sides]
