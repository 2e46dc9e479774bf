"""How fast the engine's steps were in a run on it, and what is predicted for a machine of that speed.

Near saturation a machine that is a tenth slower answers half as fast, so a prediction can be off because the steps took
longer than the profile says, or because the schedule or what lies outside the steps was predicted wrongly. A run's own
step records tell the two apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import InputError
from ...profiler.surrogate.steps import samples_of
from ...simulator.settings import Settings
from ...simulator.speculation import drafts_of
from ...simulator.step_time import counts_drafts, step_times_s
from ...simulator.steps import StepRecord
from ...simulator.timing import Pace
from ..evaluate import SimulatedRun
from ..objective import Metrics


@dataclass(frozen=True, slots=True)
class RunSpeed:
    """A run's steps beside the profile's."""

    step_time_ratio: float
    """Time that the steps took over the time predicted for the same compositions."""
    steps: int
    predicted: Metrics
    """For the run's settings and trace, had every step been predicted so many times as long."""

    def as_dict(self) -> dict[str, Any]:
        """As a trial's details keep it."""
        return {
            "step_time_ratio": self.step_time_ratio,
            "steps": self.steps,
            "predicted_at_speed": dict(self.predicted),
        }


def run_speed(records: Sequence[StepRecord], simulated: SimulatedRun, settings: Settings) -> RunSpeed | None:
    """The speed of the run that made `records`, and what `simulated` gives at that speed.

    None where the run recorded no step, on a full disk for example, or where the profile holds for impossible what the
    engine ran.
    """
    try:
        timing = simulated.profile.timing(settings)
    except InputError:
        return None
    drafts = drafts_of({**simulated.profile.defaults, **settings}) if counts_drafts(timing.step) else 0
    samples = samples_of(records, drafts)
    if not len(samples):
        return None
    ratio = float(samples.duration_s.sum() / step_times_s(timing.step, samples.totals).sum())
    metrics = replace(simulated, pace=Pace(ratio))(settings).metrics
    return None if metrics is None else RunSpeed(ratio, len(samples), metrics)
