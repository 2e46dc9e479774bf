"""What a suggestion costs: slotune's SMAC beside the stock facade, on a landscape that costs nothing to evaluate.

    python benchmarks/search_overhead.py

CPU milliseconds of this process for one suggestion and the telling of its cost, after a number of trials.
"""

import logging
import tempfile
import time
from pathlib import Path

import numpy as np
from smac import HyperparameterOptimizationFacade, Scenario
from smac.runhistory.dataclasses import TrialInfo, TrialValue

from slotune.arrays import F64
from slotune.simulator.engine_config import EngineConfig
from slotune.tuner.search.candidates import Candidates
from slotune.tuner.search.feasibility import FeasibilityForest
from slotune.tuner.search.search import BATCH
from slotune.tuner.search.smac_search import SmacProposer
from slotune.tuner.study.space import SearchSpace, build_space

AFTER = (16, 64, 128, 256)
STOCK_SUGGESTIONS = 2


def main() -> None:
    """Print a row a number of trials."""
    logging.getLogger("smac").setLevel(logging.ERROR)
    space = build_space(EngineConfig(num_gpu_blocks=10_000, max_model_len=8192), {})
    print("trials  slotune ms  slotune, two goals ms  stock SMAC ms")
    for trials in AFTER:
        print(f"{trials:6}  {lean_ms(space, trials, 1):10.0f}  {lean_ms(space, trials, 2):21.0f}  ", end="", flush=True)
        print(f"{stock_ms(space, trials):13.0f}")


def cost(vector: F64) -> float:
    """A valley in the knobs' indices."""
    return float(((vector - 3.3) ** 2).sum())


def trials_of(space: SearchSpace, count: int) -> F64:
    """Legal configurations."""
    candidates = Candidates(space, lambda settings: False, FeasibilityForest(0))
    return candidates.draw(np.random.default_rng(0), 8 * count)[:count]


def lean_ms(space: SearchSpace, trials: int, goals: int) -> float:
    """One batch."""
    proposer = SmacProposer(Candidates(space, lambda settings: False, FeasibilityForest(0)), 0, goals)
    for vector in trials_of(space, trials):
        proposer.tell(vector, [cost(vector), *[float(vector[0])] * (goals - 1)])
    start_s = time.process_time()
    for vector in proposer.ask(BATCH):
        proposer.tell(vector, [cost(vector), *[float(vector[0])] * (goals - 1)])
    spent_s = time.process_time() - start_s
    proposer.close()
    return spent_s / BATCH * 1000


def stock_ms(space: SearchSpace, trials: int) -> float:
    """A few retraining suggestions of the facade as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
            space.configspace, output_directory=Path(folder), deterministic=True, n_trials=10**6, crash_cost=1e9
        )
        smac = HyperparameterOptimizationFacade(
            scenario,
            target_function=None,
            overwrite=True,
            logging_level=False,
            initial_design=HyperparameterOptimizationFacade.get_initial_design(scenario, n_configs=0),
            config_selector=HyperparameterOptimizationFacade.get_config_selector(scenario, retrain_after=1),
        )
        for _ in range(trials):
            config = space.configspace.sample_configuration()
            smac.tell(TrialInfo(config, seed=0), TrialValue(cost=cost(np.array(config.get_array()))), save=False)
        start_s = time.process_time()
        for _ in range(STOCK_SUGGESTIONS):
            info = smac.ask()
            smac.tell(info, TrialValue(cost=cost(np.array(info.config.get_array()))), save=False)
        return (time.process_time() - start_s) / STOCK_SUGGESTIONS * 1000


if __name__ == "__main__":
    main()
