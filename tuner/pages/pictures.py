"""The report's pictures, made from a study's trials and the simulations around its recommendation."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..objective import Metrics, Objective
from ..study.comparison import Compared, Quantity
from ..study.study import Trial
from .plots import EffectPanel, Line, MeasuredPoint, TrialPoint, effects_of_settings, objective_over_trials
from .sweep import OneChange, RatePoint


def rate_line(label: str, points: Sequence[RatePoint], quantity: Quantity, color: str) -> Line:
    """One configuration's latency over rates."""
    return Line(label, [p.rate for p in points], [quantity.of(p.metrics) for p in points], color)


def measured_points(found: Sequence[Compared], quantity: Quantity) -> list[MeasuredPoint]:
    """The configurations that have both a prediction and runs."""
    points = []
    for one in found:
        interval, predicted = one.measured(quantity), quantity.of(one.predicted)
        if math.isfinite(interval.value) and math.isfinite(predicted):
            points.append(MeasuredPoint(one.name, predicted, interval.value, interval.low, interval.high))
    return points


@dataclass(frozen=True, slots=True)
class Criterion:
    """One of the numbers that decide between configurations."""

    label: str
    of: Callable[[Metrics], float]
    maximize: bool = False
    limit: float | None = None

    def value(self, metrics: Metrics | None) -> float:
        """NaN for a configuration that cannot run, or answers too little to have one."""
        value = self.of(metrics) if metrics is not None else math.nan
        return value if math.isfinite(value) else math.nan


def criteria(objective: Objective) -> list[Criterion]:
    """The goals' metrics and, where there are targets, the worst latency over its target."""
    goals = objective.effective_goals
    found = [Criterion(goal.metric, partial(_metric, goal.metric), goal.maximize) for goal in goals]
    if objective.slos or not goals:
        found.append(Criterion("worst latency / target", objective.worst_ratio, limit=1.0))
    return found


def _metric(name: str, metrics: Metrics) -> float:
    return metrics.get(name, math.nan)


def trials_picture(trials: Sequence[Trial], objective: Objective) -> str:
    """The first goal over trials; how near they came to the targets where none meets them."""
    meet = [trial.metrics is not None and objective.meets(trial.metrics) for trial in trials]
    shown = criteria(objective)[0 if any(meet) else -1]
    points = [TrialPoint(t.number or 0, shown.value(t.metrics), met) for t, met in zip(trials, meet, strict=True)]
    return objective_over_trials(points, shown.label, lower_is_better=not shown.maximize)


NO_EFFECT = 1.01
"""Ratio of the largest to the smallest effect below which a setting gets no panel."""


def effects_section(
    variations: Sequence[OneChange], objective: Objective, in_use: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The settings that matter, as a picture for each of the criteria that they move, and the rest by name; None where
    nothing was varied, or nothing that was has a value."""
    by_name: dict[str, list[OneChange]] = {}
    for variation in variations:
        by_name.setdefault(variation.name, []).append(variation)
    pictures, acting = [], set()
    for criterion in criteria(objective):
        panels = [_panel(name, mine, criterion, in_use.get(name)) for name, mine in by_name.items()]
        matter = sorted(filter(_acts, panels), key=_swing, reverse=True)
        if matter:
            pictures.append(effects_of_settings(matter, criterion.label, criterion.limit))
            acting |= {panel.title for panel in matter}
    without = ", ".join(name for name in by_name if name not in acting)
    told = pictures or any(math.isfinite(c.value(v.metrics)) for c in criteria(objective) for v in variations)
    return {"pictures": pictures, "without": without, "targets": bool(objective.slos)} if told else None


def _panel(name: str, variations: Sequence[OneChange], criterion: Criterion, current: Any) -> EffectPanel:
    values = [variation.value for variation in variations]
    place = values.index(current) if current in values else None
    effects = [criterion.value(variation.metrics) for variation in variations]
    return EffectPanel(name, [str(value) for value in values], effects, place)


def _acts(panel: EffectPanel) -> bool:
    """Whether a setting moves the number by more than NO_EFFECT, or has values without one beside such as have it."""
    known = [effect for effect in panel.effects if math.isfinite(effect)]
    return bool(known) and (len(known) < len(panel.effects) or max(known) > NO_EFFECT * min(known))


def _swing(panel: EffectPanel) -> float:
    known = [effect for effect in panel.effects if effect > 0]
    return max(known) / min(known) if known else 0.0
