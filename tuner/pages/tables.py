"""The report's tables: plain rows of text, made from a study."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...figures import NONE, digits, figure
from ..hardware.verdict import mean_good_share, mean_ratio, percent
from ..intervals import Interval
from ..objective import GOOD_SHARE, Metrics, Objective, good_share, met_or_missed, share_text
from ..study.comparison import Compared, Quantity, changes_text, comparisons
from ..study.study import Trial


@dataclass(frozen=True, slots=True)
class Cell:
    """A number as text; `status` is "met", "missed" or "", `interval` stands below it."""

    text: str
    status: str = ""
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Words first, then numbers. `mark` lifts the row out; `code` is the label set as code (0: none)."""

    labels: Sequence[str]
    cells: Sequence[Cell] = ()
    mark: bool = False
    code: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows; the first `labels` columns are words."""

    columns: Sequence[str]
    rows: Sequence[Row] = ()
    labels: int = 1


@dataclass(frozen=True, slots=True)
class Side:
    """A configuration in the answer's table."""

    name: str
    predicted: Metrics | None
    measured: Compared | None = None


def between(interval: Interval) -> str:
    """An interval's bounds, or why there are none."""
    if math.isnan(interval.low):
        return "one run" if interval.runs == 1 else ""
    return f"{figure(interval.low, 3)} to {figure(interval.high, 3)}"


def answer_table(objective: Objective, shown: Sequence[Quantity], sides: Sequence[Side]) -> Table:
    """Each quantity of each side, predicted and, where there are runs, measured; first the share of good requests where
    it is a target."""
    columns, rows = ["", "target"], []
    for side in sides:
        columns.append(f"{side.name}, predicted")
        if side.measured and side.measured.runs:
            columns.append(f"{side.name}, measured")
    if objective.good_is_target:
        needed = f"≥\N{NO-BREAK SPACE}{GOOD_SHARE:.0%}"
        rows.append(Row(("good\N{NO-BREAK SPACE}requests", needed), [cell for side in sides for cell in _good(side)]))
    for quantity in shown:
        cells = []
        for side in sides:
            cells.append(_predicted(quantity, side.predicted))
            if side.measured and side.measured.runs:
                cells.append(_measured(quantity, side.measured))
        target = f"≤\N{NO-BREAK SPACE}{digits(quantity.slo.limit_ms)}\N{NO-BREAK SPACE}ms" if quantity.slo else ""
        rows.append(Row((quantity.heading, target), cells))
    return Table(columns, rows, labels=2)


def _good(side: Side) -> list[Cell]:
    """The share of good requests, predicted and, where there are runs, measured."""
    shares = [math.nan if side.predicted is None else good_share(side.predicted)]
    shares += [mean_good_share(side.measured)] if side.measured and side.measured.runs else []
    return [
        Cell(NONE) if math.isnan(share) else Cell(share_text(share), met_or_missed(share >= GOOD_SHARE))
        for share in shares
    ]


def _predicted(quantity: Quantity, metrics: Metrics | None) -> Cell:
    if metrics is None:
        return Cell(NONE)
    ratio = quantity.slo.ratio(metrics) if quantity.slo else math.nan
    return Cell(figure(quantity.of(metrics), 3), _status(ratio))


def _measured(quantity: Quantity, one: Compared) -> Cell:
    interval = one.measured(quantity)
    ratio = mean_ratio(one, quantity.slo) if quantity.slo else math.nan
    return Cell(figure(interval.value, 3), _status(ratio), between(interval))


def _status(ratio: float) -> str:
    return "" if math.isnan(ratio) else met_or_missed(ratio <= 1)


def changes_table(
    settings: Mapping[str, Any], default: Mapping[str, Any], asked: Mapping[str, Any], called: str
) -> Table:
    """The settings that differ: name, default's value, value of what is `called` so. `asked` are the study's fixed
    ones."""
    rows = [
        Row((name, str(default.get(name, "engine's own")), str(value)))
        for name, value in settings.items()
        if asked.get(name) != value
    ]
    return Table(("setting", "default", called), rows, labels=3)


def validation_table(found: Sequence[Compared], shown: Sequence[Quantity], recommended: str) -> Table:
    """A row for each configuration and quantity: predicted, measured with interval, error, change against default.

    The second error is that for steps as slow as they were in each run."""
    default, rows = found[0], []
    for one in found:
        for place, quantity in enumerate(shown):
            if not one.runs:
                continue
            change = one.against(default, quantity, comparisons(found))
            name = f"{one.name}, {one.runs_text}" if place == 0 else ""
            settings = changes_text(one.settings, default.settings) if place == 0 else ""
            rows.append(
                Row(
                    (name, settings, quantity.heading.replace(" ", "\N{NO-BREAK SPACE}")),  # beside long settings
                    (
                        Cell(figure(quantity.of(one.predicted), 3)),
                        Cell(figure(one.measured(quantity).value, 3), interval=between(one.measured(quantity))),
                        Cell(_change(1 + one.prediction_error(quantity))),
                        Cell(_change(1 + one.error_at_speed(quantity))),
                        Cell(NONE) if one is default else Cell(_change(change.value), interval=_percents(change)),
                    ),
                    mark=one.name == recommended,
                    code=1,
                )
            )
    errors = ("error of prediction", "at the run's step times")
    columns = ("configuration", "changes", "", "predicted", "measured", *errors, "against default")
    return Table(columns, rows, labels=3)


def _change(ratio: float) -> str:
    return percent(ratio) if math.isfinite(ratio) else NONE


def _percents(change: Interval) -> str:
    return "" if math.isnan(change.low) else f"{percent(change.low)} to {percent(change.high)}"


def trials_table(
    trials: Sequence[Trial],
    shown: Sequence[Quantity],
    objective: Objective,
    fixed: Mapping[str, Any],
    best: Mapping[str, Any],
) -> Table:
    """A row for each trial that ran, in the order given; `best` is marked."""
    rows = []
    for trial in trials:
        metrics = trial.metrics or {}
        ratio = objective.worst_ratio(metrics)
        cells = [Cell(figure(ratio, 3), _status(ratio))] if objective.slos else []
        cells += [Cell(figure(quantity.of(metrics), 3)) for quantity in shown]
        labels = (str(trial.number), trial.origin, changes_text(trial.settings, fixed))
        rows.append(Row(labels, cells, mark=dict(trial.settings) == dict(best), code=2))
    worst = ["worst latency / target"] if objective.slos else []
    return Table(("trial", "from", "changes", *worst, *(quantity.heading for quantity in shown)), rows, labels=3)


def failures_table(trials: Sequence[Trial], fixed: Mapping[str, Any]) -> Table:
    """A row for each failed trial, with its reason."""
    rows = [
        Row((str(t.number), t.where, changes_text(t.settings, fixed), t.failure or "", t.message or ""), code=2)
        for t in trials
    ]
    return Table(("trial", "where", "changes", "reason", "what it said"), rows, labels=5)
