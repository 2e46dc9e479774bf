"""The main job: from what is asked to a recommended configuration, in the simulator."""

from collections.abc import Callable
from pathlib import Path

from ..arrays import F64
from ..profiler.profile import WHATEVER_MEMORY
from .conclusion import concluded, require_one_that_ran
from .finalists import idle_changes
from .finalists.contenders import run_longer_load, run_picked
from .finalists.other_orders import run_other_orders
from .finalists.other_step_times import run_other_step_times
from .finalists.variation import Variation, VariedRun
from .recommendation import Recommendation, best_yaml_of
from .search.candidates import Candidates
from .search.feasibility import FeasibilityForest
from .search.search import DESIGN, Proposer, RandomProposer, Runner, Search
from .search.smac_search import SmacProposer
from .search.start import between_token_limit_s, largest_budget, plain_budgets, sarathi_budget, sobol_design
from .study.comparison import compared
from .study.study import Asked, Study, Trial, check_place
from .study.task import Task, load_task
from .workers import workers


def tune(
    asked: Asked,
    out: Path,
    *,
    jobs: int | None = None,
    dask_scheduler: str | None = None,
    on_trial: Callable[[Trial, int], None] = lambda trial, done: None,
) -> Recommendation:
    """Search, keep everything in the study folder `out`, write best.yaml, and recommend.

    Continues the study when `out` holds one that asked for the same; where that was validated, what was measured is
    still what is recommended. Simulates in `jobs` processes or on the Dask cluster at `dask_scheduler`; the trials are
    the same. `on_trial` hears of each trial and how many configurations are done. Raises InputError for bad input;
    targets that nothing meets are the caller's to refuse (`require_targets`).
    """
    check_place(out, asked)  # before compiling, which takes longer
    task = load_task(asked)
    run = task.simulated()
    simulators = workers(VariedRun(run), jobs, prepare=run.compile, dask_scheduler=dask_scheduler)
    with simulators as run_all, Study.create(out, asked) as study:
        runner = Runner(study, lambda many: run_all(map(Variation, many)), on_trial)
        candidates = _candidates(task, study)
        proposer = _proposer(task, candidates)
        try:
            search = Search(candidates, task.objective, proposer, runner, asked.trials)
            search.run(_first(task, candidates), asked.optimizer, finish=asked.optimizer != "random")
        finally:
            proposer.close()

        def tell(trial: Trial) -> None:
            on_trial(trial, runner.done)

        run_longer_load(study, task, run_all, tell)
        run_other_orders(study, task, run_all, tell)
        idle_changes.take_back(study, task, run_all)
        # What that leaves of the winner is a new configuration, which runs there too.
        run_longer_load(study, task, run_all, tell)
        run_other_orders(study, task, run_all, tell)
        run_picked(study, task, run_all, tell)
        run_other_step_times(study, task, run_all, tell)
        found = concluded(study, task)
        require_one_that_ran(study, found)
        study.write_best(best_yaml_of(found))
    return found


def _candidates(task: Task, study: Study) -> Candidates:
    """The space without what is known to fail, also from what this study ran on hardware."""
    forest = FeasibilityForest(task.asked.seed)
    barred = {one.key for one in compared(study) if one.is_barred}
    for trial in study.trials("hardware"):
        if task.space.holds(trial.settings) and (trial.metrics is not None or trial.key in barred):
            forest.tell(task.space.vector(trial.settings), trial.metrics is not None)
    return Candidates(task.space, task.refuses, forest)


def _proposer(task: Task, candidates: Candidates) -> Proposer:
    if task.asked.optimizer == "random":
        return RandomProposer(candidates, task.asked.seed)
    return SmacProposer(candidates, task.asked.seed, max(len(task.objective.effective_goals), 1))


def _first(task: Task, candidates: Candidates) -> list[tuple[str, F64]]:
    """Sarathi's budget or, where no target limits the time between tokens, the largest, plain budgets, and the Sobol
    design; random search has nothing but its own points."""
    if task.asked.optimizer == "random":
        return []
    first: list[tuple[str, F64]] = []
    limit_s = between_token_limit_s(task.objective)
    if limit_s is None:
        first.append(("largest budget", largest_budget(task.space)))
    else:
        timing = task.profile.timing(WHATEVER_MEMORY | task.asked.engine)
        vector = sarathi_budget(task.space, task.default, timing, task.trace, limit_s)
        first += [("sarathi", vector)] if vector is not None else []
    first += [("budget", vector) for vector in plain_budgets(task.space)]
    known = [(origin, vector) for origin, vector in first if not candidates.refused(vector)]
    designed = DESIGN - sum(origin == "budget" for origin, _ in known)
    return known + [("sobol", vector) for vector in sobol_design(candidates, designed, task.asked.seed)]
