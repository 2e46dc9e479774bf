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
from collections.abc import Sequence
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
from smac.main.config_selector import ConfigSelector
from smac.main.exceptions import ConfigurationSpaceExhaustedException
from smac.model.random_forest.random_forest import RandomForest
from smac.multi_objective.parego import ParEGO
from smac.random_design import ProbabilityRandomDesign
from smac.runhistory.dataclasses import TrialInfo, TrialValue
from smac.runhistory.encoder import RunHistoryEncoder
from smac.runhistory.enumerations import StatusType
from smac.utils.configspace import convert_configurations_to_array

from .objective import FAILED
from .search_candidates import Candidates
from .space import F64

TREES = 20
SAMPLE = 1000
CLIMBERS = 6
CLIMBS = 4
RANDOM_SHARE = 0.1
"""Share of suggestions drawn at random: what keeps the forest honest where it is sure and wrong."""
OFFERED = 8
LEAST_VARIANCE = 1e-8


class LeanForest(RandomForest):
    """Bootstrapped trees with random split points, trained one by one; mean and variance over the trees."""

    def _train(self, X: F64, y: F64) -> "LeanForest":
        features, target = X.astype(np.float32), y.reshape(-1)
        with config_context(assume_finite=True, skip_parameter_validation=True):
            self._trees = [self._tree(features, target) for _ in range(TREES)]
        return self

    def _tree(self, features: Any, target: F64) -> DecisionTreeRegressor:
        rows = self._rng.integers(0, len(target), len(target))
        weights = np.bincount(rows, minlength=len(target)).astype(float)
        tree = DecisionTreeRegressor(splitter="random", random_state=int(self._rng.integers(2**31)))
        return tree.fit(features, target, sample_weight=weights, check_input=False)

    def predict_marginalized(self, X: F64) -> tuple[F64, F64]:
        features = X.astype(np.float32)
        votes = np.stack([tree.tree_.predict(features).reshape(-1) for tree in self._trees])
        return votes.mean(axis=0)[:, None], np.maximum(votes.var(axis=0), LEAST_VARIANCE)[:, None]


class BelievingSelector(ConfigSelector):
    """Counts configurations that are still running as having the cost that the forest expects of them."""

    def __init__(self, scenario: Scenario, **options: Any) -> None:
        super().__init__(scenario, **options)
        self._beliefs: dict[bytes, F64] = {}

    def _collect_data(self) -> tuple[F64, F64, F64]:
        self._previous_entries = -1  # beliefs change the data without changing their number
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
    """Best first, OFFERED configurations that may be proposed; now and then a random one leads."""

    def __init__(self, candidates: Candidates, seed: int) -> None:
        super().__init__(candidates.space.configspace, challengers=SAMPLE, seed=seed)
        self._candidates = candidates
        self._generator = np.random.default_rng(seed)

    def _maximize(self, previous_configs: list[Configuration], n_points: int) -> list[tuple[float, Configuration]]:
        pool = self._candidates.draw(self._generator, n_points)
        near = self._candidates.neighbours(self._promising(convert_configurations_to_array(previous_configs)))
        pool, values = self._climb(self._scored(np.concatenate([pool, near])))
        order = np.argsort(-values, kind="stable")
        if self._generator.random() < RANDOM_SHARE:
            order = self._generator.permutation(len(pool))
        offered: list[tuple[float, Configuration]] = []
        for index in order:
            if not self._candidates.refused(pool[index]):
                offered.append((float(values[index]), Configuration(self._configspace, vector=pool[index])))
            if len(offered) == OFFERED:
                break
        return offered or [(0.0, self._last_resort())]

    def _last_resort(self) -> Configuration:
        """Any configuration that is new, where neither sample nor neighbours had one."""
        vector = self._candidates.random(self._generator)
        if vector is None:
            raise ConfigurationSpaceExhaustedException
        return Configuration(self._configspace, vector=vector)

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

    def _promising(self, tried: F64) -> F64:
        expected = self._acquisition_function.model.predict_marginalized(tried)[0].reshape(-1)
        return tried[np.argsort(expected, kind="stable")[:CLIMBERS]]

    def _scored(self, vectors: F64) -> tuple[F64, F64]:
        legal = self._candidates.legal(vectors)
        if len(legal) == 0:
            return legal, np.empty(0)
        return legal, self._acquisition_function._compute(legal).reshape(-1)


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
        intensifier=HyperparameterOptimizationFacade.get_intensifier(scenario, max_config_calls=1),
        multi_objective_algorithm=ParEGO(scenario) if objectives > 1 else None,
        config_selector=BelievingSelector(scenario, retrain_after=1, max_new_config_tries=OFFERED),
    )
