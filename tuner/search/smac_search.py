"""SMAC, ask-and-tell, with three of its parts exchanged for faster ones that compute the same things.

* `LeanForest`: SMAC's random forest without the per-call thread pool and the two-million-node allocation of its
  scikit-learn builder, which take 97 % of a stock suggestion's time.
* `BelievingSelector`: asks for several configurations before the first result is back; those under way count as having
  the cost that the forest expects (kriging believer), so that a batch spreads.
* `OneExchangeMaximizer`: expected improvement over a random sample and the one-exchange neighbours of its best, scored
  in a handful of vectorised calls.

Costs come in on SMAC's plain encoder: its log-scaled one collapses on ties.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ConfigSpace import Configuration
from sklearn import config_context
from sklearn.tree import DecisionTreeRegressor
from smac import HyperparameterOptimizationFacade, Scenario
from smac.acquisition.function import EI
from smac.acquisition.maximizer.abstract_acquisition_maximizer import AbstractAcquisitionMaximizer
from smac.initial_design import AbstractInitialDesign
from smac.intensifier import Intensifier
from smac.main.config_selector import ConfigSelector
from smac.main.exceptions import ConfigurationSpaceExhaustedException
from smac.model.random_forest.random_forest import RandomForest
from smac.multi_objective.parego import ParEGO
from smac.random_design import ProbabilityRandomDesign
from smac.runhistory.dataclasses import TrialInfo, TrialValue
from smac.runhistory.encoder import RunHistoryEncoder
from smac.runhistory.enumerations import StatusType
from smac.utils.configspace import convert_configurations_to_array

from ...arrays import F64
from ..objective import FAILED
from .candidates import Candidates

TREES = 30
SAMPLE = 1000
CLIMBERS = 6
CLIMBS = 4
RANDOM_SHARE = 0.1
"""Share of suggestions drawn at random: what keeps the forest honest where it is sure and wrong."""
LEAST_VARIANCE = 1e-8


class LeanForest(RandomForest):
    """Bootstrapped trees with random split points, trained one by one; mean and variance over the trees."""

    def _train(self, X: F64, y: F64) -> "LeanForest":
        features, target = X.astype(np.float32), y.reshape(-1)
        splits = np.random.RandomState(self._rng.integers(2**31))  # what scikit-learn takes
        with config_context(assume_finite=True, skip_parameter_validation=True):
            self._trees = [self._tree(features, target, splits) for _ in range(TREES)]
        return self

    def _tree(self, features: Any, target: F64, splits: np.random.RandomState) -> DecisionTreeRegressor:
        rows = self._rng.integers(0, len(target), len(target))
        tree = DecisionTreeRegressor(splitter="random", random_state=splits)
        return tree.fit(features[rows], target[rows], check_input=False)

    def predict_marginalized(self, X: F64) -> tuple[F64, F64]:
        features = X.astype(np.float32)
        votes = np.stack([tree.tree_.predict(features).reshape(-1) for tree in self._trees])
        return votes.mean(axis=0)[:, None], np.maximum(votes.var(axis=0), LEAST_VARIANCE)[:, None]


class BelievingSelector(ConfigSelector):
    """Trains for every suggestion; configurations still running count as having the cost the forest expects of them."""

    def __init__(self, scenario: Scenario, **options: Any) -> None:
        super().__init__(scenario, **options)
        self._beliefs: dict[bytes, F64] = {}

    def __iter__(self) -> Iterator[Configuration]:
        while True:
            if self._runhistory_encoder.multi_objective_algorithm is not None:
                self._runhistory_encoder.multi_objective_algorithm.update_on_iteration_start()
            known, costs, configs = self._collect_data()
            if len(known) == 0:
                yield self._acquisition_maximizer.any_new()
                continue
            self._model.train(known, costs)
            incumbent, expected = self._get_x_best(configs)
            self._acquisition_function.update(
                model=self._model, eta=expected, incumbent_array=incumbent, num_data=len(known), X=configs
            )
            yield self._acquisition_maximizer.best(known)

    def _collect_data(self) -> tuple[F64, F64, F64]:
        known, costs, configs = super()._collect_data()
        running = self._runhistory.get_running_configs()
        if not running or len(known) == 0:
            return known, costs, configs
        pending = convert_configurations_to_array(running)
        believed = self._believed(pending, known, costs)
        return np.vstack([known, pending]), np.vstack([costs, believed]), np.vstack([configs, pending])

    def _believed(self, pending: F64, known: F64, costs: F64) -> F64:
        """(n, 1): what the forest expected of each pending configuration when it proposed the next one.

        With several objectives the scalarisation has changed since: the forest is trained on the present one first.
        """
        if self._runhistory_encoder.multi_objective_algorithm is not None:
            self._model.train(known, costs)
            self._beliefs = {}
        keys = [row.tobytes() for row in pending]
        expected = self._model.predict_marginalized(pending)[0]
        self._beliefs = {key: self._beliefs.get(key, cost) for key, cost in zip(keys, expected, strict=True)}
        return np.array([self._beliefs[key] for key in keys])

    def _get_x_best(self, X: F64) -> tuple[F64, float]:
        costs = self._model.predict_marginalized(X)[0].reshape(-1)
        best = int(np.argmin(costs))
        return X[best], float(costs[best])


class OneExchangeMaximizer(AbstractAcquisitionMaximizer):
    """The configuration of the largest expected improvement that may be proposed; now and then a random one."""

    def __init__(self, candidates: Candidates, seed: int) -> None:
        super().__init__(candidates.space.configspace, challengers=SAMPLE, seed=seed)
        self._candidates = candidates
        self._generator = np.random.default_rng(seed)

    def best(self, tried: F64) -> Configuration:
        """What to run next, having tried these. Raises ConfigurationSpaceExhaustedException where nothing is new."""
        if self._generator.random() < RANDOM_SHARE:
            return self.any_new()
        pool = self._candidates.draw(self._generator, SAMPLE)
        near = self._candidates.neighbours(self._promising(tried))
        pool, values = self._climb(self._scored(np.concatenate([pool, near])))
        order = np.argsort(-values, kind="stable")
        vector = next(self._candidates.accepted(pool[order]), None)
        return self.any_new() if vector is None else Configuration(self._configspace, vector=vector)

    def any_new(self) -> Configuration:
        """A new configuration at random."""
        vector = self._candidates.random(self._generator)
        if vector is None:
            raise ConfigurationSpaceExhaustedException
        return Configuration(self._configspace, vector=vector)

    def _promising(self, tried: F64) -> F64:
        expected = self._acquisition_function.model.predict_marginalized(tried)[0].reshape(-1)
        return tried[np.argsort(expected, kind="stable")[:CLIMBERS]]

    def _climb(self, scored: tuple[F64, F64]) -> tuple[F64, F64]:
        pool, values = scored
        for _ in range(CLIMBS):
            best = pool[np.argsort(-values, kind="stable")[:CLIMBERS]]
            found = self._candidates.legal(np.concatenate([pool, self._candidates.neighbours(best)]))
            if len(found) == len(pool):
                break
            fresh, gains = self._scored(found[len(pool) :])
            pool, values = np.concatenate([pool, fresh]), np.concatenate([values, gains])
        return pool, values

    def _scored(self, vectors: F64) -> tuple[F64, F64]:
        legal = self._candidates.legal(vectors)
        if len(legal) == 0:
            return legal, np.empty(0)
        return legal, self._acquisition_function._compute(legal).reshape(-1)

    def _maximize(self, previous_configs: list[Configuration], n_points: int) -> list[tuple[float, Configuration]]:
        raise NotImplementedError("BelievingSelector asks for the best one")


class OnceEach(Intensifier):
    """Every configuration runs once, and slotune ranks them itself: nothing to race, no incumbents to keep."""

    def __iter__(self) -> Iterator[TrialInfo]:
        for config in self.config_generator:
            yield TrialInfo(config, seed=0)

    def update_incumbents(self, config: Configuration) -> None:
        """Nothing: see the class."""


class NoDesign(AbstractInitialDesign):
    """The search brings its own first configurations."""

    def select_configurations(self) -> list[Configuration]:
        return []


class SmacProposer:
    """Suggests configurations, learns their costs. Close it: SMAC wants a folder, which is a temporary one."""

    def __init__(self, candidates: Candidates, seed: int, objectives: int = 1) -> None:
        logging.getLogger("smac").setLevel(logging.ERROR)
        self._candidates = candidates
        self._asked: dict[bytes, TrialInfo] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="slotune-smac-")
        self._smac = _facade(candidates, seed, objectives, Path(self._folder.name))

    def ask(self, count: int) -> list[F64]:
        """Up to `count` new configurations; fewer when the space holds no more."""
        suggested: list[F64] = []
        while len(suggested) < count:
            try:
                info = self._smac.ask()
            except (StopIteration, ConfigurationSpaceExhaustedException):
                break
            vector = np.array(info.config.get_array())
            self._candidates.take(vector)
            self._asked[vector.tobytes()] = info
            suggested.append(vector)
        return suggested

    def tell(self, vector: F64, costs: Sequence[float]) -> None:
        """What a configuration cost, asked for or not; FAILED costs mark one that did not run."""
        config = Configuration(self._candidates.space.configspace, vector=vector)
        info = self._asked.pop(vector.tobytes(), None) or TrialInfo(config, seed=0)
        status = StatusType.CRASHED if costs[0] >= FAILED else StatusType.SUCCESS
        cost = costs[0] if len(costs) == 1 else list(costs)
        self._smac.tell(info, TrialValue(cost=cost, status=status), save=False)

    def close(self) -> None:
        """Remove SMAC's folder."""
        self._folder.cleanup()


def _facade(candidates: Candidates, seed: int, objectives: int, folder: Path) -> HyperparameterOptimizationFacade:
    space = candidates.space.configspace
    scenario = Scenario(
        space,
        name="study",
        output_directory=folder,
        deterministic=True,
        n_trials=10**9,  # slotune counts; SMAC's meta must not depend on it
        seed=seed,
        objectives=[f"cost{i}" for i in range(objectives)] if objectives > 1 else "cost",
        crash_cost=[FAILED] * objectives if objectives > 1 else FAILED,
    )
    return HyperparameterOptimizationFacade(
        scenario,
        target_function=None,
        overwrite=True,
        logging_level=False,
        initial_design=NoDesign(scenario, n_configs=0),
        model=LeanForest(space, seed=seed),
        runhistory_encoder=RunHistoryEncoder(scenario),
        acquisition_function=EI(log=False),
        acquisition_maximizer=OneExchangeMaximizer(candidates, seed),
        random_design=ProbabilityRandomDesign(0.0, seed=seed),
        intensifier=OnceEach(scenario, max_config_calls=1),
        multi_objective_algorithm=ParEGO(scenario) if objectives > 1 else None,
        config_selector=BelievingSelector(scenario),
    )
