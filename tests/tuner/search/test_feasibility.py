"""The threshold moves as SCOOT's does; the forest keeps away from what failed."""

import numpy as np

from slotune.tuner.search.feasibility import FeasibilityForest


def test_threshold_rises_with_failures_and_falls_after_five_successes():
    forest = FeasibilityForest(seed=0)
    seen = []
    for ran in [False] * 6 + [True] * 50:
        forest.tell(np.zeros(2), ran)
        seen.append(round(forest.threshold, 2))
    assert seen[:6] == [0.55, 0.6, 0.65, 0.7, 0.75, 0.75]
    assert seen[10] == 0.7
    assert seen[-1] == 0.25


def test_a_failure_ends_the_retreat():
    forest = FeasibilityForest(seed=0)
    for ran in [True] * 25 + [False]:
        forest.tell(np.zeros(2), ran)
    assert round(forest.threshold, 2) == 0.5


def test_everything_is_allowed_until_something_failed():
    forest = FeasibilityForest(seed=0)
    for i in range(20):
        forest.tell(np.array([float(i), 0.0]), True)
    assert forest.allows(np.array([[99.0, 9.0]])).all()


def test_the_failing_region_is_left_alone():
    forest = FeasibilityForest(seed=0)
    for i in range(20):
        forest.tell(np.array([float(i), 0.0]), i < 10)
    assert forest.allows(np.array([[2.0, 0.0], [18.0, 0.0]])).tolist() == [True, False]
    assert forest.allows(np.empty((0, 2))).shape == (0,)
