"""The main job: from what is asked to a recommended configuration, in the simulator."""

from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from .evaluate import workers
from .feasibility import FeasibilityForest
from .ranking import pareto_front
from .recommendation import Recommendation, best_yaml
from .search import DESIGN, Proposer, RandomProposer, Runner, Search
from .search_candidates import Candidates
from .search_start import between_token_limit_s, sarathi_budget, sobol_design
from .smac_search import SmacProposer
from .space import F64
from .study import Asked, Study, Trial
from .task import Task, load_task


def tune(
    asked: Asked,
    out: Path,
    *,
    jobs: int | None = None,
    on_trial: Callable[[Trial, int], None] = lambda trial, done: None,
) -> Recommendation:
    """Search, keep everything in the study folder `out`, write best.yaml, and recommend.

    Continues the study when `out` holds one that asked for the same. `on_trial` hears of each trial and how many are
    done. Raises InputError for bad input; targets that nothing meets are the caller's to refuse (`require_targets`).
    """
    task = load_task(asked)
    with workers(task.simulated().compiled(), jobs) as run_all, Study.create(out, asked) as study:
        runner = Runner(study, run_all, on_trial)
        candidates = _candidates(task, study)
        proposer = _proposer(task, candidates)
        try:
            search = Search(candidates, task.objective, proposer, runner, asked.trials)
            default = search.run(_first(task, candidates), asked.optimizer, finish=asked.optimizer != "random")
        finally:
            proposer.close()
        best = search.recommended()
        if best is None:
            raise InputError(f"no configuration of {runner.done} could run, the first because: {default.message}")
        front = pareto_front(runner.known(), task.objective, task.space, search.reference)
        several = len(task.objective.goals) > 1
        recommendation = Recommendation(out, task, best, default, runner.done, tuple(front) if several else ())
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
