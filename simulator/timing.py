"""How long things take: the step-time model, and what a request spends outside the engine's steps."""

from dataclasses import dataclass, replace
from typing import Self

from .step_time import StepTimeModel, slowed


@dataclass(frozen=True, slots=True)
class Overhead:
    """Time a request spends outside engine steps (HTTP, tokeniser, detokeniser), measured by the profiler.

    A request reaches the engine `before_s + before_token_s * prompt_tokens` after the client sends it; the client
    sees every token `after_s` after the step that made it ends.
    """

    before_s: float = 0.0
    before_token_s: float = 0.0
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How much slower an engine and the way to it are than the profile says."""

    step_factor: float = 1.0
    """How many times as long every step takes."""
    later_s: float = 0.0
    """Seconds by which every request reaches the engine later."""


AS_TOLD = Pace()


@dataclass(frozen=True, slots=True)
class Timing:
    """Everything the simulator needs to know about time."""

    step: StepTimeModel
    overhead: Overhead = Overhead()

    def at(self, pace: Pace) -> Self:
        """The same at another pace."""
        overhead = replace(self.overhead, before_s=self.overhead.before_s + pace.later_s)
        return replace(self, step=slowed(self.step, pace.step_factor), overhead=overhead)
