"""Which staircase to run next: the corners of the space, then what is drawn, as far as the time that is left allows.

Not by what the model does not know yet: choosing by the held-out errors of regimes and by the steps that each part of
the space has was no better at equal time than taking staircases as they are spread (docs/trust.md).
"""

from collections.abc import Iterator

import numpy as np

from ...simulator.features import totals_of
from ...simulator.step_time import step_times_s
from ..surrogate.model import FittedStepTime
from .design import Space, Staircase, corners, draw, forecast, halved

DRAWN = 64
"""Staircases that are drawn together, spread over the space; where none of so many is short enough, none will be."""
STAIRCASE_S = 0.1
"""What a staircase takes besides its steps."""
CORNER_SHARE = 0.25
"""Of the time that another staircase may take, for a corner: most traffic is far from it."""


class Chooser:
    """Staircases in the order in which they are to run."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._corners = corners(space)
        self._drawn = _all_drawn(space, seed)

    def next(self, model: FittedStepTime, limit_s: float) -> Staircase | None:
        """The next staircase, of at most `limit_s` by the model's account; None where none is so short."""
        while self._corners:
            corner: Staircase | None = self._corners.pop(0)
            while corner is not None and not affordable(corner, self._space, model, limit_s * CORNER_SHARE):
                corner = halved(corner)
            if corner is not None:
                return corner
        tried = (next(self._drawn) for _ in range(DRAWN))
        return next((staircase for staircase in tried if affordable(staircase, self._space, model, limit_s)), None)


def _all_drawn(space: Space, seed: int) -> Iterator[Staircase]:
    while True:
        yield from draw(space, DRAWN, seed)
        seed += 1


def affordable(staircase: Staircase, space: Space, model: FittedStepTime, limit_s: float) -> bool:
    """Whether the model predicts at most `limit_s` seconds for the staircase."""
    tokens = sum(staircase.prompts)
    chunk = min(tokens, staircase.cap or space.max_num_batched_tokens)
    one = totals_of(np.array([chunk]), np.array([0]))[None, :]
    if float(step_times_s(model.model, one)[0]) * tokens / chunk > limit_s:  # saves a long forecast
        return False
    return float(step_times_s(model.model, forecast(staircase, space)).sum()) + STAIRCASE_S <= limit_s
