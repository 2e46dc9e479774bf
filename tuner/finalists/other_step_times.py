"""The best few of a search with faster and with slower steps: how the prediction would differ, were the profile wrong.

It decides nothing and is told: what a target is worth where the profile errs is the reader's to weigh.
"""

from collections.abc import Callable, Collection, Mapping

from ...simulator.timing import Pace
from ..objective import Metrics
from ..sensitivity import Doubt, Sensitivity, doubt_of
from ..study.study import Study, Trial
from ..study.task import Task
from .finalists import finalists
from .variation import RunVariations, Variation, pace_of, run_variations

ORIGIN = "other step time"


def sensitivities_of(study: Study, task: Task) -> dict[str, Sensitivity]:
    """What the study knows of other step times, by `settings_key`."""
    doubt, _ = _doubt(study, task)
    if doubt is None:
        return {}
    known = _known(study)
    keys = dict.fromkeys(key for key, _ in known)
    sides = {key: [known.get((key, pace)) for pace in (doubt.faster, doubt.slower)] for key in keys}
    return {key: Sensitivity(doubt, faster, slower) for key, (faster, slower) in sides.items() if faster and slower}


def run_other_step_times(
    study: Study,
    task: Task,
    run_all: RunVariations,
    on_trial: Callable[[Trial], None],
) -> None:
    """Run the default and the finalists whose error is known with faster and slower steps (`run_variations`)."""
    doubt, keys = _doubt(study, task)
    if doubt is None:
        return
    wanted = [
        (number, Variation(settings, pace=pace))
        for key, settings in finalists(study, task).items()
        if key in keys
        for number, pace in enumerate((doubt.faster, doubt.slower))
    ]
    run_variations(study, "other step times", ORIGIN, wanted, run_all, on_trial)


def _doubt(study: Study, task: Task) -> tuple[Doubt | None, Collection[str]]:
    """What they are varied by, the error of extrapolated steps where any of them makes many; and those of which any is
    known, by `settings_key`."""
    keys = finalists(study, task).keys()
    ran = {trial.key: trial.metrics or {} for trial in study.trials("simulation") if trial.key in keys}
    known = {key: run for key, run in ran.items() if doubt_of(task.profile, [run]) is not None}
    return (doubt_of(task.profile, known.values()) if known else None), known.keys()


def _known(study: Study) -> Mapping[tuple[str, Pace], Metrics]:
    """Metrics by `settings_key` and pace."""
    return {
        (trial.key, pace_of(trial)): trial.metrics
        for trial in study.trials("other step times")
        if trial.metrics is not None
    }
