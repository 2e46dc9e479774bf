"""The fit: it finds what made the steps, is not bent by stalls, knows its error, and says the same twice."""

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.profiler.surrogate.baseline import KNEES, PLAIN, fit_baseline, importance_of
from slotune.profiler.surrogate.errors import regime_names
from slotune.profiler.surrogate.model import BEYOND, conformal_quantile
from slotune.profiler.surrogate.samples import BELIEVED_STEPS, StepSamples
from slotune.profiler.surrogate.surrogate import (
    first_use_note,
    fit,
    hull_of,
    merge_alike,
    stalled_share,
)
from slotune.simulator.features import (
    CONSTANT,
    DECODE_CONTEXT,
    DECODE_ROWS,
    FIRST_KNEE,
    HAS_PREFILL,
    MIXED_DECODE_CONTEXT,
    MIXED_DECODE_ROWS,
    PREFILL_CONTEXT,
    PREFILL_ROWS,
    PREFILL_TOKENS,
    PREFILL_WORK,
    totals_of,
)
from slotune.simulator.step_time import FAR, OUTSIDE, WITHIN, reach_of, step_times_s


def random_steps(count: int, seed: int, most_tokens: int = 2048, most_rows: int = 128) -> np.ndarray:
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(count):
        regime = rng.integers(3)
        decodes = 0 if regime == 1 else int(most_rows ** rng.random())
        chunk = 0 if regime == 0 else int(8 * (most_tokens / 8) ** rng.random())
        tokens = [1] * decodes + [chunk] * (chunk > 0)
        context = [*rng.integers(1, int(16 * 256 ** rng.random()) + 1, decodes), rng.integers(0, 4000)]
        steps.append(totals_of(np.array(tokens), np.array(context[: len(tokens)])))
    return np.array(steps)


def linear_s(steps: np.ndarray) -> np.ndarray:
    work = 1e-9 * steps[:, PREFILL_WORK] + 5e-8 * steps[:, DECODE_CONTEXT]
    return 5e-3 + 2e-5 * steps[:, PREFILL_TOKENS] + 1e-4 * steps[:, DECODE_ROWS] + work


def tiled_s(steps: np.ndarray) -> np.ndarray:
    """A GPU that computes in tiles of 64 tokens, at least for 4 ms: what no sum of linear terms can be."""
    tokens = np.ceil((steps[:, PREFILL_TOKENS] + steps[:, DECODE_ROWS]) / 64) * 64
    return 2e-3 + np.maximum(4e-3, 3e-5 * tokens) + 5e-8 * steps[:, DECODE_CONTEXT]


def test_a_linear_engine_is_found_exactly_and_needs_no_trees() -> None:
    steps = random_steps(200, seed=1)
    fitted = fit(StepSamples(steps, linear_s(steps)))
    assert fitted.residual is None
    found = fitted.weights_s[[CONSTANT, PREFILL_TOKENS, DECODE_ROWS, PREFILL_WORK, DECODE_CONTEXT]]
    assert found == pytest.approx([5e-3, 2e-5, 1e-4, 1e-9, 5e-8], rel=1e-4)
    far = random_steps(50, seed=2, most_tokens=16384, most_rows=1024)
    assert step_times_s(fitted.model, far) == pytest.approx(linear_s(far), rel=1e-4)


def test_decodes_that_a_prefill_slows_are_found_and_only_where_there_are_any() -> None:
    steps = random_steps(400, seed=8)
    slowed = linear_s(steps) + 3e-8 * steps[:, DECODE_CONTEXT] * (steps[:, PREFILL_ROWS] > 0)
    fitted = fit(StepSamples(steps, slowed))
    found = fitted.weights_s[[DECODE_CONTEXT, MIXED_DECODE_CONTEXT, MIXED_DECODE_ROWS]]
    assert found == pytest.approx([5e-8, 3e-8, 0], rel=1e-4, abs=1e-9)
    assert not fit(StepSamples(steps, linear_s(steps))).weights_s[[MIXED_DECODE_CONTEXT, MIXED_DECODE_ROWS]].any()


@pytest.mark.parametrize("seed", range(4))
def test_requests_one_at_a_time_do_not_make_a_second_row_cost_a_whole_step(seed: int) -> None:
    """Of one prefill row or one decode row, row counts and the constant are the same column twice."""
    rng = np.random.default_rng(seed)
    prompts = [totals_of(np.array([n]), np.array([0])) for n in rng.integers(100, 1500, 150)]
    decodes = [totals_of(np.array([1]), np.array([c])) for c in rng.integers(100, 1700, 3000)]
    steps = np.array([*prompts, *decodes])
    fitted = fit(StepSamples(steps, linear_s(steps) * np.exp(rng.normal(0, 0.03, len(steps)))))
    eight = np.array([totals_of(np.ones(8, np.int64), np.full(8, 500))])
    assert step_times_s(fitted.model, eight) == pytest.approx(linear_s(eight), rel=0.2)


def test_the_residual_halves_the_error_of_a_tiled_engine() -> None:
    steps, noise = random_steps(1500, seed=3), np.random.default_rng(3).normal(0, 0.01, 1500)
    fitted = fit(StepSamples(steps, tiled_s(steps) * np.exp(noise)))
    fresh = random_steps(500, seed=4)
    error = np.abs(step_times_s(fitted.model, fresh) / tiled_s(fresh) - 1)
    assert fitted.residual is not None
    assert error.mean() < 0.02
    everything = fitted.error_of("all")
    assert everything is not None and everything.mean < 0.03


def test_what_neighbours_in_time_share_is_not_taken_for_knowledge() -> None:
    """A machine that is fast and slow by turns, and scenarios of alike steps within each turn."""
    rng = np.random.default_rng(5)
    steps = random_steps(1600, seed=5)
    steps = steps[np.lexsort((steps[:, PREFILL_TOKENS], steps[:, DECODE_ROWS]))].reshape(20, 80, -1)
    steps = steps[rng.permutation(20)].reshape(1600, -1)
    disturbed = linear_s(steps) * np.repeat(np.exp(rng.normal(0, 0.2, 20)), 80)
    fitted = fit(StepSamples(steps, disturbed), in_order=True)
    assert fitted.residual is None
    assert fit(StepSamples(steps, disturbed)).residual is not None
    tiled = fit(StepSamples(steps, tiled_s(steps)), in_order=True)
    assert tiled.residual is not None


def test_a_regime_weighs_by_the_root_of_its_steps() -> None:
    steps = random_steps(500, seed=9)
    mixed, decodes = (steps[(steps[:, PREFILL_ROWS] > 0) == many][:n] for many, n in ((True, 100), (False, 4)))
    mixed = mixed[mixed[:, DECODE_ROWS] > 0]
    both = StepSamples(np.concatenate([mixed, decodes]), np.ones(len(mixed) + 4))
    importance = importance_of(both, np.ones(len(both)))
    shares = importance[: len(mixed)].sum(), importance[len(mixed) :].sum()
    assert shares[0] / shares[1] == pytest.approx(np.sqrt(len(mixed) / 4))
    assert importance.mean() == pytest.approx(1)
    assert importance_of(both, np.full(len(both), 9.0)) == pytest.approx(importance)


def test_stalls_of_the_machine_do_not_bend_the_fit() -> None:
    steps = np.repeat(random_steps(100, seed=5), 5, axis=0)
    durations = linear_s(steps)
    stalled = np.random.default_rng(5).random(len(steps)) < 0.03
    fitted = fit(StepSamples(steps, np.where(stalled, durations * 50, durations)))
    error = step_times_s(fitted.model, steps) / durations - 1
    # A stall counts as three steps: that is in the mean, since latencies add up means, and in no shape.
    lost = np.where(stalled, 2 * durations, 0).sum() / durations.sum()
    assert np.ptp(error) < 0.01
    assert error.mean() == pytest.approx(lost, abs=0.03)


def test_what_is_cut_off_stalls_is_told_as_bias() -> None:
    """One step in fifty takes fifty times as long: the median of a kind knows nothing of it, a mean latency does."""
    steps = np.repeat(random_steps(100, seed=5), 50, axis=0)
    durations = linear_s(steps) * np.where(np.arange(len(steps)) % 50 == 7, 50, 1)
    fitted = fit(StepSamples(steps, durations))
    everything = fitted.error_of("all")
    assert everything is not None and everything.bias == pytest.approx(52 / 99 - 1, abs=0.01)
    assert stalled_share(fitted, StepSamples(steps, durations)) == pytest.approx(47 / 99, abs=0.01)


def test_the_same_steps_give_the_same_fit_in_any_order() -> None:
    steps = random_steps(300, seed=6)
    durations = tiled_s(steps)
    order = np.random.default_rng(0).permutation(len(steps))
    first, second = fit(StepSamples(steps, durations)), fit(StepSamples(steps[order], durations[order]))
    assert first.weights_s.tolist() == second.weights_s.tolist()
    assert first.residual == second.residual
    assert first.held_out[0].median == second.held_out[0].median


def test_the_expected_error_covers_new_steps_as_often_as_it_says() -> None:
    covered = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        steps, fresh = random_steps(600, seed=10 + seed), random_steps(600, seed=100 + seed)
        fitted = fit(StepSamples(steps, tiled_s(steps) * np.exp(rng.normal(0, 0.05, 600))))
        measured = tiled_s(fresh) * np.exp(rng.normal(0, 0.05, 600))
        errors = np.abs(step_times_s(fitted.model, fresh) / measured - 1)
        bounds = {error.regime: error.p90 for error in fitted.held_out}
        covered += [error <= bounds[name] for error, name in zip(errors, regime_names(fresh), strict=True)]
    assert 0.87 <= np.mean(covered) <= 0.95


@pytest.mark.parametrize("power", [1.3, 1.7])
def test_the_error_beyond_what_was_fitted_is_told_as_large_as_it_is(power: float) -> None:
    """An engine whose time bends upwards, as no baseline does; steps up to twice as large as any that was fitted."""

    def bent_s(steps: np.ndarray) -> np.ndarray:
        return linear_s(steps) + 8e-2 * (steps[:, PREFILL_TOKENS] / 2048) ** power

    steps, fresh = random_steps(800, seed=0), random_steps(800, seed=100, most_tokens=4096, most_rows=256)
    fitted = fit(StepSamples(steps, bent_s(steps) * np.exp(np.random.default_rng(0).normal(0, 0.01, 800))))
    larger = fresh[[reach_of(fitted.model, step) != WITHIN for step in fresh]]
    error = np.median(np.abs(step_times_s(fitted.model, larger) / bent_s(larger) - 1))
    everything, beyond = fitted.error_of("all"), fitted.error_of(BEYOND)
    assert everything is not None and beyond is not None
    assert 3 * everything.median < error
    assert error / 2 < beyond.median < 2 * error


def test_an_error_beyond_is_not_told_of_what_no_smaller_steps_could_show() -> None:
    steps = np.array([totals_of(np.array([1] * rows), np.full(rows, 500)) for rows in range(120, 160)])
    assert fit(StepSamples(steps, linear_s(steps))).error_of(BEYOND) is None


@pytest.mark.parametrize(
    ("beyond", "seen"),
    [(range(1060, 1065), False), (range(2048, 2051), False), (range(2048, 2053), True)],
)
def test_steps_a_little_beyond_a_knee_or_a_few_far_beyond_do_not_make_a_slope(beyond: range, seen: bool) -> None:
    """They are 20 % too long; five that go half as far again as the knee are believed."""
    tokens = np.array([*range(8, 1000, 8), *beyond])
    steps = np.array([totals_of(np.array([count]), np.zeros(1, np.int64)) for count in tokens])
    duration_s = linear_s(steps) * np.where(tokens > 1000, 1.2, 1.0)
    weights = fit_baseline(StepSamples(steps, duration_s), np.ones(len(steps)), np.array([1.0]), (*PLAIN, *KNEES))
    assert (weights[FIRST_KNEE:].sum() > 0) == seen


def test_a_machine_a_hundred_times_as_fast_has_a_hundredth_of_every_weight() -> None:
    sizes = np.random.default_rng(1).integers(8, 1600, (400, 2))
    steps = np.array([totals_of(np.array([tokens]), np.array([context])) for tokens, context in sizes])
    slow, fast = (
        fit_baseline(StepSamples(steps, linear_s(steps) * pace), np.ones(len(steps)), np.empty(0)) for pace in (1, 0.01)
    )
    assert fast == pytest.approx(0.01 * slow) and (slow > 0).sum() > 2


@pytest.mark.parametrize("stalled", [1, 4])
def test_a_few_steps_do_not_decide_a_weight(stalled: int) -> None:
    """These alone have prefill context, and stalls made them five times too long."""
    whole = [totals_of(np.array([tokens]), np.array([0])) for tokens in range(8, 1600, 4)]
    later = [totals_of(np.array([512 + i]), np.array([3000])) for i in range(stalled)]
    steps = np.array([*whole, *later])
    duration_s = linear_s(steps) * np.where(steps[:, PREFILL_CONTEXT] > 0, 5.0, 1.0)
    weights = fit_baseline(StepSamples(steps, duration_s), np.ones(len(steps)), np.empty(0))
    assert weights[PREFILL_CONTEXT] == 0


def test_the_bound_is_one_on_single_steps_also_where_many_are_alike() -> None:
    """Forty kinds of steps, each measured 200 times with noise: the median of a kind hardly scatters."""
    rng = np.random.default_rng(5)
    kinds = np.array([totals_of(np.ones(rows, np.int64), np.full(rows, 500)) for rows in range(1, 161, 4)])
    steps = np.repeat(kinds, 200, axis=0)
    fitted = fit(StepSamples(steps, linear_s(steps) * np.exp(rng.normal(0, 0.1, len(steps)))))
    everything = fitted.error_of("all")
    assert everything is not None and everything.p90 is not None
    fresh = linear_s(steps) * np.exp(rng.normal(0, 0.1, len(steps)))
    within = np.abs(step_times_s(fitted.model, steps) / fresh - 1) <= everything.p90
    assert 0.87 <= within.mean() <= 0.93
    assert everything.median < 0.02


def test_conformal_quantile_of_few_errors_is_unknown() -> None:
    assert conformal_quantile(np.arange(8.0)) is None
    assert conformal_quantile(np.arange(9.0)) == 8
    assert conformal_quantile(np.arange(99.0)) == 89


def test_alike_steps_become_the_one_in_the_middle() -> None:
    prefill, long = totals_of(np.array([5]), np.array([0])), totals_of(np.array([1]), np.array([4000]))
    longer, other = totals_of(np.array([1]), np.array([4010])), totals_of(np.array([1]), np.array([400]))
    merged, owner, places = merge_alike(
        StepSamples(np.array([prefill, long, prefill, prefill, longer, other]), np.array([1.0, 4, 9, 2, 6, 7]))
    )
    assert {tuple(t): (d, n) for t, d, n in zip(merged.totals, merged.duration_s, np.bincount(owner), strict=True)} == {
        tuple(prefill): (2.0, 3.0),
        tuple((long + longer) / 2): (5.0, 2.0),
        tuple(other): (7.0, 1.0),
    }
    assert sorted(places.tolist()) == [1, 3, 5]


def test_the_hull_is_of_each_regime_and_what_was_not_seen_is_outside() -> None:
    steps = np.repeat(random_steps(400, seed=7), BELIEVED_STEPS, axis=0)
    fitted = fit(StepSamples(steps, linear_s(steps)))
    assert not any(reach_of(fitted.model, step) != WITHIN for step in steps)
    assert reach_of(fitted.model, totals_of(np.array([5000]), np.array([0]))) == FAR
    decodes = steps[(steps[:, PREFILL_TOKENS] == 0)]
    only = hull_of(StepSamples(decodes, linear_s(decodes)))
    assert np.isfinite(only[0]).all() and np.isinf(only[1:]).all()


@pytest.mark.parametrize("slowed", [1.2, 2.5])
@pytest.mark.parametrize("count", [1, 4, 5])
def test_a_few_large_steps_alone_are_not_believed(count: int, slowed: float) -> None:
    """The first of a shape is compiled or tuned: 2.5 times as long."""
    prompts = [totals_of(np.array([tokens]), np.array([0])) for tokens in range(8, 1200, 4)]
    steps = np.array([*prompts, *[totals_of(np.array([6000]), np.array([0]))] * count])
    samples = StepSamples(steps, linear_s(steps) * np.where(steps[:, PREFILL_TOKENS] == 6000, slowed, 1.0))
    fitted = fit(samples)
    reaches = [reach_of(fitted.model, totals_of(np.array([tokens]), np.array([0]))) for tokens in (1200, 2000, 6000)]
    assert reaches == ([WITHIN, OUTSIDE, FAR] if count < BELIEVED_STEPS else [WITHIN] * 3)
    others = fit(StepSamples(steps[:-count], linear_s(steps[:-count])))
    left_out = slowed > 2 and count < BELIEVED_STEPS
    assert (fitted.weights_s.tolist() == others.weights_s.tolist()) == left_out
    told = "steps that took more than 1.5 times what the others tell of that size, too few to be believed, left out"
    assert first_use_note(fitted, samples) == (f"{told}: {count}" if left_out else None)


def test_how_far_off_large_steps_are_is_told_beside_a_few_far_larger() -> None:
    """Half of the largest, which nobody believes, would leave nothing to hold out."""
    prompts = np.array([totals_of(np.array([tokens]), np.array([0])) for tokens in (*range(8, 1200, 4), *[6000] * 4)])
    beyond = fit(StepSamples(prompts, linear_s(prompts))).error_of(BEYOND)
    assert beyond is not None and beyond.compositions > 100


def test_one_step_of_two_prompts_does_not_tell_the_price_of_a_token() -> None:
    """All prompts are as long, as a benchmark's are; the one step that has two of them was slow."""
    rows = [[(1024, 0), *[(1, 1024 + (7 * i) % 128)] * (i % 6)] for i in range(120)]
    decodes = [[(1, 1024 + i)] * (1 + i % 6) for i in range(120)]
    steps = np.array([totals_of(*np.array(r).T) for r in (*rows, *decodes, [(1024, 0), (1024, 0), (1, 1030)])])
    durations_s = linear_s(steps)
    durations_s[-1] *= 3
    model = fit(StepSamples(steps, durations_s)).model
    asked = {tokens: totals_of(np.array([tokens, 1]), np.array([0, 1030])) for tokens in (560, 1024, 1060, 1500, 2048)}
    assert {tokens: reach_of(model, step) for tokens, step in asked.items()} == {
        560: FAR,
        1024: WITHIN,
        1060: WITHIN,
        1500: FAR,
        2048: FAR,
    }


def test_the_error_of_a_kind_of_step_is_that_of_a_fit_that_has_seen_the_kind() -> None:
    """A client that sends one request at a time decodes in steps of one size, which one fold would hold out together:
    they were said to be 89 % too long, of a fit to prefills alone."""
    prompts = [totals_of(np.array([tokens]), np.array([0])) for tokens in range(200, 1500, 13)]
    decodes = [totals_of(np.array([1]), np.array([context])) for context in range(200, 1600, 5)]
    steps = np.array([*prompts, *decodes])
    samples = StepSamples(steps, linear_s(steps) + np.where(steps[:, PREFILL_TOKENS] > 0, 0.01, 0.0))
    errors = {error.regime: error for error in fit(samples).held_out}
    assert errors["decode small"].compositions > 20 and abs(errors["decode small"].bias) < 0.01
    assert abs(errors["all"].bias) < 0.01


def test_of_a_kind_of_which_there_are_a_few_steps_nothing_is_believed() -> None:
    steps = random_steps(400, seed=7)
    prompts = steps[steps[:, DECODE_ROWS] == 0][: BELIEVED_STEPS - 1]
    both = np.concatenate([steps[steps[:, PREFILL_ROWS] == 0], prompts])
    hull = hull_of(StepSamples(both, linear_s(both)))
    assert np.isfinite(hull[0]).all() and np.isinf(hull[1:]).all()


@pytest.mark.parametrize("duration_s", [0.0, -1.0, np.nan, np.inf])
def test_a_duration_that_cannot_be_is_refused(duration_s: float) -> None:
    steps = random_steps(10, seed=8)
    with pytest.raises(InputError, match="1 of 10"):
        fit(StepSamples(steps, np.array([duration_s, *linear_s(steps)[1:]])))


def test_too_few_different_steps_are_refused() -> None:
    steps = np.repeat(random_steps(4, seed=9), 100, axis=0)
    with pytest.raises(InputError, match="4 different steps"):
        fit(StepSamples(steps, linear_s(steps)))


def test_steps_that_all_have_a_prefill_leave_the_constant_a_constant() -> None:
    steps = random_steps(400, seed=9)
    mixed = steps[steps[:, PREFILL_TOKENS] > 0]
    weights = fit(StepSamples(mixed, linear_s(mixed))).weights_s
    assert weights[HAS_PREFILL] == 0
    assert weights[CONSTANT] == pytest.approx(5e-3, rel=1e-3)
