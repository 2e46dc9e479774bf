"""Which of the best few is best on the whole."""

from collections.abc import Set as AbstractSet
from dataclasses import replace

from .finalists import eligible, ran
from .longer_load import longer_loads_of
from .objective import Objective
from .other_orders import orders_of
from .ranking import recommended, reference_of
from .study import Study, Trial, settings_key
from .task import Task


def picked(study: Study, task: Task, without: AbstractSet[str] = frozenset()) -> Trial | None:
    """The configuration that the simulations of a study speak for; None where nothing ran.

    The finalists' means over the other orders decide, or the trials alone where those are not known, among those that
    meet the targets on the longer load where any does. `without` holds the `settings_key` of configurations that are
    out of the question.
    """
    trials = [trial for trial in ran(study) if trial.key not in without]
    orders, candidates = orders_of(study), _lasting(eligible(trials, task), study, task.objective)
    ordered = [trial for trial in candidates if trial.key in orders]
    if not ordered:
        return recommended(candidates, task.objective, task.space, reference_of(trials))
    means = [replace(trial, metrics=orders[trial.key].mean()) for trial in ordered]
    default = orders.get(settings_key(study.asked.engine))
    best = recommended(means, task.objective, task.space, default.mean() if default else reference_of(means))
    return next(trial for trial in ordered if best is not None and trial.number == best.number)


def _lasting(trials: list[Trial], study: Study, objective: Objective) -> list[Trial]:
    """Those that meet the targets on the longer load; all where none is known to."""
    longer = longer_loads_of(study)
    lasting = [trial for trial in trials if trial.key in longer and objective.meets(longer[trial.key].metrics)]
    return lasting or trials
