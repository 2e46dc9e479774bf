"""Which of the best few is best on the whole."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from ..intervals import paired_ratio
from ..objective import Metrics
from ..study.ranking import recommended, reference_of
from ..study.study import Study, Trial, settings_key
from ..study.task import Task
from .finalists import eligible, on_longer_load, ran
from .longer_load import decided_by, holding_up, longer_loads_of, lost_there
from .other_orders import orders_of


def picked(study: Study, task: Task, without: AbstractSet[str] = frozenset()) -> Trial | None:
    """The configuration that the simulations of a study speak for; None where nothing ran.

    The longer load decides between those that last there (`decided_by`). Where none is known to, the finalists' means
    over the other orders do, or the trials alone where those are not known. A default that meets the targets everywhere
    stays, unless that is surely better (`_is_surely_nearer`). `without` holds the `settings_key` of configurations that
    are out of the question.
    """
    trials = [trial for trial in ran(study) if trial.key not in without]
    best = _picked(study, task, trials)
    default = next((trial for trial in trials if trial.key == settings_key(study.asked.engine)), None)
    if best is None or default is None or task.objective.effective_goals or not _suffices(study, task, default):
        return best
    return best if _is_surely_nearer(study, task, best, default) else default


def _picked(study: Study, task: Task, trials: Sequence[Trial]) -> Trial | None:
    longer, orders = longer_loads_of(study), orders_of(study)
    candidates = eligible(trials, task, lost_there(trials, task, longer))
    default = settings_key(study.asked.engine)
    if held := decided_by(candidates, task, longer):
        reference = longer[default].metrics if default in longer else None
        return _best(held, on_longer_load(held, longer), task, reference)
    if ordered := [trial for trial in candidates if trial.key in orders]:
        means = [replace(trial, metrics=orders[trial.key].mean()) for trial in ordered]
        return _best(ordered, means, task, orders[default].mean() if default in orders else None)
    return recommended(candidates, task.objective, task.space, reference_of(trials))


def _suffices(study: Study, task: Task, default: Trial) -> bool:
    """Whether the default meets the targets on the trace, on the longer load and in the other orders."""
    longer, orders = longer_loads_of(study), orders_of(study)
    runs = [default.metrics, *(orders[default.key].runs if default.key in orders else ())]
    lasts = default.key not in longer or bool(holding_up([default], task, longer))
    return lasts and all(metrics is not None and task.objective.meets(metrics) for metrics in runs)


def _is_surely_nearer(study: Study, task: Task, best: Trial, default: Trial) -> bool:
    """Whether `best` meets the targets in the other orders too, with more headroom than the default beyond chance.

    Else its lead is a part of the luck of the few requests that all trials ran on, the longer load included: of new
    ones, it may miss the targets. True where there are no other orders.
    """
    orders = orders_of(study)
    if best.key not in orders or default.key not in orders:
        return True
    if not all(map(task.objective.meets, orders[best.key].runs)):
        return False
    ratios = ([task.objective.worst_ratio(run) for run in orders[one.key].runs] for one in (best, default))
    return paired_ratio(*ratios).high < 1


def _best(trials: Sequence[Trial], judged: Sequence[Trial], task: Task, reference: Metrics | None) -> Trial:
    """The trial that is best by other metrics, which it has in `judged`."""
    best = recommended(judged, task.objective, task.space, reference or reference_of(judged))
    return next(trial for trial in trials if best is not None and trial.number == best.number)
