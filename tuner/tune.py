"""The main job: from what is asked to a recommended configuration, in the simulator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InfeasibleError, InputError
from ..simulator.engine_config import Settings
from .evaluate import workers
from .export import vllm_yaml
from .feasibility import FeasibilityForest
from .objective import Metrics, Objective
from .ranking import pareto_front
from .search import DESIGN, Proposer, RandomProposer, Runner, Search, trials_to_search
from .search_candidates import Candidates
from .search_start import between_token_limit_s, sarathi_budget, sobol_design
from .smac_search import SmacProposer
from .space import F64
from .study import Asked, Study, Trial
from .task import Task, load_task

OPTIMIZERS = ("smac", "random")


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What a search found, beside the default."""

    folder: Path
    task: Task
    best: Trial
    default: Trial
    trials: int
    front: tuple[Trial, ...]
    """With several goals: every configuration that no other beats in all of them."""

    @property
    def settings(self) -> Settings:
        """The recommended settings, with what was fixed."""
        return dict(self.best.settings)

    def meets_targets(self) -> bool:
        """Whether the recommended configuration meets every target in the simulator."""
        return self.task.objective.meets(self.best.metrics or {})


def tune(
    asked: Asked,
    out: Path,
    *,
    jobs: int | None = None,
    on_trial: Callable[[Trial, int], None] = lambda trial, done: None,
) -> Recommendation:
    """Search, keep everything in the study folder `out`, write best.yaml, and recommend.

    Continues the study when `out` holds one that asked for the same. `on_trial` hears of each trial and how many are
    done. Raises InputError for bad input; see `require_targets` for targets that nothing meets.
    """
    task = load_task(asked)
    with workers(task.simulated(), jobs) as run_all, Study.create(out, asked) as study:
        runner = Runner(study, run_all, on_trial)
        candidates = _candidates(task, study)
        proposer = _proposer(task, candidates)
        try:
            search = Search(candidates, task.objective, proposer, runner, asked.trials)
            default = search.start(_first(task, candidates))
            search.suggest(asked.optimizer, trials_to_search(asked.trials))
            search.simplify()
        finally:
            proposer.close()
        best = search.best()
        if best is None:
            raise InputError(f"no configuration of {runner.done} could run, the first because: {default.message}")
        front = pareto_front(runner.known(), task.objective, search.reference) if len(task.objective.goals) > 1 else []
        recommendation = Recommendation(out, task, best, default, runner.done, tuple(front))
        study.write_best(best_yaml(recommendation))
    return recommendation


def _candidates(task: Task, study: Study) -> Candidates:
    """The space without what is known to fail, also from what this study ran on hardware."""
    forest = FeasibilityForest(task.asked.seed)
    for trial in study.trials("hardware"):
        if task.space.holds(trial.settings):
            forest.tell(task.space.vector(trial.settings), trial.metrics is not None)
    return Candidates(task.space, task.refuses, forest)


def _proposer(task: Task, candidates: Candidates) -> Proposer:
    if task.asked.optimizer == "random":
        return RandomProposer(candidates, task.asked.seed)
    return SmacProposer(candidates, task.asked.seed, max(len(task.objective.effective_goals()), 1))


def _first(task: Task, candidates: Candidates) -> list[tuple[str, F64]]:
    """Sarathi's budget and the Sobol design; random search has nothing but its own points."""
    if task.asked.optimizer == "random":
        return []
    first: list[tuple[str, F64]] = []
    limit_s = between_token_limit_s(task.objective)
    if limit_s is not None:
        vector = sarathi_budget(task.space, task.default, task.profile.timing(task.asked.engine), task.trace, limit_s)
        if vector is not None and not candidates.refused(vector):
            first.append(("sarathi", vector))
    return first + [("sobol", vector) for vector in sobol_design(candidates, DESIGN, task.asked.seed)]


def require_targets(recommendation: Recommendation) -> None:
    """Raise InfeasibleError where not even the best configuration meets the targets, naming the nearest miss."""
    metrics, objective = recommendation.best.metrics or {}, recommendation.task.objective
    missed = [slo for slo in objective.slos if objective.ratio(slo, metrics) > 1]
    if missed:
        worst = max(missed, key=lambda slo: objective.ratio(slo, metrics))
        raise InfeasibleError(
            f"none of {recommendation.trials} configurations meets the targets; the nearest has {worst.name} "
            f"{worst.value_ms(metrics):.4g} ms where {worst.limit_ms:g} are allowed: allow more, lower --rate, or plan "
            "for more replicas"
        )


def targets_met(objective: Objective, metrics: Metrics) -> dict[str, bool]:
    """Each target as it was written, and whether it is met."""
    return {str(slo): objective.ratio(slo, metrics) <= 1 for slo in objective.slos}


def best_yaml(recommendation: Recommendation) -> str:
    """best.yaml: the settings as `vllm serve --config` reads them, headed by what they were chosen on."""
    asked = recommendation.task.asked
    comments = [
        f"recommended by slotune {asked.versions.slotune} after {recommendation.trials} simulated configurations",
        recommendation.task.profile.provenance,
        f"trace {asked.trace}" + (f" at {asked.rate:g} requests/s" if asked.rate else ""),
        *(f"{target}: {'met' if met else 'missed'} in simulation" for target, met in _met(recommendation).items()),
    ]
    return vllm_yaml(recommendation.settings, recommendation.task.profile.engine.model, comments)


def _met(recommendation: Recommendation) -> dict[str, bool]:
    return targets_met(recommendation.task.objective, recommendation.best.metrics or {})


def document(recommendation: Recommendation, measured: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The JSON document of `slotune tune --json`; `measured` is what validation found of the best configuration."""
    best, task = recommendation.best, recommendation.task
    return {
        "best": _side(recommendation, best) | {"measured": measured},
        "default": _side(recommendation, recommendation.default) | {"measured": None},
        "trials": recommendation.trials,
        "front": [_side(recommendation, trial) for trial in recommendation.front],
        "study": str(recommendation.folder),
        "files": [str(path) for path in sorted(recommendation.folder.iterdir())],
        "profile": task.profile.describe(),
        "trust": task.profile.trust() | {"extrapolated_share": (best.metrics or {}).get("extrapolated_share", 0.0)},
    }


def _side(recommendation: Recommendation, trial: Trial) -> dict[str, Any]:
    metrics = trial.metrics
    return {
        "engine": dict(trial.settings),
        "predicted": None if metrics is None else dict(metrics),
        "failure": trial.message,
        "targets": {} if metrics is None else targets_met(recommendation.task.objective, metrics),
    }
