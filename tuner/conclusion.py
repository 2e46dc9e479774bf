"""What a study recommends, read from everything that is in it."""

from ..errors import InputError
from .finalists import idle_changes
from .finalists.choice import picked
from .finalists.finalists import front_without
from .finalists.longer_load import longer_loads_of, lost_there
from .finalists.other_orders import orders_of
from .finalists.other_step_times import sensitivities_of
from .hardware.validation import validation_of
from .recommendation import Recommendation, after_measuring
from .study.comparison import compared, default_trial
from .study.study import Study
from .study.task import Task


def concluded(study: Study, task: Task) -> Recommendation:
    """What is recommended: by the measurements where there are any, otherwise by the simulations.

    The default stands in where no configuration could run, which is the caller's to refuse (`require_one_that_ran`).
    """
    trials, default = study.trials("simulation"), default_trial(study)
    simulated = picked(study, task, _barred(study).keys()) or default
    longer, several = longer_loads_of(study), len(task.objective.goals) > 1
    front = front_without(trials, task, lost_there(trials, task, longer)) if several else []
    found = Recommendation(
        folder=study.folder,
        task=task,
        best=simulated,
        default=default,
        # Also those of a search that was asked for more trials than this.
        trials=sum(trial.origin != idle_changes.ORIGIN for trial in trials),
        front=tuple(front),
        orders=orders_of(study),
        longer_loads=longer,
        sensitivities=sensitivities_of(study, task),
        simulated=simulated,
        measured=None,
    )
    return after_measuring(found, validation_of(study, task)) if study.trials("hardware") else found


def require_one_that_ran(study: Study, found: Recommendation) -> None:
    """Raise InputError where no configuration could run, with the first reason."""
    barred = _barred(study)
    if found.simulated.metrics is None or found.simulated.key in barred:
        reason = found.default.message or next(iter(barred.values()), None)
        raise InputError(f"no configuration of {found.trials} could run, the first because: {reason}")


def _barred(study: Study) -> dict[str, str | None]:
    """By `settings_key`, why a configuration that failed on the engine did."""
    return {one.key: one.failures[0].message for one in compared(study) if one.is_barred}
