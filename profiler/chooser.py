"""Which scenario to run next: the one that tells the most for its time, by the model that there is so far."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ..simulator.features import totals_of
from ..simulator.step_time import step_times_s
from .design import UNKNOWN_ERROR, Cell, Scenario, Space, cells_of, corners, draw, forecast, halved, worth
from .surrogate_model import FittedStepTime

F64 = npt.NDArray[np.float64]

CANDIDATES = 48
SCENARIO_S = 0.1
"""What a scenario takes besides its steps."""


class Chooser:
    """First the corners of the space, then the candidate of the greatest worth for its time."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._seed = space, seed
        self._corners = corners(space)
        self._round = 0

    def next(self, model: FittedStepTime, known: Mapping[Cell, int], limit_s: float) -> Scenario | None:
        """The next scenario, of at most `limit_s` by the model's account; None where none is affordable.

        `known` counts the steps that were measured in each cell.
        """
        self._round += 1
        while self._corners:
            corner: Scenario | None = self._corners.pop(0)
            while corner is not None and affordable(corner, self._space, model, limit_s) is None:
                corner = halved(corner)
            if corner is not None:
                return corner
        best, best_rate = None, 0.0
        for scenario in draw(self._space, CANDIDATES, self._seed + self._round):
            found = affordable(scenario, self._space, model, limit_s)
            if found is None:
                continue
            totals, times_s = found
            told = worth(cells_of(totals), times_s, known, lambda regime: error_of(model, regime))
            rate = told / np.sqrt(times_s.sum() + SCENARIO_S)
            if rate > best_rate:
                best, best_rate = scenario, rate
        return best


def affordable(scenario: Scenario, space: Space, model: FittedStepTime, limit_s: float) -> tuple[F64, F64] | None:
    """The steps to expect and how long each takes; None where that is longer than the limit."""
    tokens = sum(scenario.prompts)
    chunk = min(tokens, scenario.cap or space.max_num_batched_tokens)
    one = totals_of(np.array([chunk]), np.array([0]))[None, :]
    if float(step_times_s(model.model, one)[0]) * tokens / chunk > limit_s:  # saves a long forecast
        return None
    totals = forecast(scenario, space)
    times_s: F64 = step_times_s(model.model, totals)
    return (totals, times_s) if times_s.sum() + SCENARIO_S <= limit_s else None


def error_of(model: FittedStepTime, regime: str) -> float:
    """The regime's mean held-out error, or what stands for one that is not known."""
    known = model.error_of(regime)
    return UNKNOWN_ERROR if known is None else known.mean
