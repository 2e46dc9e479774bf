"""Changes of the recommended configuration that change nothing that is predicted: they are taken back.

Search leaves them in: a limit that is never reached, a prefix cache without prefixes. Nobody should deploy them, and a
reader would take them for a part of the answer.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...simulator.settings import Settings
from ..objective import Metrics
from ..study.study import Study, settings_key, trial_of
from ..study.task import Task
from .choice import picked
from .variation import RunVariations, Variation

ORIGIN = "plain"
"""Of trials that are no part of the search."""


def take_back(study: Study, task: Task, run_all: RunVariations) -> None:
    """Put the winner without its idle changes into the study, where it has any and the study does not know it yet."""
    winner = picked(study, task)
    if winner is None or winner.metrics is None:
        return
    without = [_less(winner.settings, {name}) for name in task.space.changes(winner.settings)]
    legal = [settings for settings in without if not task.refuses(settings) and _is_allowed(settings, task)]
    outcomes = list(run_all(map(Variation, legal)))
    idle = {
        next(iter(winner.settings.keys() - settings.keys()))
        for settings, outcome in zip(legal, outcomes, strict=True)
        if _same(outcome.metrics, winner.metrics)
    }
    settings = _less(winner.settings, idle)
    if not _is_allowed(settings, task):
        return
    known = {trial.key for trial in study.trials("simulation")}
    if not idle or settings_key(settings) in known:
        return
    outcome = next(run_all([Variation(settings)]))
    if _same(outcome.metrics, winner.metrics):
        study.add(trial_of(settings, outcome, origin=ORIGIN))


def _is_allowed(settings: Settings, task: Task) -> bool:
    """Whether vLLM takes the other defaults beside these settings, and does not lower one of them."""
    return task.space.holds(settings) and task.space.is_allowed(task.space.vector(settings))


def _less(settings: Mapping[str, Any], names: set[str]) -> Settings:
    return {name: value for name, value in settings.items() if name not in names}


def _same(one: Metrics | None, other: Metrics) -> bool:
    """Whether nothing differs, to the last digit: what is only alike may differ on other requests."""
    return one is not None and all(np.array_equal(one[key], other[key], equal_nan=True) for key in other)
