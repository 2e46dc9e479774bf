"""The baseline of step times: non-negative weights of physics features, which extrapolate as the work grows."""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from ...arrays import F64
from ...simulator.features import (
    CONSTANT,
    DECODE_CONTEXT,
    DECODE_ROWS,
    DENSE_TOKENS,
    FIRST_CAP,
    FIRST_KNEE,
    MAX_CONTEXT,
    MIXED_DECODE_CONTEXT,
    MIXED_DECODE_ROWS,
    PHYSICS,
    PREFILL_CONTEXT,
    PREFILL_ROWS,
    PREFILL_WORK,
    REGIME_NAMES,
    TOKEN_CAPS,
    TOKEN_KNEES,
    physics_of,
)
from ...simulator.step_time import LEAST_CONTEXT, pack_model, step_times_s
from .errors import NEGLIGIBLE, regimes_of
from .samples import StepSamples

MIN_COMPOSITIONS = 5
"""Fewer different steps than this say nothing about held-out error."""
KNEES = tuple(range(FIRST_KNEE, FIRST_CAP))
CAPS = tuple(range(FIRST_CAP, PHYSICS))
MIXED_DECODES = (MIXED_DECODE_ROWS, MIXED_DECODE_CONTEXT)
PLAIN = tuple(i for i in range(PHYSICS) if i not in (*KNEES, *CAPS, *MIXED_DECODES, MAX_CONTEXT))
BASES = tuple(
    PLAIN + sum(extras, ())
    for count in range(5)
    for extras in itertools.combinations((KNEES, MIXED_DECODES, (MAX_CONTEXT,), CAPS), count)
)
"""Physics features that a baseline may use, from simple to rich: knees, decodes that a prefill slows, stragglers and
caps must show in held-out steps, since a steep term found in a few noisy steps would be carried far out of range."""
DENSE_BASES = tuple(basis for basis in BASES if not set(CAPS) & set(basis))
_CONTEXTS = (PREFILL_WORK, PREFILL_CONTEXT, DECODE_CONTEXT, MIXED_DECODE_CONTEXT, MAX_CONTEXT)
LEAST_REACH = dict.fromkeys(_CONTEXTS, LEAST_CONTEXT) | {FIRST_KNEE + i: knee / 2 for i, knee in enumerate(TOKEN_KNEES)}
"""Fewer tokens of context than this cost nothing that shows, and steps a little beyond a knee do not show its slope: a
weight found for them would be noise. So would that of fewer kinds of steps than MIN_COMPOSITIONS: one alone is met
exactly, whatever disturbed it."""
OUTLIER = 3.0
"""A step longer than this factor times its prediction is a stall of the machine, and counts as that factor."""
REWEIGHTINGS = 30
CONVERGED = 1e-5
"""Relative change of the predictions at which reweighting ends."""
LEAST_DEVIATION = 1e-3
"""Where the absolute deviation is rounded off, so that its weight stays finite."""


def fit_baseline(samples: StepSamples, counts: F64, graph_sizes: F64, basis: Sequence[int] = PLAIN) -> F64:
    """Non-negative weights of the physics features of `basis` that minimise the sum of |measured / predicted - 1|.

    Least absolute deviations by iteratively reweighted non-negative least squares (Lawson and Hanson, 1974;
    Schlossmacher, JASA 1973). Deviations are relative to the prediction, which makes it the median of what was
    measured; relative to the measurement it would be drawn towards steps that happened to be short. Unpadded,
    DENSE_TOKENS is but the sum of two others and is left out.
    """
    everything = physics_of(samples.totals, graph_sizes)
    varies = np.ptp(everything, axis=0) > 0  # what is always the same is the constant
    used = [
        i
        for i in basis
        # The constant always is, however few the steps: without any column NNLS ends the process.
        if i == CONSTANT or (varies[i] and _shows(everything[:, i], i) and (i != DENSE_TOKENS or len(graph_sizes)))
    ]
    features = everything[:, used]
    scale = (features / samples.duration_s[:, None]).max(axis=0)  # NNLS's tolerance is absolute
    scaled, importance = features / scale, importance_of(samples, counts)
    reference, reweighting = samples.duration_s, importance
    scaled_weights, predicted = np.zeros(len(used)), np.zeros(len(samples))
    for _ in range(REWEIGHTINGS):
        rooted = np.sqrt(reweighting) / reference
        scaled_weights = _nnls(scaled * rooted[:, None], samples.duration_s * rooted)
        before, predicted = predicted, scaled @ scaled_weights
        if np.abs(predicted - before).max() < CONVERGED * predicted.max():
            break
        reference = np.clip(predicted, samples.duration_s / OUTLIER, samples.duration_s * OUTLIER)
        deviation = np.abs(samples.duration_s - predicted) / reference
        reweighting = importance / np.maximum(deviation, LEAST_DEVIATION)
    weights = np.zeros(PHYSICS)
    shares = scaled_weights * (scaled / samples.duration_s[:, None]).mean(axis=0)
    weights[used] = np.where(shares < NEGLIGIBLE, 0.0, scaled_weights / scale)
    return weights


def _shows(values: F64, feature: int) -> bool:
    """Whether the steps have enough of a feature, and enough of them, to tell its weight.

    Rows whose number is always the same cannot be told from the constant: a client that sends one request at a time
    would make each further row cost a whole step. A cap is told by steps below it and steps at it, enough of either.
    """
    if feature in CAPS:
        below = int((values < TOKEN_CAPS[feature - FIRST_CAP]).sum())
        return MIN_COMPOSITIONS <= below <= len(values) - MIN_COMPOSITIONS
    if feature in (PREFILL_ROWS, DECODE_ROWS):
        least = float(values.min(where=values > 0, initial=np.inf))
    else:
        least = LEAST_REACH.get(feature, -np.inf)
    return int((values > least).sum()) >= MIN_COMPOSITIONS


def importance_of(samples: StepSamples, counts: F64) -> F64:
    """(steps,): how much each step weighs in the fit, 1 in the mean.

    By the root of the number that it stands for; and a regime by no more than the root of its steps' number, since a
    design makes mostly mixed steps, traffic mostly decodes, and neither may be had at the other's cost.
    """
    importance = np.sqrt(counts)
    regimes = regimes_of(samples.totals)
    sums = np.bincount(regimes, importance, len(REGIME_NAMES))
    balanced: F64 = importance / np.sqrt(sums[regimes])
    return balanced / float(balanced.mean())


def _nnls(features: F64, target: F64) -> F64:
    """Non-negative least squares on as many rows as columns: a square root of the Gram matrix has the same minimum.

    No BLAS is called on the many rows, whose threads would make the last digits depend on the machine.
    """
    both = np.column_stack([features, target])
    values, vectors = np.linalg.eigh(np.einsum("ij,ik->jk", both, both))
    root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    weights: F64 = nnls(root[:, :-1], root[:, -1], maxiter=50 * PHYSICS)[0]
    return weights


def positive_s(samples: StepSamples, weights_s: F64, graph_sizes: F64) -> F64:
    """The baseline's times; never 0, as where a fold without any step of a regime leaves that no weight at all."""
    times: F64 = step_times_s(pack_model(weights_s, graph_sizes), samples.totals)
    return np.maximum(times, 1e-9)
