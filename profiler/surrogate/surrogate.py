"""The fit of step times: a baseline (baseline.py), LightGBM on what it leaves, held-out errors.

A step's time is baseline(physics) * exp(residual(shape)). The baseline extrapolates, since its terms grow as the work
does; the residual corrects where there are data and is constant beyond them. Trees alone err by about 40 % out of
range, this form by 2-3 %.

How rich the baseline is and how many trees follow is decided on held-out steps, for the simpler where both do well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import lightgbm as lgb
import numpy as np

from ...arrays import F64, I64, Mask
from ...errors import InputError
from ...simulator.features import DECODE_CONTEXT, MAX_CONTEXT, PREFILL_CONTEXT, PREFILL_WORK, REGIME_NAMES
from ...simulator.step_time import BINNED, RESIDUAL_GROUPS, shapes_of, step_times_s, unmeasured_hull
from .baseline import BASES, DENSE_BASES, MIN_COMPOSITIONS, OUTLIER, PLAIN, fit_baseline, importance_of, positive_s
from .errors import (
    Singles,
    blocks_of_time,
    error_over_time,
    errors_by_regime,
    folds,
    outer_parts,
    regime_error,
    regimes_of,
    simplest,
    with_largest_beyond,
)
from .model import BEYOND, FittedStepTime
from .samples import BELIEVED_STEPS, SIZES, StepSamples, believed, greatest_believed

ROUNDS = (0, 25, 50, 100, 200)
"""Numbers of trees, from simple to rich; 0 is the baseline alone."""
FIRST_USE = 1.5
"""Rules made of other steps are off by less than this factor up to a few times beyond them; a compilation is not."""
BASIS_STEPS = 2000
"""Steps enough to choose a basis by."""
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


def fit(
    samples: StepSamples,
    graph_sizes: F64 | None = None,
    seed: int = 0,
    *,
    in_order: bool = False,
    as_measured_s: F64 | None = None,
    dense: bool = False,
) -> FittedStepTime:
    """Fit step times to measured steps; deterministic, in seconds.

    Args:
        samples: measured steps; alike ones are reduced to their median, and first uses of a shape left out.
        graph_sizes: CUDA-graph sizes that the measured engine had captured; none on a CPU or under enforce_eager.
        seed: for the folds of the cross-validation and LightGBM's sampling.
        in_order: whether the samples follow one another in time. Trees must then also predict steps of other times:
            neighbours share what disturbed the machine, and what is learned of that looks like knowledge of them.
        as_measured_s: (steps,) what the steps took, where `samples` have the machine's drift taken out: engines drift
            too, so the mean and every error that is told are those of steps as they were.
        dense: whether the model is known to have no experts, of whose steps no further token reads further weights.

    Raises InputError for durations that are not positive and finite, or for too few different steps.
    """
    _check(samples)
    sizes = np.empty(0) if graph_sizes is None else graph_sizes
    usual = ~first_uses(samples, sizes)
    raw = samples if as_measured_s is None else StepSamples(samples.totals, as_measured_s)
    hull, samples, raw = hull_of(samples), samples[usual], raw[usual]
    medians, owner, places = merge_alike(samples)
    judged = merge_alike(raw)[0]
    counts = np.bincount(owner).astype(np.float64)
    if len(medians) < MIN_COMPOSITIONS:
        raise InputError(f"{len(medians)} different steps: a fit needs at least {MIN_COMPOSITIONS}; record more")
    parts = folds(medians, seed)
    form = _Form(sizes, _choose_basis(medians, counts, sizes, parts, DENSE_BASES if dense else BASES), seed)
    held_out_s, known = form.held_out(medians, counts, parts)
    later_s, later = held_out_s, known
    if in_order:
        later_s, later = form.held_out(medians, counts, blocks_of_time(places, seed))
    best = min(_fewest_trees(held_out_s, known, medians), _fewest_trees(later_s, later, medians))
    weights, residual = form.fitted(medians, counts, ROUNDS[best])
    text = None if residual is None else residual.model_to_string()
    fitted = FittedStepTime(weights, sizes, hull, text)
    scale = _missing_share(fitted, raw)
    singles = Singles(raw.duration_s, owner)
    errors = errors_by_regime(held_out_s[best] * scale, known, judged, singles)
    if in_order and later.any():
        told = later[owner]
        times_s = (later_s[best] * scale)[owner[told]]
        seen_s = step_times_s(fitted.model, raw.totals[told]) * scale
        errors += error_over_time(times_s, seen_s, np.minimum(raw.duration_s[told], OUTLIER * times_s))
    for outer, asked in outer_parts(medians, greatest_believed(samples.totals[:, SIZES]), MIN_COMPOSITIONS):
        beyond_s = form.held_out(medians, counts, [outer])[0][best] * scale
        errors += (regime_error(BEYOND, beyond_s, asked, judged, singles),)
    return replace(fitted, weights_s=weights * scale, held_out=with_largest_beyond(errors))


def are_enough(samples: StepSamples) -> bool:
    """Whether there are steps of enough kinds for a fit."""
    return len(merge_alike(samples)[0]) >= MIN_COMPOSITIONS


def _check(samples: StepSamples) -> None:
    bad = ~(np.isfinite(samples.duration_s) & (samples.duration_s > 0))
    if bad.any():
        worst = samples.duration_s[bad][0] * 1e3
        raise InputError(f"step durations: {int(bad.sum())} of {len(bad)} are not above 0, the first is {worst:g} ms")


def merge_alike(samples: StepSamples) -> tuple[StepSamples, I64, I64]:
    """Steps of the same rows and nearly the same contexts as one, that of median duration; which one each sample went
    into, and its place among the samples.

    Of an even number, the mean of the two in the middle, and the place of the first.
    """
    key = samples.totals.copy()
    contexts = [PREFILL_WORK, PREFILL_CONTEXT, DECODE_CONTEXT, MAX_CONTEXT]
    key[:, contexts] = np.floor(np.log2(np.maximum(key[:, contexts], 1.0)) * ALIKE_PER_OCTAVE)
    _, owner, counts = np.unique(key, axis=0, return_inverse=True, return_counts=True)
    owner = owner.ravel()
    order = np.lexsort((*samples.totals.T, samples.duration_s, owner))
    starts = np.cumsum(counts) - counts
    places = order[starts + (counts - 1) // 2]
    below, above = samples[places], samples[order[starts + counts // 2]]
    middle = StepSamples((below.totals + above.totals) / 2, (below.duration_s + above.duration_s) / 2)
    return middle, owner, places


def fit_residual(samples: StepSamples, counts: F64, baseline_s: F64, seed: int, rounds: int) -> lgb.Booster:
    """LightGBM on the log of measured over baseline time, by the shape features, least absolute deviations."""
    data = lgb.Dataset(
        shapes_of(samples.totals)[:, :BINNED],
        np.log(samples.duration_s / baseline_s),
        weight=importance_of(samples, counts),
    )
    leaf = max(2, len(samples) // 100)
    return lgb.train({**LIGHTGBM, "min_data_in_leaf": leaf, "seed": seed}, data, num_boost_round=rounds)


def _choose_basis(
    samples: StepSamples, counts: F64, graph_sizes: F64, parts: Sequence[Mask], bases: Sequence[Sequence[int]]
) -> Sequence[int]:
    """The simplest of `bases` that predicts held-out steps as well as any."""
    some = slice(None, None, max(1, len(samples) // BASIS_STEPS))
    samples, counts = samples[some], counts[some]
    predicted = np.ones((len(bases), len(samples)))
    for held in [part[some] for part in parts]:
        for i, basis in enumerate(bases):
            weights = fit_baseline(samples[~held], counts[~held], graph_sizes, basis)
            predicted[i, held] = positive_s(samples[held], weights, graph_sizes)
    return bases[simplest(predicted, samples.duration_s)] if parts else PLAIN


@dataclass(frozen=True, slots=True)
class _Form:
    """What is fitted, before it is: a baseline of these features, and a residual on it."""

    graph_sizes: F64
    basis: Sequence[int]
    seed: int

    def fitted(self, samples: StepSamples, counts: F64, rounds: int) -> tuple[F64, lgb.Booster | None]:
        """The baseline's weights, and the residual of so many trees; None of none."""
        weights = fit_baseline(samples, counts, self.graph_sizes, self.basis)
        base_s = positive_s(samples, weights, self.graph_sizes)
        return weights, fit_residual(samples, counts, base_s, self.seed, rounds) if rounds else None

    def held_out(self, samples: StepSamples, counts: F64, parts: Sequence[Mask]) -> tuple[F64, Mask]:
        """(ROUNDS, steps): predictions of the held-out `parts` with so many trees; and of which steps there are any."""
        predicted, known = np.ones((len(ROUNDS), len(samples))), np.zeros(len(samples), np.bool_)
        for held in parts:
            weights, booster = self.fitted(samples[~held], counts[~held], ROUNDS[-1])
            assert booster is not None
            shapes = shapes_of(samples[held].totals)[:, :BINNED]
            base_s = positive_s(samples[held], weights, self.graph_sizes)
            for i, rounds in enumerate(ROUNDS):
                ratio = np.exp(booster.predict(shapes, num_iteration=rounds, num_threads=1)) if rounds else 1.0
                predicted[i, held] = base_s * ratio
            known |= held
        return predicted, known


def _fewest_trees(predicted: F64, known: Mask, samples: StepSamples) -> int:
    """The place in ROUNDS of the fewest trees that predict held-out steps as well as any."""
    return simplest(predicted[:, known], samples.duration_s[known]) if known.any() else 0


def _missing_share(fitted: FittedStepTime, samples: StepSamples) -> float:
    """The factor by which the total time of all steps exceeds its prediction, stalls cut off at OUTLIER.

    The fit is one of medians, because stalls must not bend it; but latencies add up means.
    """
    predicted = step_times_s(fitted.model, samples.totals)
    return math.fsum(np.minimum(samples.duration_s, OUTLIER * predicted)) / math.fsum(predicted)  # in any order


def stalled_share(fitted: FittedStepTime, samples: StepSamples) -> float:
    """The share of the recorded time that is cut off at OUTLIER, and so in no prediction; without first uses, which are
    no stalls."""
    samples = samples[~first_uses(samples, fitted.graph_sizes)]
    rest_s = samples.duration_s - OUTLIER * step_times_s(fitted.model, samples.totals)
    return float(np.maximum(rest_s, 0.0).sum() / samples.duration_s.sum())


def first_uses(samples: StepSamples, graph_sizes: F64) -> Mask:
    """(steps,): those of sizes that few come near, and that took more than FIRST_USE times what the others say of them:
    the first of a shape is compiled or tuned. Nothing beside it tells, and it would set the price of large steps."""
    alone = ~believed(samples)
    if not alone.any():
        return alone
    medians, owner, _ = merge_alike(samples[~alone])
    if len(medians) < MIN_COMPOSITIONS:
        return np.zeros(len(samples), np.bool_)
    weights = fit_baseline(medians, np.bincount(owner).astype(np.float64), graph_sizes, BASES[-1])
    return alone & (samples.duration_s > FIRST_USE * positive_s(samples, weights, graph_sizes))


def first_use_note(fitted: FittedStepTime, samples: StepSamples) -> str | None:
    """What is to be said of the samples that the fit to them left out, where it did."""
    count = int(first_uses(samples, fitted.graph_sizes).sum())
    told = f"steps that took more than {FIRST_USE:g} times what the others tell of that size, too few to be believed"
    return f"{told}, left out: {count}" if count else None


def hull_of(samples: StepSamples) -> F64:
    """(regimes, SHAPE, 2): least and greatest believed value of each shape feature; inverted where a regime has too few
    steps to believe."""
    hull = unmeasured_hull()
    shapes, regimes = shapes_of(samples.totals), regimes_of(samples.totals)
    for regime in range(len(REGIME_NAMES)):
        mine = shapes[regimes == regime]
        if len(mine) >= BELIEVED_STEPS:
            hull[regime] = np.stack([mine.min(axis=0), greatest_believed(mine)], axis=1)
    return hull
