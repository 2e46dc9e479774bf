"""Intervals over repeats cover what they promise."""

import math

import numpy as np
import pytest

from slotune.tuner.intervals import mean_interval, paired_ratio, spread


def test_mean_of_runs_has_students_interval_on_logarithms():
    found = mean_interval([100.0, 100.0 * math.e**0.1, 100.0 * math.e**-0.1])
    half = 4.302653 * 0.1 / math.sqrt(3)  # t(0.975, 2)
    mean = 100 * (1 + 2 * math.cosh(0.1)) / 3
    assert found.value == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx((mean * math.exp(-half), mean * math.exp(half)))
    assert found.runs == 3


def test_one_run_that_went_wrong_is_in_the_mean():
    assert mean_interval([100.0, 100.0, 5000.0]).value == pytest.approx(5200 / 3)


def test_values_that_may_be_zero_are_averaged_as_they_are():
    found = mean_interval([0.0, 2.0, 4.0])
    assert (found.value, found.low) == (2, 0)  # nothing here is negative


def test_one_run_has_a_value_and_no_interval():
    found = mean_interval([7.0, math.nan])
    assert (found.value, found.runs) == (pytest.approx(7), 1)
    assert math.isnan(found.low)
    assert math.isnan(mean_interval([]).value)


def test_drift_that_pairs_share_cancels():
    drift = np.array([1.0, 1.5, 0.7])
    found = paired_ratio(80 * drift, 100 * drift)
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.8, 0.8))


def test_several_comparisons_widen_the_interval_and_missing_pairs_do_not_count():
    values, references = [80.0, 90.0, 85.0, math.nan], [100.0, 100.0, 105.0, 100.0]
    one, three = paired_ratio(values, references), paired_ratio(values, references, comparisons=3)
    assert one.runs == three.runs == 3
    assert three.low < one.low < one.value < one.high < three.high


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    runs = np.exp(rng.normal(math.log(50), 0.2, size=(2000, 3)))
    covered = [found.low <= 50 <= found.high for found in map(mean_interval, runs)]
    assert 0.935 <= np.mean(covered) <= 0.965


def test_pairs_without_a_true_difference_are_rarely_told_apart():
    rng = np.random.default_rng(2)
    rounds = rng.normal(0, 0.5, size=(2000, 4, 1))
    runs = np.exp(rounds + rng.normal(0, 0.1, size=(2000, 4, 2)))
    pairs = [paired_ratio(run[:, 0], run[:, 1]) for run in runs]
    wrong = [not found.low <= 1 <= found.high for found in pairs]
    assert 0.035 <= np.mean(wrong) <= 0.065


def test_spread_is_the_range_over_the_mean():
    assert spread([90.0, 100.0, 110.0]) == pytest.approx(0.2)
    assert math.isnan(spread([90.0]))
