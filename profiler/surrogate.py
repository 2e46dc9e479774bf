"""The fit of step times: non-negative baseline on physics features, LightGBM on what it leaves, held-out errors.

A step's time is baseline(physics) * exp(residual(shape)). The baseline extrapolates, since its terms grow as the work
does; the residual corrects where there are data and is constant beyond them. Trees alone err by about 40 % out of
range, this form by 2-3 %.
"""

from dataclasses import dataclass, replace

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from ..errors import InputError
from ..simulator.features import (
    DECODE_CONTEXT,
    DECODE_ONLY,
    DECODE_ROWS,
    DENSE_TOKENS,
    MAX_CONTEXT,
    MIXED,
    PHYSICS,
    PREFILL_CONTEXT,
    PREFILL_ONLY,
    PREFILL_ROWS,
    PREFILL_TOKENS,
    PREFILL_WORK,
    REGIME_NAMES,
    physics_of,
    regime_of,
)
from ..simulator.step_time import BINNED, RESIDUAL_GROUPS, SHAPE, pack_model, shapes_of, step_times_s
from .surrogate_model import COVERAGE, FittedStepTime, RegimeError, conformal_quantile
from .surrogate_samples import StepSamples

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

FOLDS = 5
MIN_COMPOSITIONS = 5
"""Fewer different steps than this say nothing about held-out error."""
ROUNDS = (0, 25, 50, 100, 200)
"""Numbers of trees among which cross-validation chooses; 0 is the baseline alone."""
AS_GOOD = 1.01
NEGLIGIBLE = 1e-6
"""A log error below this is arithmetic."""
OUTLIER = 3.0
"""A step longer than this factor times its prediction is a stall of the machine, and counts as that factor."""
LARGE_TOKENS = {DECODE_ONLY: 32, PREFILL_ONLY: 512, MIXED: 512}
"""Steps of more tokens are `large`: about where decoding stops being free and where a chunk fills a GPU."""
REWEIGHTINGS = 20
GROUPS_PER_OCTAVE = 2
"""Steps whose numbers of tokens and rows agree within a factor of 2 ** (1 / this) are never split between folds."""

ALIKE_PER_OCTAVE = 16
"""Contexts within a factor of 2 ** (1 / this), 4 %, make steps alike: what they differ by is noise."""

LIGHTGBM = {
    "objective": "regression_l1",
    "learning_rate": 0.1,
    "num_leaves": 12,
    "max_bin": 31,  # the tables have (bins + 1) ** 3 cells: 1 MB for all groups
    "min_data_in_bin": 1,
    "lambda_l2": 1.0,
    "interaction_constraints": [list(group) for group in RESIDUAL_GROUPS],
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "use_missing": False,
    "verbosity": -1,
}


@dataclass(frozen=True, slots=True)
class _Fold:
    """Predictions for the steps of one fold from a fit on the others, for each entry of ROUNDS."""

    held: npt.NDArray[np.bool_]
    predicted_s: F64
    """(len(ROUNDS), held steps)"""


def fit(samples: StepSamples, graph_sizes: F64 | None = None, seed: int = 0) -> FittedStepTime:
    """Fit step times to measured steps; deterministic, in seconds.

    Args:
        samples: measured steps, in any order; alike ones are reduced to their median.
        graph_sizes: CUDA-graph sizes that the measured engine had captured; none on a CPU or under enforce_eager.
        seed: for the folds of the cross-validation and LightGBM's sampling.

    Raises InputError for durations that are not positive and finite, or for too few different steps.
    """
    _check(samples)
    sizes = np.empty(0) if graph_sizes is None else graph_sizes
    medians, counts = merge_alike(samples)
    if len(medians) < MIN_COMPOSITIONS:
        raise InputError(f"{len(medians)} different steps: a fit needs at least {MIN_COMPOSITIONS}; record more")
    folds = [_held_out(medians, counts, sizes, seed, fold) for fold in _folds(medians, seed)]
    best = _best_rounds(folds, medians)
    fitted = _fit_all(medians, counts, sizes, seed, ROUNDS[best])
    held_out = _errors(folds, best, medians)
    return replace(_unbiased(fitted, samples), hull=hull_of(samples), held_out=held_out)


def _check(samples: StepSamples) -> None:
    bad = ~(np.isfinite(samples.duration_s) & (samples.duration_s > 0))
    if bad.any():
        worst = samples.duration_s[bad][0] * 1e3
        raise InputError(f"step durations: {int(bad.sum())} of {len(bad)} are not above 0, the first is {worst:g} ms")


def merge_alike(samples: StepSamples) -> tuple[StepSamples, F64]:
    """Steps of the same rows and nearly the same contexts as one, that of median duration, and how many it stands for.

    Of an even number, the mean of the two in the middle.
    """
    key = samples.totals.copy()
    contexts = [PREFILL_WORK, PREFILL_CONTEXT, DECODE_CONTEXT, MAX_CONTEXT]
    key[:, contexts] = np.floor(np.log2(np.maximum(key[:, contexts], 1.0)) * ALIKE_PER_OCTAVE)
    _, owner, counts = np.unique(key, axis=0, return_inverse=True, return_counts=True)
    order = np.lexsort((*samples.totals.T, samples.duration_s, owner.ravel()))
    starts = np.cumsum(counts) - counts
    below, above = samples[order[starts + (counts - 1) // 2]], samples[order[starts + counts // 2]]
    middle = StepSamples((below.totals + above.totals) / 2, (below.duration_s + above.duration_s) / 2)
    return middle, counts.astype(np.float64)


def regimes_of(totals: F64) -> I64:
    """DECODE_ONLY, PREFILL_ONLY or MIXED of each step."""
    return np.array([regime_of(one) for one in totals], dtype=np.int64)


def fit_baseline(samples: StepSamples, counts: F64, graph_sizes: F64) -> F64:
    """Non-negative weights of the physics features that minimise the sum of |predicted / measured - 1|.

    Least absolute deviations by iteratively reweighted non-negative least squares (Lawson and Hanson, 1974;
    Schlossmacher, JASA 1973); steps that stand for many weigh more by the square root of their number.
    """
    relative = physics_of(samples.totals, graph_sizes) / samples.duration_s[:, None]
    if not len(graph_sizes):
        relative[:, DENSE_TOKENS] = 0.0  # unpadded, it is but the sum of prefill_tokens and decode_rows
    scale = np.maximum(relative.max(axis=0), 1e-300)  # columns of like size: NNLS stops on an absolute tolerance
    importance = np.sqrt(counts / counts.mean())
    weights = np.zeros(PHYSICS)
    reweighting = importance
    for _ in range(REWEIGHTINGS):
        rooted = np.sqrt(reweighting)
        weights, _ = nnls(relative / scale * rooted[:, None], rooted, maxiter=50 * PHYSICS)
        deviation = np.abs(relative / scale @ weights - 1)
        reweighting = importance / np.maximum(deviation, 1e-3)
    per_unit: F64 = weights / scale
    per_unit[per_unit * relative.mean(axis=0) < NEGLIGIBLE] = 0.0
    return per_unit


def fit_residual(samples: StepSamples, counts: F64, baseline_s: F64, seed: int, rounds: int) -> lgb.Booster:
    """LightGBM on the log of measured over baseline time, by the shape features, least absolute deviations."""
    data = lgb.Dataset(
        shapes_of(samples.totals)[:, :BINNED],
        np.log(samples.duration_s / baseline_s),
        weight=np.sqrt(counts / counts.mean()),
    )
    leaf = max(2, len(samples) // 100)
    return lgb.train({**LIGHTGBM, "min_data_in_leaf": leaf, "seed": seed}, data, num_boost_round=rounds)


def _baseline_s(totals: F64, weights_s: F64, graph_sizes: F64) -> F64:
    times: F64 = step_times_s(pack_model(weights_s, graph_sizes), totals)
    return np.maximum(times, 1e-9)  # a fold without any step of a regime may leave it no weight at all


def _fit_all(samples: StepSamples, counts: F64, graph_sizes: F64, seed: int, rounds: int) -> FittedStepTime:
    weights = fit_baseline(samples, counts, graph_sizes)
    residual = None
    if rounds:
        base = _baseline_s(samples.totals, weights, graph_sizes)
        residual = fit_residual(samples, counts, base, seed, rounds).model_to_string()
    return FittedStepTime(weights, graph_sizes, residual=residual)


def _folds(samples: StepSamples, seed: int) -> list[npt.NDArray[np.bool_]]:
    """Masks of held-out steps. All contexts of one size of step stay together: a simulation meets sizes in between."""
    sizes = samples.totals[:, [PREFILL_TOKENS, PREFILL_ROWS, DECODE_ROWS]]
    octaves = np.round(np.log2(sizes + 1) * GROUPS_PER_OCTAVE)
    _, group = np.unique(octaves, axis=0, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(int(group.max()) + 1)
    fold = shuffled[group.ravel()] % FOLDS
    return [fold == k for k in range(FOLDS) if 0 < (fold == k).sum() < len(fold)]


def _held_out(samples: StepSamples, counts: F64, graph_sizes: F64, seed: int, held: npt.NDArray[np.bool_]) -> _Fold:
    train, test = samples[~held], samples[held]
    weights = fit_baseline(train, counts[~held], graph_sizes)
    base = _baseline_s(train.totals, weights, graph_sizes)
    booster = fit_residual(train, counts[~held], base, seed, ROUNDS[-1])
    predicted = np.tile(_baseline_s(test.totals, weights, graph_sizes), (len(ROUNDS), 1))
    shapes = shapes_of(test.totals)[:, :BINNED]
    for i, rounds in enumerate(ROUNDS):
        if rounds:
            predicted[i] *= np.exp(booster.predict(shapes, num_iteration=rounds, num_threads=1))
    return _Fold(held, predicted)


def _best_rounds(folds: list[_Fold], samples: StepSamples) -> int:
    """Index into ROUNDS of the fewest trees whose held-out error, on the log scale, is as good as the least."""
    if not folds:
        return 0
    losses = [np.abs(np.log(fold.predicted_s / samples.duration_s[fold.held])).sum(axis=1) for fold in folds]
    mean = np.sum(losses, axis=0) / len(samples)
    return int(np.argmax(mean <= mean.min() * AS_GOOD + NEGLIGIBLE))


def _errors(folds: list[_Fold], best: int, samples: StepSamples) -> tuple[RegimeError, ...]:
    """Held-out errors of all steps and of each regime that has any."""
    predicted = np.full(len(samples), np.nan)
    for fold in folds:
        predicted[fold.held] = fold.predicted_s[best]
    names = np.array(regime_names(samples.totals))
    known = np.isfinite(predicted)
    regimes = ["all", *(f"{kind} {size}" for kind in REGIME_NAMES for size in ("small", "large"))]
    masks = [(name, known & ((names == name) | (name == "all"))) for name in regimes]
    return tuple(regime_error(name, predicted[m], samples.duration_s[m]) for name, m in masks if m.any())


def regime_names(totals: F64) -> list[str]:
    """`decode small`, `mixed large` and so on, for each step."""
    kinds, tokens = regimes_of(totals), shapes_of(totals)[:, 0]
    sizes = np.where(tokens > np.array([LARGE_TOKENS[int(kind)] for kind in kinds]), "large", "small")
    return [f"{REGIME_NAMES[kind]} {size}" for kind, size in zip(kinds, sizes, strict=True)]


def regime_error(regime: str, predicted_s: F64, measured_s: F64) -> RegimeError:
    """The errors of some held-out predictions, none of them empty."""
    errors = np.abs(predicted_s / measured_s - 1)
    return RegimeError(
        regime=regime,
        compositions=len(errors),
        median=float(np.median(errors)),
        mean=float(errors.mean()),
        p90=conformal_quantile(errors, COVERAGE),
        bias=float(predicted_s.sum() / measured_s.sum() - 1),
    )


def _unbiased(fitted: FittedStepTime, samples: StepSamples) -> FittedStepTime:
    """`fitted` scaled so that it predicts the total time of all steps, stalls cut off at OUTLIER.

    The fit is one of medians, because stalls must not bend it; but latencies add up means.
    """
    predicted = step_times_s(fitted.model, samples.totals)
    total = np.minimum(samples.duration_s, OUTLIER * predicted).sum()
    return FittedStepTime(fitted.weights_s * (total / predicted.sum()), fitted.graph_sizes, residual=fitted.residual)


def hull_of(samples: StepSamples) -> F64:
    """(regimes, SHAPE, 2): least and greatest of each shape feature; inverted where a regime has no steps."""
    hull = np.empty((len(REGIME_NAMES), SHAPE, 2))
    hull[..., 0], hull[..., 1] = np.inf, -np.inf
    shapes, regimes = shapes_of(samples.totals), regimes_of(samples.totals)
    for regime in range(len(REGIME_NAMES)):
        mine = shapes[regimes == regime]
        if len(mine):
            hull[regime] = np.stack([mine.min(axis=0), mine.max(axis=0)], axis=1)
    return hull
