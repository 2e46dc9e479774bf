"""What a prediction becomes where the steps are as much faster or slower as the profile's step times may be off.

Steps that are some per cent longer mean more requests in each of them, and near saturation a queue: at a given rate
latencies move by two or many times as much. One number for the error of a profile says nothing of that. So the same
requests are simulated twice more, with every step so much shorter and longer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..profiler.profile import Profile
from ..profiler.trust import step_time_error
from .objective import Metrics


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Metrics of one configuration with faster and with slower steps than the profile's."""

    step_time_error: float
    """Steps are faster and slower by this share: `factors` of their time."""
    faster: Metrics
    slower: Metrics

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"steps {100 * self.step_time_error:.2g}% faster / slower"

    def both(self, text: Callable[[Metrics], str]) -> str:
        """What a text says of the two, faster first."""
        return f"{text(self.faster)} / {text(self.slower)}"

    def as_dict(self, targets: Callable[[Metrics], dict[str, bool]]) -> dict[str, Any]:
        """As JSON has it; `targets` tells which are met."""
        sides = (("faster", self.faster), ("slower", self.slower))
        return {"step_time_error": self.step_time_error} | {
            name: {"metrics": dict(metrics), "targets": targets(metrics)} for name, metrics in sides
        }


def factors(step_time_error: float) -> tuple[float, float]:
    """How many times as long steps take that are faster and slower by a share, in that order."""
    return 1 / (1 + step_time_error), 1 + step_time_error


def sensitivity(profile: Profile, run: Callable[[float], Metrics], shares: Metrics | None = None) -> Sensitivity | None:
    """Of what `run` simulates, given how many times as long a step takes; None where no error is known. `shares` tell
    how many of its steps are extrapolated."""
    error = step_time_error(profile, [shares or {}])
    if error is None:
        return None
    faster, slower = map(run, factors(error))
    return Sensitivity(error, faster, slower)
