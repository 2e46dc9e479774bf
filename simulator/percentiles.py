"""Percentiles of values that occur several times each.

A run has tens of millions of inter-token latencies, of which a handful is asked for: they are told apart by bins, and
only those bins are sorted that hold what is asked for.
"""

from collections.abc import Sequence

import numpy as np

from ..arrays import F64, I64

BINS = 1 << 16
"""Of a wide range, so that the part to sort is a small one, and few beside the values."""


def at_percentiles(values: F64, count: I64, wanted: Sequence[float], total: int) -> F64:
    """(wanted,): numpy.percentile's linear interpolation over `total` values, the lowest of which are `values`, each
    `count` times. NaN where there are none."""
    if len(values) == 0:
        return np.full(len(wanted), np.nan)
    place = np.asarray(wanted) / 100 * (total - 1)
    below = np.floor(place).astype(np.int64)
    low, high = _at_ranks(values, count, np.array([below, np.minimum(below + 1, count.sum() - 1)]))
    interpolated: F64 = low + (high - low) * (place - below)
    return interpolated


def _at_ranks(values: F64, count: I64, rank: I64) -> F64:
    """Of the shape of `rank`: the value at each, counted from 0."""
    bins = _bins(values)
    until = np.cumsum(np.bincount(bins, count).astype(np.int64))
    place = np.searchsorted(until, rank, side="right")
    found = np.empty(rank.shape)
    for one in np.unique(place):
        inside = np.flatnonzero(bins == one)
        inside = inside[np.argsort(values[inside])]
        ends = until[one] - count[inside].sum() + np.cumsum(count[inside])
        asked = place == one
        found[asked] = values[inside[np.searchsorted(ends, rank[asked], side="right")]]
    return found


def _bins(values: F64) -> I64:
    """(n,): numbers of which a larger one is that of larger values."""
    low, width = values.min(), np.ptp(values)
    if width == 0:
        return np.zeros(len(values), np.int64)
    bins: I64 = ((values - low) / width * BINS).astype(np.int64)
    return bins
