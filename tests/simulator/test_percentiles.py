"""Percentiles of repeated values are those that numpy tells of all of them written out."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slotune.simulator.percentiles import at_percentiles

WANTED = [0.001, 37.0, 50.0, 90.0, 99.0, 99.9, 100.0]
values = st.lists(
    st.tuples(st.one_of(st.floats(0, 1e9), st.sampled_from([0.0, 1.0, 5e-324])), st.integers(1, 9)), min_size=1
)


@given(repeated=values, missing=st.integers(0, 20))
def test_they_are_the_interpolated_ranks_of_the_values_written_out(repeated, missing):
    value, count = np.array([v for v, _ in repeated]), np.array([c for _, c in repeated])
    ordered = np.sort(np.repeat(value, count))
    total = len(ordered) + missing  # values that never come are the highest
    reached = [each for each in WANTED if each / 100 * (total - 1) <= len(ordered) - 1]

    told = at_percentiles(value, count, reached, total)

    place = np.array(reached) / 100 * (total - 1)
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, len(ordered) - 1)
    assert told.tolist() == (ordered[below] + (ordered[above] - ordered[below]) * (place - below)).tolist()
    if not missing:
        assert np.allclose(told, np.percentile(ordered, reached), rtol=1e-12)


def test_a_bin_that_holds_almost_everything_is_told_apart_too():
    value = np.append(np.linspace(0.001, 0.002, 999), 1e9)  # one outlier leaves the others in one bin
    assert at_percentiles(value, np.ones(1000, np.int64), [50.0], 1000)[0] == np.percentile(value, 50)


def test_there_are_none_of_nothing():
    assert all(map(math.isnan, at_percentiles(np.empty(0), np.empty(0, np.int64), [50.0, 99.0], 0)))
