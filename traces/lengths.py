"""Prompt and output lengths from a few figures.

Lengths are spread evenly over their distribution and put in random order, not drawn one by one. So a trace of a
thousand requests has the mean, the median and the 99th percentile that were asked for, whatever the seed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from ..arrays import F64, I32
from ..errors import InputError
from .columns import MAX_TOKENS

Z99 = float(ndtri(0.99))
LOWER_SIGMA = 1.0  # log-spread below the median; chat prompts (Azure 2023) have about that
SHAPES = (0.1, 30.0)  # of the upper half: from "nearly all at the median" to "nearly all at the 99th percentile"
QUADRATURE = 20_000


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of lengths. `quantile` takes probabilities in (0, 1) and gives tokens, not yet rounded."""

    quantile: Callable[[F64], F64]

    def sample(self, count: int, rng: np.random.Generator) -> I32:
        """(count,) tokens, at least 1 each, evenly over the distribution, in random order.

        Their percentiles, as numpy.percentile defines them, are the distribution's. Raises InputError for lengths
        beyond MAX_TOKENS.
        """
        half = 0.5 / count
        rank = rng.permutation(count) / max(count - 1, 1)
        tokens = self.quantile(np.clip(rank, half, 1 - half))
        if tokens.max() > MAX_TOKENS:
            raise InputError(f"lengths up to {tokens.max():.3g} tokens; the most is {MAX_TOKENS:,}")
        return np.clip(np.rint(tokens), 1, MAX_TOKENS).astype(np.int32)


def constant(tokens: float) -> Lengths:
    """Always `tokens`."""
    return Lengths(lambda u: np.full(len(u), float(tokens)))


def uniform(low: float, high: float) -> Lengths:
    """Evenly from `low` to `high`, both included."""
    return Lengths(lambda u: np.floor(low + u * (high - low + 1)))


def lognormal(p50: float, p99: float) -> Lengths:
    """Log-normal with this median and 99th percentile."""
    sigma = math.log(p99 / p50) / Z99
    return Lengths(lambda u: p50 * np.exp(sigma * ndtri(u)))


def three_figures(mean: float, p50: float, p99: float) -> Lengths:
    """A distribution with this mean, median and 99th percentile.

    Over the standard normal score z the log of the length is a straight line below the median (slope LOWER_SIGMA),
    bends over t = z / Z99 in [0, 1] from the median to the 99th percentile, as 1 - (1 - t) ** shape upwards (shape > 1)
    or t ** (1 / shape) downwards, and is a straight line again behind it. So median and percentile hold by
    construction, and `shape` is solved for the mean; with 1 the upper half is log-normal. Raises InputError where no
    shape gives the mean.
    """

    def quantile(u: F64, shape: float) -> F64:
        z = ndtri(u)
        t = np.clip(z / Z99, 0, 1)
        bent = 1 - (1 - t) ** shape if shape > 1 else t ** (1 / shape)
        upper = math.log(p99 / p50) * (bent + np.maximum(z / Z99 - 1, 0))
        tokens: F64 = p50 * np.exp(np.where(z < 0, LOWER_SIGMA * z, upper))
        return tokens

    u = (np.arange(QUADRATURE) + 0.5) / QUADRATURE
    low, high = (float(quantile(u, shape).mean()) for shape in SHAPES)
    if not low < mean < high:
        raise InputError(
            f"no lengths with median {p50:g} and 99th percentile {p99:g} have the mean {mean:g}: "
            f"it can be {low:.0f} to {high:.0f}"
        )
    shape = brentq(lambda shape: float(quantile(u, shape).mean()) - mean, *SHAPES)
    return Lengths(lambda u: quantile(u, shape))
