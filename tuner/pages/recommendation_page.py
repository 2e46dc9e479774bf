"""A recommendation as people and programs read it: a comparison with the default, and a JSON document."""

import math
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any, Protocol, TypeVar

from ..finalists.other_orders import OtherOrders
from ..hardware.validation import Validation, nothing_said
from ..objective import Metrics, Objective
from ..recommendation import Recommendation, called, cautions, default_lasts
from ..study.comparison import changes_text, quantities
from ..study.study import Trial, settings_key
from ..wording import Wording, of_limits, of_metric
from .validation_page import document as validation_document
from .validation_page import measured_document

SHOWN = {
    "mean_ttft_ms": "TTFT mean, ms",
    "p99_ttft_ms": "TTFT p99, ms",
    "mean_tpot_ms": "TPOT mean, ms",
    "p99_tpot_ms": "TPOT p99, ms",
    "request_throughput": "requests/s",
    "output_throughput": "output tokens/s",
}
WRONG = {
    "failed": "requests not answered, each a miss",
    "answers_cut": "answers cut at max_model_len, shorter than in the trace",
}
"""Shown where there are any."""


class Labelled(Protocol):
    """What a configuration gave under other circumstances."""

    @property
    def label(self) -> str:
        """What tables call them."""
        ...


Varied = TypeVar("Varied", bound=Labelled)


def comparison(recommendation: Recommendation) -> list[tuple[str, object, object]]:
    """Rows of (what, default, recommended): settings that differ, predicted metrics, and the targets met."""
    default, best, task = recommendation.default, recommendation.best, recommendation.task
    was: Mapping[str, Any] = {knob.name: knob.default for knob in task.space.knobs}
    changed = task.space.changes(best.settings)
    rows: list[tuple[str, object, object]] = [(name, str(was[name]), str(value)) for name, value in changed.items()]
    goals = [goal.metric for goal in task.objective.effective_goals]
    for key, label in ({key: key for key in goals} | SHOWN).items():
        rows.append((label, (default.metrics or {}).get(key), (best.metrics or {}).get(key)))
        if key in goals:
            rows += _varied_rows(recommendation, of_metric(key))
    for key, label in WRONG.items():
        of_default, of_best = (int((trial.metrics or {}).get(key, 0)) for trial in (default, best))
        if of_default or of_best:
            rows.append((label, of_default, of_best))
    for word in of_limits(task.objective):
        rows.append((word.name, word.of(default), word.of(best)))
        rows += _varied_rows(recommendation, word)
    return rows


def _varied_rows(recommendation: Recommendation, word: Wording) -> list[tuple[str, object, object]]:
    """What the number above gave on other orders, on a longer load, and with faster and slower steps; nothing where
    that is not known."""
    sides = (recommendation.default, recommendation.best)
    return [
        *_row(map(recommendation.orders_of, sides), word.orders),
        *_row(map(recommendation.longer_load_of, sides), lambda longer: word.run(longer.metrics)),
        *_row(map(recommendation.sensitivity_of, sides), word.steps),
    ]


def _row(sides: Iterable[Varied | None], text: Callable[[Varied], str]) -> list[tuple[str, object, object]]:
    """One row, where anything is known of either side."""
    default, best = sides
    known = best or default
    return [(f"  {known.label}", default and text(default), best and text(best))] if known else []


def keep_line(recommendation: Recommendation) -> list[str]:
    """That the default is to be kept, where it is."""
    if all(len(knob.values) == 1 for knob in recommendation.task.space.knobs):
        return ["Every setting is fixed: nothing was searched."]
    task, default = recommendation.task, recommendation.default
    if not task.space.changes(recommendation.best.settings):
        return ["Nothing that was tried is worth a change: keep the default settings."]
    if task.objective.slos and not task.objective.goals and task.objective.meets(default.metrics or {}):
        if default_lasts(recommendation):
            return ["The default settings meet the targets too, with less headroom."]
        return ["The default settings meet the targets on this trace, but not if its traffic continues."]
    return []


FRONT_NOTE = (
    "Rows are of this trace alone, without those known not to last on a longer load. Only the recommended settings are "
    "free of changes without effect."
)


def front_table(recommendation: Recommendation) -> tuple[list[str], list[list[object]]]:
    """Columns and rows of the Pareto front: the goals, and what each configuration changes."""
    goals, default = recommendation.task.objective.goals, recommendation.task.asked.engine
    rows: list[list[object]] = [
        [*((trial.metrics or {}).get(goal.metric) for goal in goals), changes_text(trial.settings, default)]
        for trial in recommendation.front
    ]
    return [*(goal.metric for goal in goals), "changes"], rows


def measured_lines(recommendation: Recommendation) -> list[str]:
    """What the runs on the engine say, and what the simulations would rather have; empty where nothing was measured."""
    measured, folder = recommendation.measured, recommendation.folder
    if measured is None:
        return []
    if measured.verdict is None:
        return [nothing_said(measured.found)]
    lines = [f"{called(recommendation).capitalize()} from measurements on the engine: {measured.verdict.sentence}"]
    if recommendation.simulated.key != recommendation.best.key:
        other = changes_text(recommendation.simulated.settings, recommendation.task.asked.engine)
        lines.append(f"The simulations alone would recommend {other}: `slotune validate {folder}` measures it")
    return lines


def document(recommendation: Recommendation) -> dict[str, Any]:
    """The JSON document of `slotune tune --json`; where runs on the engine are known, with what `validate` tells."""
    best, task, measured = recommendation.best, recommendation.task, recommendation.measured
    return (validation_document(measured) if measured else {}) | {
        "best": _side(recommendation, best),
        "default": _side(recommendation, recommendation.default),
        "trials": recommendation.trials,
        "front": [_side(recommendation, trial) for trial in recommendation.front],
        "study": str(recommendation.folder),
        "policy": task.asked.policy,
        "files": [str(path) for path in sorted(recommendation.folder.iterdir())],
        "profile": task.profile.describe(),
        "cautions": cautions(recommendation),
        "trust": recommendation.trust(),
    }


def _side(recommendation: Recommendation, trial: Trial) -> dict[str, Any]:
    metrics, measured, objective = trial.metrics, recommendation.measured, recommendation.task.objective
    orders, steps = recommendation.orders_of(trial), recommendation.sensitivity_of(trial)
    longer = recommendation.longer_load_of(trial)
    return {
        "engine": dict(trial.settings),
        "resolved": recommendation.task.resolved(trial.settings),
        "predicted": None if metrics is None else dict(metrics),
        "failure": trial.message,
        "targets": {} if metrics is None else objective.targets_met(metrics),
        "other_orders": None if orders is None else _orders_document(orders, objective),
        "longer_load": None if longer is None else longer.as_dict(objective.targets_met),
        "sensitivity": None if steps is None else steps.as_dict(objective.targets_met),
        "measured": None if measured is None else _measured(measured, trial.settings),
    }


def _measured(measured: Validation, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    key = settings_key(settings)
    return next((measured_document(measured, one) for one in measured.found if one.key == key), None)


def _spread(orders: OtherOrders, value: Callable[[Metrics], float]) -> dict[str, float]:
    low, high = orders.range(value)
    return {"mean": math.fsum(map(value, orders.runs)) / len(orders.runs), "low": low, "high": high}


def _by_target(orders: OtherOrders, objective: Objective) -> dict[str, list[bool]]:
    """Whether each target is met, order by order."""
    met = [objective.targets_met(metrics) for metrics in orders.runs]
    return {name: [one[name] for one in met] for name in met[0]}


def _orders_document(orders: OtherOrders, objective: Objective) -> dict[str, Any]:
    """Mean, least and greatest of the metrics that are shown, and how often each target is met."""
    read: dict[str, Callable[[Metrics], float]] = {key: itemgetter(key) for key in SHOWN}
    read |= {quantity.key: quantity.of for quantity in quantities(objective)}
    return {
        "orders": len(orders.runs),
        "metrics": {key: _spread(orders, read[key]) for key in sorted(read)},
        "targets_met": {name: met.count(True) for name, met in _by_target(orders, objective).items()},
    }
