"""The step-time model as the compiled step loop sees it: non-negative baseline times exp(residual), and its hull.

The residual is a LightGBM ensemble in which every tree path uses at most GROUP_SIZE features of one declared group.
Such an ensemble is exactly a sum of small tables, one per group, indexed by the bin in which each feature lies between
the ensemble's own split thresholds: no tree is walked, and the bins of the last step are tried first (`memo`), because
the next step is nearly the same.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from .features import (
    CONSTANT,
    DECODE_CONTEXT,
    DECODE_ROWS,
    MAX_CONTEXT,
    PHYSICS,
    PREFILL_CONTEXT,
    PREFILL_ROWS,
    PREFILL_TOKENS,
    PREFILL_WORK,
    REGIME_NAMES,
    baseline_s,
    regime_of,
)

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

SHAPE_NAMES = (
    "tokens",
    "prefill_tokens",
    "prefill_rows",
    "prefill_work",
    "decode_rows",
    "decode_context",
    "max_context",
    "mean_prefill_context",
    "mean_decode_context",
)
"""What the residual and the hull look at. Means are per computed token: prefill_work / prefill_tokens and so on."""
SHAPE = len(SHAPE_NAMES)
RESIDUAL_GROUPS = ((4, 5, 6), (1, 2, 3), (0, 3, 4), (1, 4, 5))
"""Groups of SHAPE features whose interactions the residual may learn: pure decoding; pure prefilling; a step's width
against its attention work; decodes riding along a chunk."""
GROUP_SIZE = 3

HULL_ABOVE = 1.1
"""A feature up to this factor above the largest measured one counts as measured: less than a CUDA-graph step."""
HULL_BELOW = 0.5
"""Towards zero every term of the baseline shrinks to the measured constant, so half the smallest is near enough."""


class StepTimeModel(NamedTuple):
    """Arrays only, so that compiled code can take it."""

    weights_s: F64
    """(PHYSICS,): seconds for each physics feature."""
    graph_sizes: F64
    """Captured CUDA-graph sizes, ascending; empty where the engine captures none."""
    edges: F64
    """(SHAPE, most edges): split thresholds of each feature, ascending, filled up with +inf."""
    tables: F64
    """All groups' tables, one after the other, each in C order of its features' bins: log of the time's ratio."""
    group_features: I64
    """(groups, GROUP_SIZE): indices into SHAPE."""
    group_offsets: I64
    """(groups,): where each group's table begins."""
    group_strides: I64
    """(groups, GROUP_SIZE)"""
    hull: F64
    """(regimes, SHAPE, 2): least and greatest measured value; inverted where a regime was not measured at all."""


def baseline_model(weights_s: F64, graph_sizes: F64 | None = None, hull: F64 | None = None) -> StepTimeModel:
    """A model without residual; without `hull` it is never extrapolated."""
    return StepTimeModel(
        weights_s=weights_s,
        graph_sizes=np.empty(0) if graph_sizes is None else graph_sizes,
        edges=np.full((SHAPE, 1), np.inf),
        tables=np.empty(0),
        group_features=np.empty((0, GROUP_SIZE), np.int64),
        group_offsets=np.empty(0, np.int64),
        group_strides=np.empty((0, GROUP_SIZE), np.int64),
        hull=unbounded_hull() if hull is None else hull,
    )


def linear_model(base_s: float, prefill_token_s: float, decode_row_s: float, context_token_s: float) -> StepTimeModel:
    """base + P * prefill_token + D * decode_row + C * context_token, C over the rows of both kinds."""
    weights = np.zeros(PHYSICS)
    weights[PREFILL_TOKENS] = prefill_token_s
    weights[DECODE_ROWS] = decode_row_s
    weights[PREFILL_CONTEXT] = weights[DECODE_CONTEXT] = context_token_s
    weights[CONSTANT] = base_s
    return baseline_model(weights)


def unbounded_hull() -> F64:
    """The hull of a formula: it holds everywhere."""
    hull = np.empty((len(REGIME_NAMES), SHAPE, 2))
    hull[..., 0], hull[..., 1] = 0.0, np.inf
    return hull


@njit(cache=True)
def shape_of(totals, shape):
    """Write the SHAPE features of a step's totals into `shape`, float64[SHAPE]."""
    prefill, decodes = totals[PREFILL_TOKENS], totals[DECODE_ROWS]
    shape[0] = prefill + decodes
    shape[1] = prefill
    shape[2] = totals[PREFILL_ROWS]
    shape[3] = totals[PREFILL_WORK]
    shape[4] = decodes
    shape[5] = totals[DECODE_CONTEXT]
    shape[6] = totals[MAX_CONTEXT]
    shape[7] = totals[PREFILL_WORK] / prefill if prefill > 0.0 else 0.0
    shape[8] = totals[DECODE_CONTEXT] / decodes if decodes > 0.0 else 0.0


@njit(cache=True)
def new_memo(model):
    """Scratch space for `step_time_s`, one per simulated engine: what it remembers of its last answer."""
    return np.zeros(2 * SHAPE)


@njit(cache=True)
def _find_bin(edges, value, guess):
    """Number of edges below `value`: LightGBM goes left where value <= threshold. `guess` is tried first."""
    last = len(edges)
    if (guess == 0 or edges[guess - 1] < value) and (guess == last or value <= edges[guess]):
        return guess
    return np.searchsorted(edges, value)


@njit(cache=True)
def residual_log(model, totals, memo):
    """Log of the factor by which the time of a step differs from the baseline."""
    if len(model.group_offsets) == 0:
        return 0.0
    shape = memo[:SHAPE]
    bins = memo[SHAPE:]
    shape_of(totals, shape)
    for i in range(SHAPE):
        bins[i] = _find_bin(model.edges[i], shape[i], int(bins[i]))
    log_ratio = 0.0
    for group in range(len(model.group_offsets)):
        cell = model.group_offsets[group]
        for k in range(GROUP_SIZE):
            cell += model.group_strides[group, k] * int(bins[model.group_features[group, k]])
        log_ratio += model.tables[cell]
    return log_ratio


@njit(cache=True)
def step_time_s(model, totals, memo):
    """Seconds that a step with these totals (float64[TOTALS]) takes."""
    time_s = baseline_s(model.weights_s, model.graph_sizes, totals)
    log_ratio = residual_log(model, totals, memo)
    return time_s if log_ratio == 0.0 else time_s * np.exp(log_ratio)


@njit(cache=True)
def step_times_s(model, totals):
    """Seconds of many steps: totals of shape (steps, TOTALS)."""
    memo = new_memo(model)
    times = np.empty(len(totals))
    for step in range(len(totals)):
        times[step] = step_time_s(model, totals[step], memo)
    return times


@njit(cache=True)
def is_extrapolated(model, totals):
    """Whether the step lies outside what was measured in its regime.

    The hull is a box in the SHAPE features; because it bounds sums and means as well as counts, it cuts the corners
    (many rows times long contexts) that a box over the counts alone would promise.
    """
    shape = np.empty(SHAPE)
    shape_of(totals, shape)
    bounds = model.hull[regime_of(totals)]
    for i in range(SHAPE):  # noqa: SIM110 - numba knows no any()
        if shape[i] > bounds[i, 1] * HULL_ABOVE or shape[i] < bounds[i, 0] * HULL_BELOW:
            return True
    return False
