"""The compiled step-time model: the closed form, CUDA-graph padding, the residual's exact tables, the hull."""

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotune.profiler.surrogate.surrogate import LIGHTGBM
from slotune.profiler.surrogate.tables import residual_tables
from slotune.simulator.features import (
    DECODE_CONTEXT,
    DECODE_ONLY,
    DECODE_ROWS,
    DENSE_TOKENS,
    EAGER,
    FIRST_CAP,
    FIRST_KNEE,
    HAS_PREFILL,
    MIXED,
    MIXED_DECODE_CONTEXT,
    MIXED_DECODE_ROWS,
    PHYSICS,
    PREFILL_ONLY,
    PREFILL_ROWS,
    TOTALS,
    padded_tokens,
    physics_of,
    regime_of,
    totals_of,
)
from slotune.simulator.step_time import (
    BINNED,
    FAR,
    OUTSIDE,
    SHAPE,
    WITHIN,
    StepTimeModel,
    counts_drafts,
    linear_model,
    new_memo,
    pack_model,
    reach_of,
    shapes_of,
    step_time_s,
    step_times_s,
    unbounded_hull,
)

rows = st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 9000)), min_size=1, max_size=20)


def totals(*step: tuple[int, int]) -> np.ndarray:
    tokens, context = np.array(step).T
    return totals_of(tokens, context)


def time_s(model: StepTimeModel, *step: tuple[int, int]) -> float:
    return float(step_time_s(model, totals(*step), new_memo(model)))


def random_totals(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(count):
        size = int(rng.integers(1, 30))
        tokens = np.where(rng.random(size) < 0.7, 1, rng.integers(1, 600, size))
        steps.append(totals_of(tokens, rng.integers(0, 4000, size)))
    return np.array(steps)


@pytest.fixture(scope="module")
def ensemble() -> lgb.Booster:
    steps = random_totals(3000, seed=1)
    target = np.sin(steps[:, 0] / 300) + np.cos(steps[:, 5] / 9000) * steps[:, 4] / 20
    data = lgb.Dataset(shapes_of(steps)[:, :BINNED], target)
    return lgb.train({**LIGHTGBM, "num_leaves": 15}, data, num_boost_round=60)


@pytest.fixture(scope="module")
def residual_model(ensemble: lgb.Booster) -> StepTimeModel:
    weights = np.zeros(PHYSICS)
    weights[:TOTALS] = 1e-5
    edges, tables = residual_tables(ensemble.model_to_string())
    return pack_model(weights, edges=edges, tables=tables)


@given(rows)
def test_the_closed_form_is_the_formula(step: list[tuple[int, int]]) -> None:
    decodes = sum(1 for tokens, context in step if tokens == 1 and context > 0)
    prefill = sum(tokens for tokens, context in step if not (tokens == 1 and context > 0))
    context_tokens = sum(context for _, context in step)
    expected = 4e-3 + 4e-5 * prefill + 1.1e-4 * decodes + 2.1e-7 * context_tokens
    assert time_s(linear_model(4e-3, 4e-5, 1.1e-4, 2.1e-7), *step) == pytest.approx(expected, rel=1e-12)


@given(rows)
def test_the_residual_is_what_lightgbm_predicts(
    ensemble: lgb.Booster, residual_model: StepTimeModel, step: list[tuple[int, int]]
) -> None:
    summed = totals(*step)
    expected = 1e-5 * summed.sum() * np.exp(ensemble.predict(shapes_of(summed[None])[:, :BINNED])[0])
    assert time_s(residual_model, *step) == pytest.approx(expected, rel=1e-9)


def test_values_on_a_split_threshold_go_where_lightgbm_sends_them(
    ensemble: lgb.Booster, residual_model: StepTimeModel
) -> None:
    edges, _ = residual_tables(ensemble.model_to_string())
    steps = np.zeros((np.isfinite(edges[1:]).sum(), TOTALS))
    targets = [(feature, edge) for feature in range(1, BINNED) for edge in edges[feature] if np.isfinite(edge)]
    for step, (feature, edge) in zip(steps, targets, strict=True):
        step[[0, 0, 1, 2, 4, 5, 6][feature]] = edge
    expected = 1e-5 * steps.sum(axis=1) * np.exp(ensemble.predict(shapes_of(steps)[:, :BINNED]))
    assert step_times_s(residual_model, steps) == pytest.approx(expected, rel=1e-9)


def test_what_the_memo_remembers_changes_nothing(residual_model: StepTimeModel) -> None:
    steps = random_totals(500, seed=2)
    fresh = [float(step_time_s(residual_model, step, new_memo(residual_model))) for step in steps]
    assert step_times_s(residual_model, steps).tolist() == fresh


def test_tokens_are_padded_to_the_next_captured_size_and_not_beyond_the_last() -> None:
    sizes = np.array([1.0, 2.0, 4.0, 8.0])
    padded = [padded_tokens(sizes, 0, 4, float(tokens)) for tokens in (1, 3, 4, 5, 8, 9, 1000)]
    assert padded == [1, 4, 4, 8, 8, 9, 1000]
    assert padded_tokens(sizes, 0, 0, 3.0) == 3


def test_physics_of_a_step_within_and_beyond_the_captured_sizes() -> None:
    steps = np.array([totals((1, 10), (1, 20)), totals((100, 0), (1, 5))])
    features = physics_of(steps, np.array([4.0, 64.0]))
    assert features[:, [MIXED_DECODE_ROWS, MIXED_DECODE_CONTEXT]].tolist() == [[0, 0], [1, 5]]
    assert features[:, :TOTALS].tolist() == steps.tolist()
    assert features[:, DENSE_TOKENS].tolist() == [4, 101]
    assert features[:, EAGER].tolist() == [0, 1]
    assert features[:, HAS_PREFILL].tolist() == [0, 1]
    assert features[:, FIRST_KNEE].tolist() == [0, 101 - 64]


def test_what_the_rows_of_a_step_sum_up_to() -> None:
    """A prompt of 100 tokens, 50 more of one of which 200 are there, and two decodes.

    The query-key pairs: 100 * 101 / 2 = 5,050 and 50 * 200 + 50 * 51 / 2 = 11,275.
    """
    summed = totals((100, 0), (50, 200), (1, 300), (1, 120))
    assert summed.tolist() == [150, 2, 16_325, 200, 2, 420, 300]
    assert totals((1, 0)).tolist() == [1, 1, 1, 0, 0, 0, 0], "a prompt of one token is a prefill"
    steps = (totals((1, 9)), totals((1, 0)), totals((1, 9), (1, 0)))
    assert [regime_of(step) for step in steps] == [DECODE_ONLY, PREFILL_ONLY, MIXED]


def test_beyond_each_knee_a_token_costs_more() -> None:
    weights = np.zeros(PHYSICS)
    weights[FIRST_KNEE:FIRST_CAP] = [1, 10, 100, 1000, 10_000]
    times_s = [time_s(pack_model(weights), (tokens, 0)) for tokens in (64, 65, 128, 129, 257, 513, 1026)]
    assert times_s == [
        0,
        1,
        64,
        65 + 10,
        193 + 1290 + 100,
        449 + 3850 + 25_700 + 1000,
        962 + 8980 + 77_000 + 514_000 + 20_000,
    ]


def test_up_to_each_cap_a_token_costs_more() -> None:
    weights = np.zeros(PHYSICS)
    weights[FIRST_CAP:] = [1, 10, 100]
    times_s = [time_s(pack_model(weights), (tokens, 0)) for tokens in (1, 8, 9, 32, 96, 97, 5000)]
    assert times_s == [111, 888, 8 + 90 + 900, 8 + 320 + 3200, *[8 + 320 + 9600] * 3]


def test_the_hull_holds_each_regime_apart() -> None:
    hull = np.empty((3, SHAPE, 2))
    hull[..., 0], hull[..., 1] = np.inf, -np.inf
    measured = shapes_of(np.array([totals((1, 100)), totals(*[(1, 1000)] * 8)]))
    hull[0] = np.stack([measured.min(axis=0), measured.max(axis=0)], axis=1)
    model = pack_model(np.zeros(PHYSICS), hull=hull)
    assert reach_of(model, totals(*[(1, 500)] * 4)) == WITHIN
    assert reach_of(model, totals(*[(1, 1050)] * 8)) == WITHIN, "a step of ten per cent counts as measured"
    assert reach_of(model, totals(*[(1, 500)] * 16)) == OUTSIDE, "more rows than were measured"
    assert reach_of(model, totals((1, 2000))) == OUTSIDE, "a longer context than was measured"
    assert reach_of(model, totals((16, 0))) == FAR, "no prefill was measured"
    assert reach_of(linear_model(1, 1, 1, 1), totals((16, 0), (1, 10**6))) == WITHIN, "a formula holds everywhere"


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([(1, 500)] * 17, "more than twice the rows"),
        ([(1, 2001)], "more than twice the context"),
        ([(1025, 0)], "more than twice the prompt"),
        ([(512, 513)], "a chunk after more context than costs nothing, where only whole prompts were measured"),
    ],
)
def test_steps_more_than_twice_as_large_as_any_measured_are_far(rows: list[tuple[int, int]], why: str) -> None:
    measured = [totals((1, 100)), totals(*[(1, 1000)] * 8)], [totals((16, 0)), totals((512, 0))]
    hull = np.empty((3, SHAPE, 2))
    for regime, steps in enumerate(measured):
        shapes = shapes_of(np.array(steps))
        hull[regime] = np.stack([shapes.min(axis=0), shapes.max(axis=0)], axis=1)
    hull[2, :, 0], hull[2, :, 1] = np.inf, -np.inf
    model = pack_model(np.zeros(PHYSICS), hull=hull)
    assert reach_of(model, totals(*rows)) == FAR, why
    nearer = [(tokens if tokens == 1 else tokens - 1, context and context - 1) for tokens, context in rows[1:] or rows]
    assert reach_of(model, totals(*nearer)) == OUTSIDE


def test_of_steps_that_are_all_as_large_nothing_tells_what_others_take() -> None:
    hull = np.empty((3, SHAPE, 2))
    shapes = shapes_of(np.array([totals((1000, 0)), totals((1200, 0))]))
    hull[:] = np.stack([shapes.min(axis=0), shapes.max(axis=0)], axis=1)
    model = pack_model(np.zeros(PHYSICS), hull=hull)
    reaches = [reach_of(model, totals((tokens, 0))) for tokens in (900, 920, 1000, 1240, 1330)]
    assert reaches == [FAR, WITHIN, WITHIN, WITHIN, FAR]


def test_a_chunk_after_a_context_is_no_whole_prompt() -> None:
    """It has as many tokens and no more attention work, and beside a long decode no longer a context."""
    hull = np.empty((3, SHAPE, 2))
    measured = shapes_of(np.array([totals((64, 0), (1, 4000)), totals((2048, 0), (1, 4000))]))
    hull[:] = np.stack([measured.min(axis=0), measured.max(axis=0)], axis=1)
    model = pack_model(np.zeros(PHYSICS), hull=hull)
    assert reach_of(model, totals((1024, 0), (1, 4000))) == WITHIN
    assert reach_of(model, totals((512, 700), (1, 4000))) == OUTSIDE


def test_a_row_that_verifies_drafts_is_a_decode_row_for_each_of_its_tokens() -> None:
    """It was a prefill, which cost less than the decode alone: useless drafts made an engine faster."""
    decode, verified = totals_of(np.array([1]), np.array([400])), totals_of(np.array([4]), np.array([400]), 3)
    assert verified[[DECODE_ROWS, DECODE_CONTEXT]].tolist() == [4, 400]
    assert regime_of(verified) == DECODE_ONLY
    model = linear_model(10e-3, 2e-5, 1e-3, 1e-6)
    alone_s, verified_s = step_times_s(model, np.array([decode, verified]))
    assert verified_s == pytest.approx(alone_s + 3e-3)
    chunk = totals_of(np.array([5]), np.array([400]), 3)
    assert chunk[PREFILL_ROWS] == 1, "more tokens than it may verify are a prefill's"


def test_measured_steps_count_drafts_and_a_formula_does_not() -> None:
    assert not counts_drafts(linear_model(1, 1, 1, 1))
    hull = unbounded_hull()
    hull[0] = np.inf, -np.inf  # decodes were not measured
    assert counts_drafts(pack_model(np.zeros(PHYSICS), hull=hull))
