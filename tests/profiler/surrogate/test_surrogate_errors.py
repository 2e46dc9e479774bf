"""How errors are told, on numbers that can be followed: which steps are held out, what counts as off by how much."""

import numpy as np
import pytest

from slotune.profiler.surrogate.errors import (
    Singles,
    blocks_of_time,
    error_over_time,
    errors_by_regime,
    folds,
    outer_parts,
    regime_error,
    regime_names,
    simplest,
    with_largest_beyond,
)
from slotune.profiler.surrogate.model import BEYOND, OVER_TIME, RegimeError
from slotune.profiler.surrogate.samples import StepSamples
from slotune.simulator.features import DECODE_ROWS, MAX_CONTEXT, PREFILL_ROWS, PREFILL_TOKENS, TOTALS


def totals(decodes: list[int], prefill: list[int], context: list[int] | None = None) -> np.ndarray:
    """Steps of so many decodes and prefill tokens of one prompt."""
    made = np.zeros((len(decodes), TOTALS))
    made[:, DECODE_ROWS], made[:, PREFILL_TOKENS] = decodes, prefill
    made[:, PREFILL_ROWS] = np.array(prefill) > 0
    made[:, MAX_CONTEXT] = context or 0
    return made


def samples(made: np.ndarray) -> StepSamples:
    return StepSamples(made, np.ones(len(made)))


def test_kinds_of_steps_by_what_is_in_them_and_how_many_tokens() -> None:
    made = totals([32, 33, 0, 0, 12, 13], [0, 0, 512, 513, 500, 500])
    kinds = ("decode small", "decode large", "prefill small", "prefill large", "mixed small", "mixed large")
    assert tuple(regime_names(made)) == kinds


def test_steps_of_one_size_are_held_out_together() -> None:
    rows = np.repeat([1, 2, 4, 8, 16, 32, 64, 128, 256, 512], 7)
    held_out = folds(samples(totals(rows.tolist(), [0] * 70)), seed=3)
    assert np.sum(held_out, axis=0).tolist() == [1] * 70 and len(held_out) == 5
    assert [mask.sum() for mask in held_out] == [14] * 5
    assert not any(set(rows[mask]) & set(rows[~mask]) for mask in held_out)


def test_sizes_that_are_nearly_one_are_held_out_together_and_no_fold_is_empty() -> None:
    """64 and 66 rows lie within half an octave, 64 and 96 do not."""
    rows = np.repeat([1, 4, 16, 64, 66, 256, 1024, 96], 2)
    near, apart = set(), set()
    for seed in range(10):
        held_out = folds(samples(totals(rows.tolist(), [0] * 16)), seed)
        near |= {any(mask[rows == 64].any() and not mask[rows == 66].all() for mask in held_out)}
        apart |= {any(mask[rows == 64].any() and not mask[rows == 96].all() for mask in held_out)}
    assert near == {False} and True in apart
    assert [mask.tolist() for mask in folds(samples(totals([1, 1, 64], [0] * 3)), seed=0)] in (
        [[True, True, False], [False, False, True]],
        [[False, False, True], [True, True, False]],
    )
    assert all(0 < mask.sum() < 3 for mask in blocks_of_time(np.array([5, 3, 9]), seed=0))


def test_a_kind_of_one_size_is_spread_over_the_folds() -> None:
    """Else all decodes would be held out at once, and told by prefills alone."""
    held_out = folds(samples(totals([1] * 50 + [0] * 5, [0] * 50 + [1, 8, 64, 512, 4096])), seed=0)
    assert [mask[:50].sum() for mask in held_out] == [10] * 5
    assert np.sum(held_out, axis=0).tolist() == [1] * 55


def test_neighbours_in_time_are_held_out_together() -> None:
    """100 steps are 20 blocks of five, four blocks a fold."""
    places = np.random.default_rng(0).permutation(100) * 10
    held_out = blocks_of_time(places, seed=1)
    assert [mask.sum() for mask in held_out] == [20] * 5
    for mask in held_out:
        in_order = mask[np.argsort(places)].reshape(20, 5)
        assert (in_order.all(axis=1) | ~in_order.any(axis=1)).all()


def test_beyond_is_more_than_half_of_the_largest_where_enough_of_the_kind_is_left() -> None:
    largest = np.array([100.0, 10.0, 100.0])
    ten = totals(list(range(1, 11)), [0] * 10)
    ((outer, asked),) = outer_parts(samples(ten), largest, least=5)
    assert outer.tolist() == asked.tolist() == [False] * 5 + [True] * 5
    assert outer_parts(samples(ten), largest, least=6) == []
    third, fewer = totals([1] * 4 + [6] * 8, [0] * 12), totals([1] * 3 + [6] * 8, [0] * 11)
    assert [len(outer_parts(samples(made), largest, least=1)) for made in (third, fewer)] == [1, 0]


def test_of_a_kind_that_lies_beyond_as_a_whole_nothing_is_asked() -> None:
    """All prefills have a long context, and four decodes of ten."""
    context = [90] * 5 + [20] * 6 + [90] * 4
    made = totals([0] * 5 + [1] * 10, [8] * 5 + [0] * 10, context)
    ((outer, asked),) = outer_parts(samples(made), np.array([100.0, 10.0, 100.0]), least=1)
    assert outer.tolist() == [value == 90 for value in context]
    assert asked.tolist() == [False] * 11 + [True] * 4


def over_time(predicted_s: np.ndarray, measured_s: np.ndarray, seen_s: np.ndarray | None = None) -> RegimeError:
    (found,) = error_over_time(predicted_s, predicted_s if seen_s is None else seen_s, measured_s)
    return found


def test_parts_of_a_recording_that_are_off_in_turn_are_off_although_their_total_is_not() -> None:
    """Twenty parts of 50 steps: a quarter by 30 % too long, as many too short, the others by 10 % to either side."""
    factor = np.repeat([1.3, 0.7, 1.1, 0.9, 1.1, 0.9, 1.1, 0.9], 125)
    found = over_time(2.0 * factor, np.full(1000, 2.0))
    assert (found.regime, found.compositions) == (OVER_TIME, 20)
    assert (found.median, found.bias) == (pytest.approx(0.1), pytest.approx(0, abs=1e-12))
    assert 0.1 < found.mean < 0.25 and found.p90 == pytest.approx(0.3)


def test_a_short_recording_has_few_parts_and_a_shorter_one_none() -> None:
    """The total of a part of one step would tell how steps scatter, and that was blamed on the machine's speed."""
    few = over_time(np.full(150, 1.2), np.repeat([1.0, 1.0, 2.0], 50))
    assert (few.compositions, few.median, few.mean) == (3, pytest.approx(0.2), pytest.approx(0.8 / 3))
    assert few.p90 is None and few.bias == pytest.approx(3.6 / 4 - 1)
    assert over_time(np.ones(100), np.ones(100)).compositions == 2
    assert error_over_time(np.ones(99), np.ones(99), np.ones(99)) == ()


def test_a_hundredth_of_short_stretches_that_took_longer_than_both_fits_tell_is_told() -> None:
    """Of a hundred stretches of 200 steps ten took twice as long."""
    stretch = np.arange(20_000) // 200
    measured_s = np.where(stretch % 10 == 3, 2.0, 1.0)
    flat = np.ones(20_000)
    assert over_time(flat, measured_s).slowest == pytest.approx(1.0)
    assert over_time(flat, flat).slowest == pytest.approx(0.0)
    assert over_time(flat, measured_s, seen_s=measured_s).slowest == pytest.approx(0.0), "the fit to all knows them"
    assert over_time(measured_s, measured_s, seen_s=flat).slowest == pytest.approx(0.0)
    assert over_time(flat[1:], measured_s[1:]).slowest is None, "99 have no hundredth"


def test_prefills_that_scatter_are_no_spells_of_a_slow_machine() -> None:
    """Two steps in a hundred take 30 times as long, to 30 %: stretches differ by 17 %, in any order."""
    rng = np.random.default_rng(0)
    predicted_s = np.where(rng.random(40_000) < 0.02, 30.0, 1.0)
    measured_s = predicted_s * np.where(predicted_s > 1, rng.lognormal(0, 0.3, 40_000), 1.0)
    assert over_time(predicted_s, measured_s).slowest == 0.0


@pytest.mark.parametrize(
    ("simple", "index"),
    [
        ([0.3, 0.0, 0.3, 0.0], 0),  # worse by 0.05 in the mean, with a standard error of 0.15 / 2
        ([0.4, 0.1, 0.4, 0.1], 1),  # by 0.15
        ([0.2, 0.2, 0.2, 0.2], 1),  # always
        ([0.1, 0.1, 0.1, 0.1], 0),
    ],
)
def test_the_simplest_model_within_one_standard_error_of_the_best(simple: list[float], index: int) -> None:
    measured_s = np.array([1.0, 2.0, 3.0, 4.0])
    best, worst = np.full(4, -0.1), np.full(4, 0.7)
    assert simplest(measured_s * np.exp([simple, best, worst]), measured_s) == index


SINGLES = Singles(
    np.array([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 4.0, 3.0, 50.0]), np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 3])
)
"""Three kinds of steps, of one of which one stalled, and a fourth of which there is no prediction."""
MERGED = StepSamples(totals([1, 2, 64, 3], [0] * 4), np.array([1.0, 2.0, 3.0, 50.0]))
PREDICTED_S, KNOWN = np.array([1.1, 1.6, 4.5, 1.0]), np.array([True, True, True, False])


def test_the_error_of_a_kind_is_that_of_its_median_and_bound_and_bias_those_of_single_steps() -> None:
    found = regime_error("all", PREDICTED_S, KNOWN, MERGED, SINGLES)
    assert (found.regime, found.compositions) == ("all", 3)
    assert (found.median, found.mean) == (pytest.approx(0.2), pytest.approx(0.8 / 3))
    assert found.p90 == pytest.approx(0.6), "of nine single steps the largest: the one that took 4 s"
    assert found.bias == pytest.approx((4 * 1.1 + 4 * 1.6 + 4.5) / (4 + 10 + 3) - 1)


def test_only_regimes_with_predictions_are_told() -> None:
    told = errors_by_regime(PREDICTED_S, KNOWN, MERGED, SINGLES)
    assert [(one.regime, one.compositions) for one in told] == [("all", 3), ("decode small", 2), ("decode large", 1)]
    assert told[2].median == pytest.approx(0.5)


@pytest.mark.parametrize("bias", [0.3, -0.3])
def test_of_the_ways_beyond_that_is_told_whose_median_or_total_is_off_by_most(bias: float) -> None:
    everything = RegimeError("all", 90, 0.5, 0.5, None, 0.5)
    scattered, short = RegimeError(BEYOND, 9, 0.2, 0.2, None, 0.0), RegimeError(BEYOND, 9, 0.1, 0.2, None, bias)
    assert with_largest_beyond((everything, scattered, short)) == (everything, short)
    assert with_largest_beyond((everything,)) == (everything,)
