"""What a fit tells of a machine whose speed changes, slowly or for a few seconds at a time."""

import numpy as np
import pytest

from slotune.profiler.surrogate.model import OVER_TIME
from slotune.profiler.surrogate.samples import StepSamples
from slotune.profiler.surrogate.surrogate import fit
from slotune.simulator.features import DECODE_CONTEXT, DECODE_ROWS, PREFILL_TOKENS, totals_of
from slotune.simulator.step_time import step_times_s


def random_steps(count: int, seed: int) -> np.ndarray:
    """Decodes, with a chunk of a prompt in every other step."""
    rng = np.random.default_rng(seed)
    steps = []
    for k in range(count):
        decodes, chunk = int(128 ** rng.random()), int(8 * 256 ** rng.random())
        tokens = np.array([1] * decodes + [chunk] * (k % 2))
        steps.append(totals_of(tokens, rng.integers(1, 4000, len(tokens))))
    return np.array(steps)


def noisy_s(steps: np.ndarray, seed: int) -> np.ndarray:
    exact = 5e-3 + steps[:, [PREFILL_TOKENS, DECODE_ROWS, DECODE_CONTEXT]] @ [2e-5, 1e-4, 5e-8]
    return exact * np.random.default_rng(seed).lognormal(0, 0.02, len(steps))


def test_parts_of_a_recording_that_are_of_machines_of_different_speed_are_told() -> None:
    """Each kind of step is right in the median of both and wrong on each by a fifth; one machine is told nothing of."""
    steps = np.concatenate([random_steps(400, seed=1)] * 2)
    took = noisy_s(steps, 2)
    alike, mixed = (
        fit(StepSamples(steps, took * speed), in_order=True).error_of(OVER_TIME)
        for speed in (np.ones(800), np.repeat([1.0, 1.5], 400))
    )
    assert alike.mean < 0.01 and alike.compositions == 16, "of 50 steps"
    assert 0.15 < mixed.mean < 0.3


def wandering(count: int, mean: float, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Values each of which is near the one before, and which come back to the mean."""
    values = np.empty(count)
    at = mean
    for k in range(count):
        at += 0.03 * (mean - at) + spread * rng.normal()
        values[k] = at
    return values


@pytest.mark.parametrize("seed", [5, 6])
def test_a_second_machine_is_told_where_batch_and_contexts_tell_the_time(seed: int) -> None:
    """As in traffic, a step is like the one before it: trees that have seen a part of the recording know it by that."""
    rng = np.random.default_rng(seed)
    rows, contexts = wandering(2000, 32, 2, rng).clip(4), wandering(2000, 1500, 90, rng).clip(200)
    steps = [
        totals_of(np.ones(int(n), np.int64), np.full(int(n), int(at))) for n, at in zip(rows, contexts, strict=True)
    ]
    took = noisy_s(np.array(steps), seed)
    alike, mixed = (
        fit(StepSamples(np.array(steps), took * np.repeat([1.0, factor], 1000)), in_order=True).error_of(OVER_TIME)
        for factor in (1.0, 1.4)
    )
    assert alike.mean < 0.01
    assert 0.12 < mixed.mean < 0.2


def test_spells_that_are_shorter_than_a_part_of_the_recording_are_told() -> None:
    """A neighbour that doubles every step for a tenth of the time leaves medians and twentieths as they are."""
    steps = np.concatenate([random_steps(400, seed=1)] * 60)
    took, at = noisy_s(steps, 2), np.arange(len(steps))
    alone, shared = (
        fit(StepSamples(steps, took * slower), in_order=True)
        for slower in (np.ones(len(steps)), np.where(at % 4000 < 400, 2.0, 1.0))
    )
    parts = [one.error_of(OVER_TIME) for one in (alone, shared)]
    assert parts[0].slowest < 0.01 and parts[1].slowest > 0.5
    assert parts[1].mean < 0.2 and shared.error_of("all").median < 0.2


def test_scattered_steps_of_a_short_recording_are_not_blamed_on_the_machine() -> None:
    """Each of twenty parts would be one step."""
    steps = random_steps(20, seed=1)
    fitted = fit(StepSamples(steps, noisy_s(steps, 2)), in_order=True)
    assert fitted.error_of("all") is not None and fitted.error_of(OVER_TIME) is None


def test_errors_are_those_of_steps_as_they_were_where_a_drift_was_taken_out() -> None:
    """A quarter of the time everything took twice as long: that is in the mean, and in what is promised."""
    steps = random_steps(800, seed=3)
    steady = noisy_s(steps, 4)
    slowed = steady * np.where(np.arange(800) % 400 < 100, 2.0, 1.0)
    found = fit(StepSamples(steps, steady), in_order=True, as_measured_s=slowed)
    predicted = step_times_s(found.model, steps)
    assert predicted.sum() / slowed.sum() == pytest.approx(1, abs=0.02)
    assert abs(found.error_of("all").bias) < 0.03 and found.error_of("all").median > 0.15
    assert found.error_of(OVER_TIME).mean > 0.15
