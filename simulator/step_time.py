"""The step-time model as the compiled step loop sees it: non-negative baseline times exp(residual), and its hull.

The residual is a LightGBM ensemble in which every tree path uses at most GROUP_SIZE features of one declared group.
Such an ensemble is exactly a sum of small tables, one per group, indexed by the bin in which each feature lies between
the ensemble's own split thresholds: no tree is walked, and the bins of the last step are tried first (`memo`), because
the next step is nearly the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..arrays import F64
from .compiled import allocating, entry
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
    first_not_below,
    padded_tokens,
    regime_of,
)

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
    "prefill_context",
)
"""What the residual and the hull look at. Means are per computed token: prefill_work / prefill_tokens and so on."""
SHAPE = len(SHAPE_NAMES)
_TOTAL_OF_SHAPE = np.array(
    [-1, PREFILL_TOKENS, PREFILL_ROWS, PREFILL_WORK, DECODE_ROWS, DECODE_CONTEXT, MAX_CONTEXT, -1, -1, PREFILL_CONTEXT]
)
BINNED = 7
"""The first so many shape features are those that the residual sees; the others are the hull's. Without prefill_context
it would take the work of a whole prompt for that of a chunk after a context."""
GROUP_SIZE = 3
RESIDUAL_GROUPS = ((4, 5, 6), (1, 2, 3), (0, 3, 4), (1, 4, 5))
"""Groups of SHAPE features whose interactions the residual may learn: pure decoding; pure prefilling; a step's width
against its attention work; decodes riding along a chunk."""
_GROUPS = np.array(RESIDUAL_GROUPS)

HULL_ABOVE = 1.1
"""A feature up to this factor above the largest measured one counts as measured: less than a CUDA-graph step."""
HULL_BELOW = 0.5
"""Towards zero every term of the baseline shrinks to the measured constant, so half the smallest is near enough."""
FAR_ABOVE = 2.0
"""Beyond this factor above the largest measured number of prefill tokens, decodes or context no held-out step tells how
far a step is off: larger ones than half of what was measured are predicted from smaller ones, and no farther."""
LEAST_SPAN = 1.25
"""Where the largest measured number is less than so many times the least, the data cannot tell the cost of a token from
that of a step. Then all outside what was measured is FAR, towards zero too."""
LEAST_CONTEXT = 256.0
"""Tokens of context that cost nothing that shows: to have measured less is to have measured so much."""
_LARGE_BY = np.array([SHAPE_NAMES.index(name) for name in ("prefill_tokens", "decode_rows", "max_context")])
_LEAST_MOST = np.array([0.0, 0.0, LEAST_CONTEXT])
WITHIN, OUTSIDE, FAR = range(3)
"""Where a step lies: inside what was measured in its regime, outside of it, and so far, or so much unlike it, that
nothing tells its error."""
REACHES = 3

# Where things lie in StepTimeModel.numbers and, the layout being whole numbers, in the memo.
_GRAPHS, _EDGES, _OFFSETS, _STRIDES = 0, 1, 2, 2 + len(RESIDUAL_GROUPS)
COUNTS_DRAFTS = _STRIDES + len(RESIDUAL_GROUPS) * GROUP_SIZE
"""Where the memo says whether rows that verify drafts are decode rows (features.py). A formula has a price for each
token beyond a decode's, and takes them for prefill rows, as the reference schedules with drafts do."""
_LAYOUT = COUNTS_DRAFTS + 1
_WEIGHTS = _LAYOUT
_HULL = _WEIGHTS + PHYSICS
_FAR = _HULL + len(REGIME_NAMES) * SHAPE * 2
_MOVED = _FAR + len(REGIME_NAMES) * len(_LARGE_BY) * 2
_SIZES = _MOVED + 2


class StepTimeModel(NamedTuple):
    """A model in one array, because numba counts references at every array that a tuple hands out.

    `numbers` holds: the layout (count of graph sizes, of edges a feature, each group's first cell and strides, whether
    drafts are counted), the baseline's weights in seconds (PHYSICS), the bounds of WITHIN (regimes, SHAPE, 2) and of
    OUTSIDE (regimes, large features, 2), the range that is `moved` (2), the CUDA-graph sizes, the edges (BINNED, most
    edges; filled up with +inf), the groups' tables.
    """

    numbers: F64


def pack_model(
    weights_s: F64,
    graph_sizes: F64 | None = None,
    hull: F64 | None = None,
    edges: F64 | None = None,
    tables: Sequence[F64] = (),
    moved: tuple[float, float] = (0.0, 0.0),
) -> StepTimeModel:
    """A model from its parts.

    Args:
        weights_s: (PHYSICS,) seconds for each physics feature.
        graph_sizes: captured CUDA-graph sizes, ascending; none where the engine captures none.
        hull: (regimes, SHAPE, 2) least and greatest measured value, inverted where a regime was not measured;
            without it the model is never extrapolated.
        edges: (BINNED, most edges) split thresholds, each row ascending and filled up with +inf.
        tables: for each of RESIDUAL_GROUPS the log of the time's ratio, one axis a feature, one cell more than edges.
        moved: above and up to how many tokens a step is FAR, because it was measured with a CUDA graph and runs without
            one, or the reverse.
    """
    sizes = np.empty(0) if graph_sizes is None else graph_sizes
    edges = np.empty((BINNED, 0)) if edges is None else edges
    first = _SIZES + len(sizes) + edges.size
    offsets, strides = [], []
    for table in tables:
        offsets.append(first)
        strides += [table.shape[1] * table.shape[2], table.shape[2], 1]
        first += table.size
    layout = np.zeros(_LAYOUT)
    layout[_GRAPHS], layout[_EDGES] = len(sizes), edges.shape[1]
    layout[_OFFSETS : _OFFSETS + len(offsets)] = offsets
    layout[_STRIDES : _STRIDES + len(strides)] = strides
    hull = unbounded_hull() if hull is None else hull
    layout[COUNTS_DRAFTS] = not is_unbounded(hull)
    far = far_limits(hull)
    parts = [layout, weights_s, near_limits(hull, far), far, np.array(moved), sizes, edges, *tables]
    return StepTimeModel(np.concatenate([part.ravel() for part in parts]))


def far_limits(hull: F64) -> F64:
    """(regimes, sizes, 2): the least and the greatest number of prefill tokens, decodes and context that is not FAR."""
    least, most = hull[:, _LARGE_BY, 0], np.maximum(hull[:, _LARGE_BY, 1], _LEAST_MOST)
    alike = most < LEAST_SPAN * least
    low, high = np.where(alike, least / HULL_ABOVE, -np.inf), np.where(alike, HULL_ABOVE, FAR_ABOVE) * most
    return np.stack([low, high], axis=-1)


def near_limits(hull: F64, far: F64) -> F64:
    """(regimes, SHAPE, 2): the least and the greatest value of each shape feature that counts as measured."""
    limits = hull * (HULL_BELOW, HULL_ABOVE)
    limits[:, _LARGE_BY, 0] = np.maximum(limits[:, _LARGE_BY, 0], far[..., 0])
    return limits


def counts_drafts(model: StepTimeModel) -> bool:
    """Whether rows that verify drafts are decode rows to it."""
    return bool(model.numbers[COUNTS_DRAFTS])


def slowed(model: StepTimeModel, factor: float) -> StepTimeModel:
    """The model of a machine on which every step takes `factor` times as long."""
    numbers = model.numbers.copy()
    numbers[_WEIGHTS : _WEIGHTS + PHYSICS] *= factor
    return StepTimeModel(numbers)


def linear_model(base_s: float, prefill_token_s: float, decode_row_s: float, context_token_s: float) -> StepTimeModel:
    """base + P * prefill_token + D * decode_row + C * context_token, C over the rows of both kinds."""
    return pack_model(linear_weights(base_s, prefill_token_s, decode_row_s, context_token_s))


def linear_weights(base_s: float, prefill_token_s: float, decode_row_s: float, context_token_s: float) -> F64:
    """The baseline weights of `linear_model`."""
    weights = np.zeros(PHYSICS)
    weights[PREFILL_TOKENS] = prefill_token_s
    weights[DECODE_ROWS] = decode_row_s
    weights[PREFILL_CONTEXT] = weights[DECODE_CONTEXT] = context_token_s
    weights[CONSTANT] = base_s
    return weights


def unbounded_hull() -> F64:
    """The hull of a formula: it holds everywhere."""
    return np.tile([0.0, np.inf], (len(REGIME_NAMES), SHAPE, 1))


def is_unbounded(hull: F64) -> bool:
    """Whether it is a formula's."""
    return bool(np.isposinf(hull[..., 1]).all())


def unmeasured_hull() -> F64:
    """The hull without any step: inverted, so that nothing lies inside."""
    return np.tile([np.inf, -np.inf], (len(REGIME_NAMES), SHAPE, 1))


@entry
def _shape_feature(totals, feature):
    """One SHAPE feature of a step's totals; a number and not an array, which the compiled loop could not afford."""
    if feature == 0:
        return totals[PREFILL_TOKENS] + totals[DECODE_ROWS]
    if feature == 7:
        return totals[PREFILL_WORK] / totals[PREFILL_TOKENS] if totals[PREFILL_TOKENS] > 0.0 else 0.0
    if feature == 8:
        return totals[DECODE_CONTEXT] / totals[DECODE_ROWS] if totals[DECODE_ROWS] > 0.0 else 0.0
    return totals[_TOTAL_OF_SHAPE[feature]]


@allocating
def shapes_of(totals):
    """SHAPE features, shape (steps, SHAPE), of totals of shape (steps, TOTALS)."""
    shapes = np.empty((len(totals), SHAPE))
    for step in range(len(totals)):
        for feature in range(SHAPE):
            shapes[step, feature] = _shape_feature(totals[step], feature)
    return shapes


@allocating
def new_memo(model):
    """Scratch space for `step_time_s`, one per simulated engine: the layout as integers, and the last step's bins."""
    memo = np.zeros(_LAYOUT + BINNED, np.int64)
    for i in range(_LAYOUT):
        memo[i] = np.int64(model.numbers[i])
    return memo


@entry
def _find_bins(numbers, totals, memo):
    """Write into the memo how many edges of each feature lie below its value: LightGBM goes left where value <= edge.

    The bins that are there are tried first.
    """
    most = memo[_EDGES]
    for feature in range(BINNED):
        first = _SIZES + memo[_GRAPHS] + feature * most
        value, low = _shape_feature(totals, feature), memo[_LAYOUT + feature]
        if (low == 0 or numbers[first + low - 1] < value) and (low == most or value <= numbers[first + low]):
            continue
        memo[_LAYOUT + feature] = first_not_below(numbers, first, most, value)


@entry
def _residual_log(numbers, totals, memo):
    """Log of the factor by which the time of a step differs from the baseline."""
    _find_bins(numbers, totals, memo)
    total = 0.0
    for group in range(len(_GROUPS)):
        cell = memo[_OFFSETS + group]
        for k in range(GROUP_SIZE):
            cell += memo[_STRIDES + group * GROUP_SIZE + k] * memo[_LAYOUT + _GROUPS[group, k]]
        total += numbers[cell]
    return total


@entry
def _step_time_s(numbers, totals, memo):
    graphs, tokens = memo[_GRAPHS], totals[PREFILL_TOKENS] + totals[DECODE_ROWS]
    dense = padded_tokens(numbers, _SIZES, graphs, tokens)
    eager = graphs > 0 and tokens > numbers[_SIZES + graphs - 1]
    time_s = baseline_s(numbers, _WEIGHTS, totals, dense, eager)
    if memo[_OFFSETS] == 0:  # no tables
        return time_s
    return time_s * np.exp(_residual_log(numbers, totals, memo))


@entry
def step_time_s(model, totals, memo):
    """Seconds that a step with these totals (float64[TOTALS]) takes."""
    return _step_time_s(model.numbers, totals, memo)


@allocating
def step_times_s(model, totals):
    """Seconds of many steps: totals of shape (steps, TOTALS)."""
    memo = new_memo(model)
    times = np.empty(len(totals))
    for step in range(len(totals)):
        times[step] = step_time_s(model, totals[step], memo)
    return times


@entry
def _reach(numbers, totals):
    tokens = totals[PREFILL_TOKENS] + totals[DECODE_ROWS]
    if numbers[_MOVED] < tokens <= numbers[_MOVED + 1]:
        return FAR
    first = _HULL + regime_of(totals) * SHAPE * 2
    for feature in range(SHAPE):
        value = _shape_feature(totals, feature)
        if value > numbers[first + 1] or value < numbers[first]:
            return _reach_outside(numbers, totals)
        first += 2
    return WITHIN


@entry
def _reach_outside(numbers, totals):
    first = _FAR + regime_of(totals) * len(_LARGE_BY) * 2
    for feature in _LARGE_BY:
        value = _shape_feature(totals, feature)
        if value > numbers[first + 1] or value < numbers[first]:
            return FAR
        first += 2
    return OUTSIDE


@entry
def reach_of(model, totals):
    """WITHIN what was measured in the step's regime, OUTSIDE of it, or FAR outside.

    The hull is a box in the SHAPE features; because it bounds sums and means as well as counts, it cuts the corners
    (many rows times long contexts) that a box over the counts alone would promise.
    """
    return _reach(model.numbers, totals)
