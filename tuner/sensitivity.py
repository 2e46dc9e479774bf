"""What a prediction becomes where the steps are as much faster or slower as the profile's step times may be off.

Steps that are some per cent longer mean more requests in each of them, and near saturation a queue: at a given rate
latencies move by two or many times as much. One number for the error of a profile says nothing of that. So the same
requests are simulated twice more, with every step so much shorter and longer, and in the latter case with a longer way
to the engine, where that was not measured.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..figures import figure
from ..profiler.profile import Profile
from ..profiler.trust import later_s, slowed_by, step_time_error
from ..simulator.timing import Pace
from .objective import Metrics


@dataclass(frozen=True, slots=True)
class Doubt:
    """By what a profile may be off."""

    step_time_error: float
    """Steps may be faster and slower by this share."""
    later_s: float
    """Seconds that the way to the engine may take beyond what is assumed."""
    slowed_by: float = 0.0
    """Steps may be slower by this share, where it is more: for a while, something else slowed the machine."""

    @property
    def faster(self) -> Pace:
        return Pace(1 / (1 + self.step_time_error))

    @property
    def slower(self) -> Pace:
        return Pace(1 + self._slower_by, self.later_s)

    @property
    def label(self) -> str:
        """What tables call the two together."""
        faster, slower = _share(self.step_time_error), _share(self._slower_by)
        return f"steps {faster} faster / {slower + ' ' if slower != faster else ''}slower{self._later}"

    @property
    def labels(self) -> tuple[str, str]:
        """What tables call each, faster first."""
        return f"steps {_share(self.step_time_error)} faster", f"steps {_share(self._slower_by)} slower{self._later}"

    @property
    def _slower_by(self) -> float:
        return max(self.step_time_error, self.slowed_by)

    @property
    def _later(self) -> str:
        return f", TTFT +{figure(1e3 * self.later_s, 3)} ms" if self.later_s else ""

    def tried(self, run: Callable[[Pace], Metrics]) -> "Sensitivity":
        """What `run`, which simulates at a pace, gives with faster and with slower steps."""
        return Sensitivity(self, run(self.faster), run(self.slower))

    def as_dict(self) -> dict[str, float]:
        """As JSON has it."""
        return {
            "step_time_error": self.step_time_error,
            "slower_by": self._slower_by,
            "later_ms": 1e3 * self.later_s,
        }


def _share(value: float) -> str:
    return f"{figure(100 * value, 2)}%"


def doubt_of(profile: Profile, runs: Iterable[Metrics]) -> Doubt | None:
    """By what predictions of `runs` may be off; None where nothing tells it."""
    error = step_time_error(profile, runs)
    return None if error is None else Doubt(error, later_s(profile), slowed_by(profile))


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Metrics of one configuration with faster and with slower steps than the profile's."""

    doubt: Doubt
    faster: Metrics
    slower: Metrics

    @property
    def label(self) -> str:
        """What tables call it."""
        return self.doubt.label

    def both(self, text: Callable[[Metrics], str]) -> str:
        """What a text says of the two, faster first."""
        return f"{text(self.faster)} / {text(self.slower)}"

    def as_dict(self, targets: Callable[[Metrics], dict[str, bool]]) -> dict[str, Any]:
        """As JSON has it; `targets` tells which are met."""
        sides = (("faster", self.faster), ("slower", self.slower))
        return self.doubt.as_dict() | {
            name: {"metrics": dict(metrics), "targets": targets(metrics)} for name, metrics in sides
        }
