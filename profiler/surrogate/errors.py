"""How well a fit predicts steps that it has not seen: folds, the choice of the simplest model, errors by regime."""

from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from ...arrays import F64, I64, Mask
from ...simulator.features import (
    DECODE_ONLY,
    DECODE_ROWS,
    MIXED,
    PREFILL_ONLY,
    PREFILL_ROWS,
    PREFILL_TOKENS,
    REGIME_NAMES,
    regime_of,
)
from .model import BEYOND, OVER_TIME, RegimeError, conformal_quantile
from .samples import SIZES, StepSamples

FOLDS = 5
BLOCKS = 20
"""Of time: so few that a block is longer than a disturbance, so many that each fold has some of every part."""
LEAST_OF_PART = 50
"""Steps: the total of fewer tells what single steps are off by, and not how fast the machine was."""
STRETCH = 200
"""Steps, some seconds: about as long as a request lasts, whose latency is no better than these steps are predicted."""
STRETCHES = 100
"""As many have a slowest hundredth."""
NEGLIGIBLE = 1e-6
"""A log error below this is arithmetic."""
LARGE_TOKENS = {DECODE_ONLY: 32, PREFILL_ONLY: 512, MIXED: 512}
"""Steps of more tokens are `large`: about where decoding stops being free and where a chunk fills a GPU."""
LEAST_INNER_SHARE = 1 / 3
"""A fit on a smaller share of a regime's steps is no longer the fit whose error beyond them is asked for."""
GROUPS_PER_OCTAVE = 2
"""Steps whose numbers of tokens and rows agree within a factor of 2 ** (1 / this) are never split between folds."""


def folds(samples: StepSamples, seed: int) -> list[Mask]:
    """Masks of held-out steps. All contexts of one size of step stay together: a simulation meets sizes in between.

    Unless a kind of step would be held out as a whole, as the decodes of a client that sends one request at a time:
    its error would be that of a fit to the other kinds alone. Its steps are spread over the folds one by one.
    """
    sizes = samples.totals[:, [PREFILL_TOKENS, PREFILL_ROWS, DECODE_ROWS]]
    octaves = np.round(np.log2(sizes + 1) * GROUPS_PER_OCTAVE)
    _, group = np.unique(octaves, axis=0, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(int(group.max()) + 1)
    fold = shuffled[group.ravel()] % FOLDS
    regimes = regimes_of(samples.totals)
    for regime in range(len(REGIME_NAMES)):
        mine = np.flatnonzero(regimes == regime)
        if len(mine) and np.ptp(fold[mine]) == 0:
            fold[mine] = np.random.default_rng(seed).permutation(len(mine)) % FOLDS
    return [fold == k for k in range(FOLDS) if 0 < (fold == k).sum() < len(fold)]


def blocks_of_time(places: I64, seed: int) -> list[Mask]:
    """Masks of held-out steps by their places in time: neighbours, which share what disturbs the machine, together."""
    blocks = np.argsort(np.argsort(places)) * BLOCKS // len(places)
    fold = np.random.default_rng(seed).permutation(BLOCKS)[blocks] % FOLDS
    return [fold == k for k in range(FOLDS) if 0 < (fold == k).sum() < len(fold)]


def outer_parts(samples: StepSamples, largest: F64, least: int) -> list[tuple[Mask, Mask]]:
    """For prefill tokens, decodes and the longest context each: which steps to hold out, and of which to ask the error.

    Held out are steps above half of the `largest` value that is believed. Asked for are those of them whose regime
    keeps LEAST_INNER_SHARE of its steps in the fit. Where these are fewer than `least` the pair is left out: their
    error would be noise.
    """
    sizes, regimes = samples.totals[:, SIZES], regimes_of(samples.totals)
    parts = []
    for outer in (sizes > largest / 2).T:
        inner = np.bincount(regimes, ~outer, len(REGIME_NAMES)) / np.bincount(
            regimes, minlength=len(REGIME_NAMES)
        ).clip(1)
        parts.append((outer, outer & (inner >= LEAST_INNER_SHARE)[regimes]))
    return [(outer, asked) for outer, asked in parts if asked.sum() >= least]


def error_over_time(predicted_s: F64, seen_s: F64, measured_s: F64) -> tuple[RegimeError, ...]:
    """By how much the total predicted time of each of BLOCKS parts of the recording is off, or of fewer where these
    would have less than LEAST_OF_PART steps each; none where there are not two.

    Where the machine's speed changes, or the parts are of several machines, each kind of step has a median that is
    right nowhere; nothing that is told of single kinds of steps would show it.

    Args:
        predicted_s: (steps,) in their order in time, by fits to steps of other times: contexts grow with time, so that
            trees would know a part by them.
        seen_s: (steps,) by the fit to all steps.
        measured_s: (steps,), stalls cut off.
    """
    parts = min(BLOCKS, len(measured_s) // LEAST_OF_PART)
    if parts < 2:
        return ()
    part = np.arange(len(measured_s)) * parts // len(measured_s)
    off_by = np.abs(np.bincount(part, predicted_s) / np.bincount(part, measured_s) - 1)
    error = RegimeError(
        OVER_TIME,
        parts,
        float(np.median(off_by)),
        float(off_by.mean()),
        conformal_quantile(off_by),
        float(predicted_s.sum() / measured_s.sum() - 1),
        _slowest_stretches(np.maximum(predicted_s, seen_s), measured_s),
    )
    return (error,)


def _slowest_stretches(predicted_s: F64, measured_s: F64) -> float | None:
    """The share by which the slowest hundredth of all stretches of STRETCH steps took longer than predicted; None with
    fewer than STRETCHES of them, and 0 where as many steps taken at random are about as slow: single steps scatter,
    such as prefills, and nothing slowed the machine for a while.

    Twentieths of a recording average over many spells in which another tenant, a low clock or one slow replica of many
    makes every step longer, and a p99 is made of these. What is predicted is the longer of two times: a fit to other
    times may lack a kind of step that a benchmark made in one part only, as a batch of a thousand; the fit
    to all may know a part by its contexts.
    """
    count = len(measured_s) // STRETCH
    if count < STRETCHES:
        return None

    def slowest(order: I64) -> float:
        measured, predicted = (one[order].reshape(count, STRETCH).sum(axis=1) for one in (measured_s, predicted_s))
        return float(np.quantile(measured / predicted - 1, 0.99))

    used = np.arange(count * STRETCH)
    in_order, by_chance = slowest(used), slowest(np.random.default_rng(0).permutation(used))
    return in_order if in_order >= 2 * by_chance else 0.0


def simplest(predicted_s: F64, measured_s: F64) -> int:
    """Index of the simplest model that is as good as the best.

    As good: its mean absolute log error is larger by no more than one standard error of the difference (the rule of
    Breiman et al., Classification and Regression Trees, 1984, section 3.4.3).

    Args:
        predicted_s: (models, steps) held-out predictions, models from simple to complex.
        measured_s: (steps,)
    """
    losses = np.abs(np.log(predicted_s / measured_s))
    worse = losses - losses[np.argmin(losses.mean(axis=1))]
    allowed = worse.std(axis=1) / np.sqrt(len(measured_s)) + NEGLIGIBLE
    return int(np.argmax(worse.mean(axis=1) <= allowed))


def regimes_of(totals: F64) -> I64:
    """DECODE_ONLY, PREFILL_ONLY or MIXED of each step."""
    return np.array([regime_of(one) for one in totals], dtype=np.int64)


def regime_names(totals: F64) -> list[str]:
    """`decode small`, `mixed large` and so on, for each step."""
    kinds, tokens = regimes_of(totals), totals[:, PREFILL_TOKENS] + totals[:, DECODE_ROWS]
    sizes = np.where(tokens > np.array([LARGE_TOKENS[int(kind)] for kind in kinds]), "large", "small")
    return [f"{REGIME_NAMES[kind]} {size}" for kind, size in zip(kinds, sizes, strict=True)]


@dataclass(frozen=True, slots=True)
class Singles:
    """The steps as they were measured, before alike ones were made one."""

    duration_s: F64
    owner: I64
    """Which of the merged steps each went into."""


def errors_by_regime(predicted_s: F64, known: Mask, samples: StepSamples, singles: Singles) -> tuple[RegimeError, ...]:
    """Errors of held-out predictions, of all steps and of each regime that has any.

    Args:
        predicted_s: (steps,) for the merged steps `samples`.
        known: of which there is a prediction.
    """
    names = np.array(regime_names(samples.totals))
    regimes = ["all", *(f"{kind} {size}" for kind in REGIME_NAMES for size in ("small", "large"))]
    masks = [(name, known & ((names == name) | (name == "all"))) for name in regimes]
    return tuple(regime_error(name, predicted_s, mask, samples, singles) for name, mask in masks if mask.any())


def regime_error(regime: str, predicted_s: F64, mask: Mask, samples: StepSamples, singles: Singles) -> RegimeError:
    """The errors of the held-out predictions in `mask`, at least one.

    The bound is one on single steps, which scatter around the median of their kind; so is the bias, since stalls are in
    the time of single steps and in no median.
    """
    errors, single = np.abs(predicted_s[mask] / samples.duration_s[mask] - 1), mask[singles.owner]
    predicted, measured = predicted_s[singles.owner[single]], singles.duration_s[single]
    scattered = np.abs(predicted / measured - 1)
    return RegimeError(
        regime=regime,
        compositions=len(errors),
        median=float(np.median(errors)),
        mean=float(errors.mean()),
        p90=conformal_quantile(scattered),
        bias=float(predicted.sum() / measured.sum() - 1),
    )


def with_largest_beyond(errors: tuple[RegimeError, ...]) -> tuple[RegimeError, ...]:
    """The errors with that of the one way beyond what was fitted in which it is largest, where any could be told."""
    beyond = max((error for error in errors if error.regime == BEYOND), key=attrgetter("largest"), default=None)
    return tuple(error for error in errors if error.regime != BEYOND or error is beyond)
