"""The step-time model as the compiled step loop sees it."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from .features import DECODE_CONTEXT, DECODE_ROWS, PREFILL_CONTEXT, PREFILL_TOKENS, TOTALS

F64 = npt.NDArray[np.float64]


class StepTimeModel(NamedTuple):
    """Arrays only, so that compiled code can take it."""

    weights_s: F64
    """(TOTALS + 1,): seconds for each of the step's totals, and last the constant."""


def linear_model(base_s: float, prefill_token_s: float, decode_row_s: float, context_token_s: float) -> StepTimeModel:
    """base + P * prefill_token + D * decode_row + C * context_token, C over the rows of both kinds."""
    weights = np.zeros(TOTALS + 1)
    weights[PREFILL_TOKENS] = prefill_token_s
    weights[DECODE_ROWS] = decode_row_s
    weights[PREFILL_CONTEXT] = weights[DECODE_CONTEXT] = context_token_s
    weights[TOTALS] = base_s
    return StepTimeModel(weights)


@njit(cache=True)
def new_memo(model):
    """Scratch space for `step_time_s`, one per simulated engine: what it remembers of its last answer."""
    return np.zeros(1)


@njit(cache=True)
def step_time_s(model, totals, memo):
    """Seconds that a step with these totals (float64[TOTALS]) takes."""
    time_s = model.weights_s[TOTALS]
    for i in range(TOTALS):
        time_s += model.weights_s[i] * totals[i]
    return time_s


@njit(cache=True)
def is_extrapolated(model, totals):
    """Whether the step lies outside what was measured."""
    return False
