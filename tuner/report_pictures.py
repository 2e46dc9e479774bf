"""The report's pictures, made from a study's trials and the simulations around its recommendation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .comparison import Compared, Quantity
from .objective import Metrics, Objective
from .plots import (
    EffectPanel,
    Line,
    MeasuredPoint,
    TrialPoint,
    effects_of_settings,
    objective_over_trials,
)
from .study import Trial
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


def effect_of(metrics: Metrics | None, objective: Objective) -> float:
    """What the search looks at, as one number: the first goal's metric, or the worst latency over its target."""
    if metrics is None:
        return math.nan
    goals = objective.effective_goals()
    value = metrics.get(goals[0].metric, math.nan) if goals else objective.worst_ratio(metrics)
    return value if math.isfinite(value) else math.nan


def effect_label(objective: Objective) -> str:
    """What `effect_of` gives, in words."""
    goals = objective.effective_goals()
    return goals[0].metric if goals else "worst latency / target"


def trials_picture(trials: Sequence[Trial], objective: Objective) -> str:
    """The objective over trials."""
    points = [
        TrialPoint(t.number or 0, effect_of(t.metrics, objective), t.metrics is not None and objective.meets(t.metrics))
        for t in trials
    ]
    goals = objective.effective_goals()
    return objective_over_trials(points, effect_label(objective), lower_is_better=not (goals and goals[0].maximize))


NO_EFFECT = 1.01
"""Ratio of the largest to the smallest effect below which a setting gets no panel."""


def effects_section(
    variations: Sequence[OneChange], objective: Objective, in_use: Mapping[str, Any]
) -> dict[str, str] | None:
    """The settings that matter as a picture, the rest by name; None where nothing was varied."""
    by_name: dict[str, list[OneChange]] = {}
    for variation in variations:
        by_name.setdefault(variation.name, []).append(variation)
    panels = []
    for name, mine in by_name.items():
        values = [variation.value for variation in mine]
        current = values.index(in_use[name]) if in_use.get(name) in values else None
        panels.append(
            EffectPanel(name, [str(v) for v in values], [effect_of(v.metrics, objective) for v in mine], current)
        )
    acting = {name for name, mine in by_name.items() if _acts(mine, objective)}
    matter = sorted((panel for panel in panels if panel.title in acting), key=_swing, reverse=True)
    without = ", ".join(panel.title for panel in panels if panel.title not in acting)
    picture = effects_of_settings(matter, effect_label(objective)) if matter else ""
    return {"picture": picture, "without": without} if panels else None


def _acts(variations: Sequence[OneChange], objective: Objective) -> bool:
    """Whether a setting moves any goal or the worst latency by more than NO_EFFECT, or has values that cannot run."""
    if any(variation.metrics is None for variation in variations):
        return True
    known = [variation.metrics or {} for variation in variations]
    looked_at = [[metrics.get(goal.metric, math.nan) for metrics in known] for goal in objective.effective_goals()]
    looked_at.append([objective.worst_ratio(metrics) for metrics in known])
    return any(not max(values) <= NO_EFFECT * min(values) for values in looked_at)


def _swing(panel: EffectPanel) -> float:
    known = [effect for effect in panel.effects if effect > 0]
    return max(known) / min(known) if known else 0.0
