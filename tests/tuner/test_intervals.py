"""Intervals over repeats cover what they promise."""

import math

import numpy as np
import pytest

from slotune.tuner.intervals import Interval, alone_in, mean_interval, paired_ratio, rounds_alone, spread


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
    assert found.high == pytest.approx(2 + 4.302653 * 2 / math.sqrt(3))  # t(0.975, 2)
    far = mean_interval([0.0] + [9.0, 10.0, 11.0] * 10)
    half = 2.042272 * math.sqrt((3020 - 300**2 / 31) / 30 / 31)  # t(0.975, 30); 10 * (81 + 100 + 121) = 3020
    assert far.low == pytest.approx(300 / 31 - half) and far.low > 0


def test_a_run_without_an_answer_makes_the_mean_infinite_and_one_without_the_value_does_not_count():
    found = mean_interval([10.0, math.inf, 12.0])
    assert (found.value, found.runs) == (math.inf, 3) and math.isnan(found.low) and math.isnan(found.high)
    known = mean_interval([10.0, math.nan, 12.0])
    assert (known.value, known.runs) == (pytest.approx(11), 2)


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
    assert math.isnan(spread([90.0, math.nan, math.inf]))
    assert spread([90.0, math.nan, 110.0]) == pytest.approx(0.2)
    assert math.isnan(spread([0.0, 0.0]))


def test_of_three_comparisons_each_interval_is_wider_by_students_quantile():
    """With two degrees of freedom t(p) = (2 p - 1) / sqrt(2 p (1 - p)), here of p = 1 - 0.025 / 3."""
    found = paired_ratio([math.exp(0.1), 1.0, math.exp(-0.1)], [1.0] * 3, comparisons=3)
    p = 1 - 0.025 / 3
    half = (2 * p - 1) / math.sqrt(2 * p * (1 - p)) * 0.1 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((1, math.exp(-half), math.exp(half)))


def test_pairs_in_which_either_is_not_positive_do_not_count():
    found = paired_ratio([2.0, 0.0, 3.0, math.inf, 8.0], [1.0, 1.0, 0.0, 1.0, 1.0])
    assert (found.value, found.runs) == (pytest.approx(4), 2)
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("wins", "rounds", "comparisons", "bounded"),
    [
        (2, 2, 1, False),  # 0.25 ** 2 = 0.0625 > 0.025
        (3, 3, 1, True),  # 0.0156
        (3, 3, 2, False),  # > 0.0125
        (4, 4, 2, True),  # 0.0039
        (5, 6, 1, False),  # 0.5 ** 5 = 0.031
        (6, 7, 1, True),  # 0.0156
        (6, 7, 2, False),
    ],
)
def test_rounds_in_which_it_alone_has_something_to_show(wins, rounds, comparisons, bounded):
    found = alone_in(wins, rounds, comparisons=comparisons)
    assert (found.value, found.runs) == (0.0, wins)
    assert (found.low, found.high) == (0.0, 0.0) if bounded else math.isnan(found.low) and math.isnan(found.high)


def test_how_many_such_rounds_tell():
    assert [rounds_alone(comparisons) for comparisons in (0, 1, 2, 6, 7, 25)] == [3, 3, 4, 4, 5, 5]
    for comparisons in (1, 2, 7, 25):
        enough = rounds_alone(comparisons)
        assert alone_in(enough, enough, comparisons=comparisons) == Interval(0.0, 0.0, 0.0, enough)
        assert math.isnan(alone_in(enough - 1, enough - 1, comparisons=comparisons).high)
