"""The report's pictures, as SVG text that stands in a page by itself."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from ...arrays import F64
from ...figures import figure as digits

GREY, BLUE, GREEN, RED, INK = "#7a828e", "#2159c4", "#1a7f4b", "#c2372e", "#1f2430"
STYLE: Any = {  # matplotlib types its hundreds of keys as literals
    "svg.fonttype": "none",  # text stays text: it can be selected, searched and read aloud
    "svg.hashsalt": "slotune",  # the same study gives the same bytes
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b8bec8",
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e8ebf0",
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
ABOVE: Any = "outside upper left"  # matplotlib's types do not know the places outside
PANEL_INCHES = (3.3, 2.5)
WIDE_PANEL_INCHES = (7.9, 3.0)
COLUMNS = 3


@dataclass(frozen=True, slots=True)
class Line:
    """A named curve."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str


@dataclass(frozen=True, slots=True)
class LatencyPanel:
    """One latency against the request rate."""

    title: str
    lines: Sequence[Line]
    limit_ms: float | None


@dataclass(frozen=True, slots=True)
class EffectPanel:
    """What each value of one setting gives (NaN: none), and the place of the value in use."""

    title: str
    values: Sequence[str]
    effects: Sequence[float]
    current: int | None


@dataclass(frozen=True, slots=True)
class TrialPoint:
    """A trial's place and value; NaN for one that failed."""

    number: int
    value: float
    meets: bool


@dataclass(frozen=True, slots=True)
class MeasuredPoint:
    """Predicted against measured, with the measured interval (NaN where one run gives none)."""

    name: str
    predicted: float
    measured: float
    low: float
    high: float


def draw(
    panels: int,
    paint: Callable[[Sequence[Axes]], None],
    panel_inches: tuple[float, float] = PANEL_INCHES,
    *,
    legend: bool = False,
) -> str:
    """An SVG of `panels` axes, painted by `paint`; with a legend of all that has a label, above the panels, where it
    covers nothing."""
    columns = min(COLUMNS, panels)
    rows = -(-panels // columns)
    width, height = panel_inches
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for unused in axes[panels:]:
            unused.set_axis_off()
        paint(list(axes[:panels]))
        if legend:
            _add_legend(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _inline(file.getvalue())


def _add_legend(figure: Figure) -> None:
    drawn: dict[str, Any] = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        drawn |= dict(zip(labels, handles, strict=True))
    figure.legend(list(drawn.values()), list(drawn), loc=ABOVE, ncols=len(drawn))


NARROW = 1.2
"""High over low of a logarithmic axis that may have no number on it."""


def _inline(svg: str) -> str:
    """Only the <svg> element and what is drawn in it, as wide as the page lets it be."""
    element = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return re.sub(
        r'<svg ([^>]*?)width="([\d.]+)pt" height="[\d.]+pt"', r'<svg role="img" \1style="max-width:\2pt"', element
    )


def _log_y(axis: Axes) -> None:
    """A logarithmic y axis with plain numbers on it."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    if high < NARROW * low:
        axis.set_ylim(low / NARROW, high * NARROW)
    _plain_numbers(axis.yaxis)


def _plain_numbers(ticks: Axis) -> None:
    """1, 2, 5, 10 and so on along a logarithmic axis; powers of ten where it is long."""
    low, high = ticks.get_view_interval()
    ticks.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 200 * low else (1.0,)))
    ticks.set_major_formatter(StrMethodFormatter("{x:,g}"))
    ticks.set_minor_formatter(NullFormatter())


def latency_against_rate(panels: Sequence[LatencyPanel], asked_rate: float) -> str:
    """Predicted latencies over request rates, with the targets and the asked rate."""

    def paint(axes: Sequence[Axes]) -> None:
        for axis, panel in zip(axes, panels, strict=True):
            for line in panel.lines:
                axis.plot(line.x, line.y, marker="o", markersize=3, color=line.color, label=line.label)
            if panel.limit_ms is not None:
                axis.axhline(panel.limit_ms, color=RED, linestyle="--", linewidth=1, label="target")
            axis.axvline(asked_rate, color=INK, linestyle=":", linewidth=1)
            axis.set(title=panel.title, xlabel="requests/s", ylabel="ms")
            _log_y(axis)

    return draw(len(panels), paint, legend=True)


def objective_over_trials(points: Sequence[TrialPoint], label: str, *, lower_is_better: bool) -> str:
    """Every trial's value in the order they ran, and the best so far among those that meet the targets."""

    def paint(axes: Sequence[Axes]) -> None:
        axis = axes[0]
        for meets, color, name in ((True, GREEN, "meets the targets"), (False, GREY, "misses a target")):
            chosen = [p for p in points if p.meets is meets and np.isfinite(p.value)]
            if chosen:
                axis.scatter([p.number for p in chosen], [p.value for p in chosen], s=12, color=color, label=name)
        without = [p for p in points if not np.isfinite(p.value)]
        for failed in without:
            axis.axvline(failed.number, color=RED, linewidth=0.8, alpha=0.4)
        meeting = [p for p in points if p.meets and np.isfinite(p.value)]
        pick = np.minimum if lower_is_better else np.maximum
        if meeting:
            best = pick.accumulate([p.value for p in meeting])
            axis.step([p.number for p in meeting], best, where="post", color=GREEN, label="best so far")
        finite = [p.value for p in points if np.isfinite(p.value)]
        if finite and min(finite) > 0:
            _log_y(axis)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set(xlabel=f"trial{' (red line: failed, or too few answers)' if without else ''}", ylabel=label)

    return draw(1, paint, WIDE_PANEL_INCHES, legend=True)


def predicted_against_measured(panels: Sequence[tuple[str, Sequence[MeasuredPoint]]]) -> str:
    """A panel a metric: each configuration's prediction over its measured mean and interval; on the line is right."""

    def paint(axes: Sequence[Axes]) -> None:
        for axis, (title, points) in zip(axes, panels, strict=True):
            ends = _identity(axis, [value for p in points for value in (p.predicted, p.measured)])
            for point in points:
                if np.isfinite(point.low):
                    shown = np.clip([point.low, point.high], *ends)
                    axis.plot(shown, [point.predicted] * 2, color=BLUE, linewidth=1)
                axis.scatter([point.measured], [point.predicted], s=16, color=BLUE, zorder=3)
                axis.annotate(
                    point.name, (point.measured, point.predicted), (4, 4), textcoords="offset points", fontsize=8
                )
            axis.set(title=title, xlabel="measured", ylabel="predicted")

    return draw(len(panels), paint)


def _identity(axis: Axes, values: Sequence[float]) -> F64:
    """The line on which predictions are right, with 10 % to both sides; returns its ends, beyond the values."""
    ends = np.array([min(values) * 0.8, max(values) * 1.25])
    axis.fill_between(ends, ends * 0.9, ends * 1.1, color="#e3eafa", linewidth=0)
    axis.plot(ends, ends, color=GREY, linewidth=1)
    if min(values) > 0 and max(values) > 5 * min(values):
        axis.set(xscale="log", yscale="log")
        _plain_numbers(axis.xaxis)
        _plain_numbers(axis.yaxis)
    return ends


MOST_TIMES = 4.0
"""The value in use or the limit, if that is more: effects beyond stand at the edge with their number. One value that
nobody would take left every other panel flat."""


def effects_of_settings(panels: Sequence[EffectPanel], label: str, limit: float | None = None) -> str:
    """A panel a setting that has an effect, all on one scale; the value in use is filled, a limit within the scale
    dashed. What lies MOST_TIMES beyond both is told at the upper edge."""

    def paint(axes: Sequence[Axes]) -> None:
        low, high = _scale(panels, limit)
        for axis, panel in zip(axes, panels, strict=True):
            places = range(len(panel.values))
            axis.plot(places, panel.effects, color=GREY, linewidth=1, marker="o", markersize=4, markerfacecolor="white")
            if panel.current is not None:
                axis.plot([panel.current], [panel.effects[panel.current]], marker="o", color=BLUE)
            for place, effect in zip(places, panel.effects, strict=True):
                if not np.isfinite(effect):
                    _mark(axis, "✗", place, 0.03, "bottom")
                elif effect > high:
                    _mark(axis, f"↑{digits(effect, 2)}", place, 0.97, "top")
            axis.set_xticks(places, panel.values, rotation=40, ha="right")
            axis.set(title=panel.title, ylabel=label)
            if limit is not None and low < limit < high:
                axis.axhline(limit, color=RED, linestyle="--", linewidth=1)
            axis.set_ylim(low * 0.9, high * 1.1)
            if low > 0 and high > 3 * low:
                _log_y(axis)

    return draw(len(panels), paint)


def _scale(panels: Sequence[EffectPanel], limit: float | None) -> tuple[float, float]:
    """The least and the greatest effect that are drawn at their place."""
    known = [effect for panel in panels for effect in panel.effects if np.isfinite(effect)]
    in_use = [panel.effects[panel.current] for panel in panels if panel.current is not None]
    usual = max([effect for effect in (*in_use, limit or 0.0) if np.isfinite(effect)])
    edge = max(MOST_TIMES * usual, min(known)) if usual > 0 else np.inf
    return min(known), max(effect for effect in known if effect <= edge)


def _mark(axis: Axes, text: str, place: int, height: float, side: Any) -> None:
    """Red text at a place of the x axis; its `side`, top or bottom, at a share of the panel's height."""
    at: Any = ("data", "axes fraction")
    axis.annotate(text, (place, height), xycoords=at, color=RED, ha="center", va=side, fontsize=8)
