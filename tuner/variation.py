"""Settings under other circumstances than those that were asked about: requests in another order, slower steps."""

from dataclasses import dataclass, replace

import numpy as np

from ..simulator.engine_config import Settings
from ..traces.trace import Trace
from .evaluate import Outcome, SimulatedRun

ORDERS = 6
"""Enough for a mean whose error is less than half the spread, at the cost of 30 trials."""


@dataclass(frozen=True, slots=True)
class Variation:
    """One run: `settings` on the trace in order `order`, every step `step_factor` times as long."""

    settings: Settings
    order: int = 0
    """0: the trace as it is."""
    step_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class VariedRun:
    """Runs variations in the simulator."""

    simulated: SimulatedRun

    def __call__(self, variation: Variation) -> Outcome:
        trace = self.simulated.trace
        if variation.order:
            trace = rotated(trace, variation.order)
        return replace(self.simulated, trace=trace, step_factor=variation.step_factor)(variation.settings)


def rotated(trace: Trace, number: int) -> Trace:
    """Order `number` (1 to ORDERS) of a trace: the arrival times stay, the requests move on along them.

    What follows what stays too, so bursts, conversations and shared prefixes are as they were; which request meets
    which burst is not.
    """
    first = number * len(trace) // (ORDERS + 1)
    return replace(trace.taken(np.roll(np.arange(len(trace)), -first)), arrival_s=trace.arrival_s)
