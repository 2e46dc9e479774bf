"""Settings under other circumstances than those that were asked about: requests in another order, a load that goes on,
slower steps."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from ...simulator.settings import Settings
from ...simulator.timing import AS_TOLD, Pace
from ...traces.trace import Trace
from ..evaluate import Outcome, SimulatedRun
from ..study.study import Study, Trial, Where, settings_key, trial_of
from ..traffic.steady_load import lasting_rate, lasting_seed
from ..traffic.warm import warmed

ORDERS = 6
"""Enough for a mean whose error is less than half the spread, at the cost of 30 trials."""


@dataclass(frozen=True, slots=True)
class Variation:
    """One run: `settings` on the trace in order `order`, or `times` as long and with warm caches, at another pace."""

    settings: Settings
    order: int = 0
    """0: the trace as it is."""
    pace: Pace = AS_TOLD
    times: int = 1


RunVariations = Callable[[Iterable[Variation]], Iterator[Outcome]]
"""Runs many; outcomes come in their order."""


@dataclass(frozen=True, slots=True)
class VariedRun:
    """Runs variations in the simulator."""

    simulated: SimulatedRun

    def __call__(self, variation: Variation) -> Outcome:
        trace, cold = self.simulated.trace, 0
        if variation.order:
            trace = rotated(trace, variation.order)
        if variation.times > 1:
            trace, cold = warmed(trace, variation.times * len(trace), lasting_rate(trace), lasting_seed(trace))
        return replace(self.simulated, trace=trace, cold=cold, pace=variation.pace)(variation.settings)


def run_variations(
    study: Study,
    where: Where,
    origin: str,
    wanted: Iterable[tuple[int, Variation]],
    run_all: RunVariations,
    on_trial: Callable[[Trial], None],
) -> None:
    """Run those of the `wanted` that the study does not know yet, each put in it when it ends, as the repeat that its
    number names."""
    known = {(trial.key, trial.repeat, pace_of(trial)) for trial in study.trials(where)}
    missing = [
        (number, variation)
        for number, variation in wanted
        if (settings_key(variation.settings), number, variation.pace) not in known
    ]
    outcomes = run_all(variation for _, variation in missing)
    for (number, variation), outcome in zip(missing, outcomes, strict=True):
        details = asdict(variation.pace)
        trial = trial_of(variation.settings, outcome, where=where, repeat=number, origin=origin, details=details)
        study.add(trial)
        on_trial(trial)


def pace_of(trial: Trial) -> Pace:
    """The pace at which a variation ran."""
    return Pace(**trial.details)


def how_many_orders(trace: Trace) -> int:
    """How many orders of the requests there are beside the trace's own; of many ORDERS."""
    return min(ORDERS, len(trace) - 1)


def rotated(trace: Trace, number: int) -> Trace:
    """Order `number` (1 to `how_many_orders`) of a trace: the arrival times stay, the requests move on along them.

    What follows what stays too, so bursts and system prompts are as they were; which request meets which burst is not.
    """
    first = number * len(trace) // (how_many_orders(trace) + 1)
    return replace(trace.taken(np.roll(np.arange(len(trace)), -first)), arrival_s=trace.arrival_s)
