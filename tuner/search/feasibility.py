"""Hidden constraints: which configurations fail to start or to run, learned from those that did.

SCOOT's scheme (arXiv 2408.04323, section 4.3 and its released code): a random forest regresses success (1) or failure
(0) on the knobs, and a configuration is proposed only when its predicted probability of feasibility reaches a threshold
that moves: up after a failure, so that the search retreats, down after a run of successes, so that it explores again.
It saves failed launches; it does not by itself find better configurations.
"""

import numpy as np
from sklearn.ensemble import RandomForestRegressor

from ...arrays import F64, Mask

START, STEP = 0.5, 0.05
FAILURE_FLOOR, HIGHEST = 0.5, 0.75  # after a failure the threshold lies within these
LOWEST = 0.25
SUCCESSES_TO_RELAX = 5
MIN_TRIALS = 8
"""Trials before the forest is believed (SCOOT's own number)."""
TREES = 100


class FeasibilityForest:
    """Learns from `tell`, judges with `allows`. Until something has failed, everything is allowed."""

    def __init__(self, seed: int) -> None:
        self.threshold = START
        self._seed = seed
        self._vectors: list[F64] = []
        self._ran: list[bool] = []
        self._successes_in_a_row = 0
        self._forest: RandomForestRegressor | None = None

    def tell(self, vector: F64, ran: bool) -> None:
        """One configuration (a vector of value indices) ran, or failed."""
        self._vectors.append(vector)
        self._ran.append(ran)
        self._forest = None
        if not ran:
            self._successes_in_a_row = 0
            self.threshold = min(HIGHEST, max(FAILURE_FLOOR, self.threshold + STEP))
            return
        self._successes_in_a_row += 1
        if self._successes_in_a_row == SUCCESSES_TO_RELAX:
            self._successes_in_a_row = 0
            self.threshold = max(LOWEST, self.threshold - STEP)

    def probability(self, vectors: F64) -> F64:
        """Predicted probability that each row of `vectors` (n, knobs) runs; 1 where nothing is known against it."""
        if len(self._ran) < MIN_TRIALS or all(self._ran) or len(vectors) == 0:
            return np.ones(len(vectors))
        if self._forest is None:
            self._forest = RandomForestRegressor(TREES, random_state=self._seed, n_jobs=1)
            self._forest.fit(np.array(self._vectors), np.array(self._ran, float))
        return np.asarray(self._forest.predict(vectors), float)

    def allows(self, vectors: F64) -> Mask:
        """Which rows of `vectors` are probable enough to run."""
        return self.probability(vectors) >= self.threshold
