"""Steps of a mixture of experts, which reads more experts the more tokens there are, until it has read all."""

import numpy as np
import pytest

from slotune.profiler.surrogate.baseline import BASES, CAPS, PLAIN, fit_baseline
from slotune.profiler.surrogate.samples import StepSamples
from slotune.profiler.surrogate.surrogate import fit
from slotune.simulator.features import DECODE_CONTEXT, DECODE_ROWS, FIRST_CAP, PREFILL_TOKENS, TOKEN_CAPS, totals_of
from slotune.simulator.step_time import step_times_s

EXPERTS, EACH = 128, 8


def decodes(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([totals_of(np.ones(count, np.int64), rng.integers(100, 1500, count)) for count in rows])


def prefills(tokens: np.ndarray) -> np.ndarray:
    return np.array([totals_of(np.array([count]), np.array([0])) for count in tokens])


def mixture_s(steps: np.ndarray) -> np.ndarray:
    """2 ms, 14 ms to read all experts, and what tokens and contexts take."""
    tokens = steps[:, PREFILL_TOKENS] + steps[:, DECODE_ROWS]
    read = 1 - (1 - EACH / EXPERTS) ** tokens
    return 2e-3 + 14e-3 * read + 8e-6 * tokens + 5e-8 * steps[:, DECODE_CONTEXT]


def noisy(steps: np.ndarray, duration_s: np.ndarray) -> StepSamples:
    return StepSamples(steps, duration_s * np.exp(np.random.default_rng(1).normal(0, 0.01, len(steps))))


def test_decodes_beyond_those_seen_do_not_read_experts_that_are_not_there() -> None:
    """Up to 40 at a time were seen, which read 92 % of the experts; no sum of convex terms bends like that."""
    steps = np.concatenate([decodes(np.tile(np.arange(1, 41), 8)), prefills(np.arange(32, 2048, 16))])
    fitted = fit(noisy(steps, mixture_s(steps)), np.arange(1.0, 65.0))
    more = decodes(np.arange(45, 81), seed=2)
    error = step_times_s(fitted.model, more) / mixture_s(more) - 1
    assert np.abs(error).max() < 0.08


def test_what_a_dense_model_takes_needs_no_cap() -> None:
    steps = np.concatenate([decodes(np.tile(np.arange(1, 129), 4)), prefills(np.arange(32, 2048, 16))])
    dense_s = 5e-3 + 2e-5 * (steps[:, PREFILL_TOKENS] + steps[:, DECODE_ROWS]) + 5e-8 * steps[:, DECODE_CONTEXT]
    fitted = fit(noisy(steps, dense_s), np.arange(1.0, 129.0))
    assert not fitted.weights_s[list(CAPS)].any()


@pytest.mark.parametrize(("small", "seen"), [(1, False), (4, False), (5, True)])
def test_a_few_small_steps_do_not_make_a_cap(small: int, seen: bool) -> None:
    """They alone are below the least cap, and take half as long as the line through the others says."""
    rows = np.array([*range(1, 1 + small), *range(8, 256)])
    steps = decodes(rows)
    duration_s = (5e-3 + 2e-5 * rows) * np.where(rows < TOKEN_CAPS[0], 0.5, 1.0)
    samples = StepSamples(steps, duration_s)
    weights = fit_baseline(samples, np.ones(len(steps)), np.arange(1.0, 257.0), (*PLAIN, FIRST_CAP))
    assert (weights[FIRST_CAP] > 0) == seen


def test_a_cap_that_no_step_reaches_is_not_told_from_the_tokens() -> None:
    steps = decodes(np.tile(np.arange(1, 31), 4))
    weights = fit_baseline(StepSamples(steps, mixture_s(steps)), np.ones(len(steps)), np.arange(1.0, 33.0), BASES[-1])
    assert weights[FIRST_CAP] > 0
    assert not weights[FIRST_CAP + 1 :].any()
