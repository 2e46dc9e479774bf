"""Staircases come in their order, as far as the time allows."""

import pytest

from slotune.profiler.measurement.chooser import CORNER_SHARE, Chooser, affordable
from slotune.profiler.measurement.design import Space, Staircase, corners, draw, forecast
from slotune.profiler.profile import linear_profile
from slotune.profiler.surrogate.model import FittedStepTime

SPACE = Space(max_num_batched_tokens=1024, max_num_seqs=32, max_model_len=4096, kv_tokens=65_536)
STEP_S = 0.01


@pytest.fixture
def model() -> FittedStepTime:
    """Every step takes as long."""
    return linear_profile(STEP_S, 0.0, 0.0, 0.0).step


def test_the_corners_come_first_then_what_is_drawn(model: FittedStepTime) -> None:
    chooser = Chooser(SPACE, seed=7)
    order = [chooser.next(model, 1e6) for _ in range(20)]
    assert order == [*corners(SPACE), *draw(SPACE, 64, seed=7)[:16]]


def test_no_scenario_takes_longer_than_it_may_and_corners_less(model: FittedStepTime) -> None:
    chooser, limit_s = Chooser(SPACE, seed=7), 1.2
    order = [chooser.next(model, limit_s) for _ in range(20)]
    times_s = [len(forecast(staircase, SPACE)) * STEP_S for staircase in order if staircase is not None]
    assert len(times_s) == 20
    assert max(times_s) <= limit_s
    assert max(times_s[: len(corners(SPACE))]) <= CORNER_SHARE * limit_s < max(times_s)


def test_where_nothing_is_short_enough_there_is_nothing(model: FittedStepTime) -> None:
    assert Chooser(SPACE, seed=7).next(model, 2 * STEP_S) is None
    assert not affordable(Staircase(((4000,) * 16,), 16, 3), SPACE, model, 1.0)
