"""Which of the best few is best on the whole."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from ..objective import Metrics
from ..study.ranking import recommended, reference_of
from ..study.study import Study, Trial, settings_key
from ..study.task import Task
from .finalists import eligible, on_longer_load, ran
from .longer_load import decided_by, longer_loads_of, lost_there
from .other_orders import orders_of


def picked(study: Study, task: Task, without: AbstractSet[str] = frozenset()) -> Trial | None:
    """The configuration that the simulations of a study speak for; None where nothing ran.

    The longer load decides between those that last there (`decided_by`). Where none is known to, the finalists' means
    over the other orders do, or the trials alone where those are not known. `without` holds the `settings_key` of
    configurations that are out of the question.
    """
    trials = [trial for trial in ran(study) if trial.key not in without]
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


def _best(trials: Sequence[Trial], judged: Sequence[Trial], task: Task, reference: Metrics | None) -> Trial:
    """The trial that is best by other metrics, which it has in `judged`."""
    best = recommended(judged, task.objective, task.space, reference or reference_of(judged))
    return next(trial for trial in trials if best is not None and trial.number == best.number)
