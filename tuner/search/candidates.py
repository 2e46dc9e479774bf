"""Configurations that may be proposed: drawn, varied, and held against every constraint that is known."""

from collections.abc import Callable, Iterator

import numpy as np

from ...arrays import F64
from ...simulator.settings import Settings
from ..study.space import SearchSpace
from .feasibility import FeasibilityForest

Refuses = Callable[[Settings], bool]
"""Whether the engine is known to refuse these settings: the KV-memory model, in the first place."""

DRAW = 1024
EXHAUSTED_AFTER = 8
"""Draws of DRAW points in a row without a single new configuration: there is none left to find."""


class Candidates:
    """The space without what is forbidden, refused, thought to fail, or proposed before."""

    def __init__(self, space: SearchSpace, refuses: Refuses, forest: FeasibilityForest) -> None:
        self.space = space
        self.forest = forest
        self._refuses = refuses
        self._refused: dict[int, bool] = {}
        self._taken: set[int] = set()

    def take(self, vector: F64) -> None:
        """Remember that this configuration was proposed."""
        self._taken.add(self._code(vector))

    def _code(self, vector: F64) -> int:
        return int(self.space.codes(vector[None, :])[0])

    def draw(self, rng: np.random.Generator, count: int) -> F64:
        """Up to `count` new configurations, uniform over each knob's values, that violate no declared constraint."""
        points = np.floor(rng.random((count, len(self.space.knobs))) * self.space.sizes())
        return self.legal(points)

    def legal(self, vectors: F64) -> F64:
        """Those rows that are new, distinct, allowed by the space and by the feasibility forest; in the same order."""
        allowed = vectors[self.space.allowed(vectors)]
        codes, first = np.unique(self.space.codes(allowed), return_index=True)
        new = ~np.isin(codes, np.fromiter(self._taken, np.int64, len(self._taken)))
        fresh = allowed[np.sort(first[new])]
        return fresh[self.forest.allows(fresh)]

    def neighbours(self, vectors: F64) -> F64:
        """All configurations that differ from one of `vectors` in one knob, and in what that knob forces."""
        sizes = self.space.sizes()
        moved = []
        for knob, size in enumerate(sizes):
            copies = np.repeat(vectors, size, axis=0)
            copies[:, knob] = np.tile(np.arange(size, dtype=float), len(vectors))
            moved.append(copies)
        return self.space.repaired(np.concatenate(moved))

    def refused(self, vector: F64) -> bool:
        """Whether the engine is known to refuse this configuration."""
        key = self._code(vector)
        if key not in self._refused:
            self._refused[key] = self._refuses(self.space.settings(vector))
        return self._refused[key]

    def accepted(self, vectors: F64) -> Iterator[F64]:
        """Those of `vectors` that the engine is not known to refuse, in order, each looked at when it is asked for."""
        return (vector for vector in vectors if not self.refused(vector))

    def random(self, rng: np.random.Generator) -> F64 | None:
        """One new configuration at random, or None when there seems to be no new one."""
        for _ in range(EXHAUSTED_AFTER):
            found = next(self.accepted(self.draw(rng, DRAW)), None)
            if found is not None:
                return found
        return None
