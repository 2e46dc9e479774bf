"""A study's configurations side by side: what was predicted for each, and what its runs on the engine gave."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ...figures import digits
from ...simulator.settings import Settings
from ...simulator.slo import Slo
from ..intervals import Interval, mean_interval, paired_ratio
from ..objective import Metrics, Objective
from .blame import at_fault, excusable
from .study import Study, Trial, settings_key, with_nan

DEFAULT = "default"
LATENCY_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2E"}


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that tables have a row for: a metric by its key, or a target, which has a limit."""

    label: str
    unit: str
    key: str
    slo: Slo | None = None

    @property
    def heading(self) -> str:
        """What it is and its unit."""
        return f"{self.label}, {self.unit}"

    def of(self, metrics: Metrics | None) -> float:
        """Its value in a run's metrics; NaN where there is none."""
        if metrics is None:
            return math.nan
        return self.slo.value_ms(metrics) if self.slo else metrics.get(self.key, math.nan)


@dataclass(frozen=True, slots=True)
class Compared:
    """One configuration. Runs are by round: runs of one round followed each other on the same machine."""

    name: str
    settings: Settings
    predicted: Metrics | None = None
    runs: Mapping[int, Metrics] = field(default_factory=dict)
    failures: Sequence[Trial] = ()
    """Runs on the engine that failed."""
    at_speed: Mapping[int, Metrics] = field(default_factory=dict)
    """By round, what is predicted for an engine whose steps take as long as in that run (hardware/run_speed.py)."""
    step_time_ratios: Mapping[int, float] = field(default_factory=dict)
    """By round, the time of the run's steps over the time predicted for the same compositions."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """By round, why the first of the requests that were not answered was not."""
    cache_tokens: Mapping[int, int] = field(default_factory=dict)
    """By round, tokens that the engine's KV cache held."""

    @property
    def key(self) -> str:
        """Alike for trials of the same settings."""
        return settings_key(self.settings)

    @property
    def is_barred(self) -> bool:
        """Whether its failures are held against it; of the default's, those that may be nobody's fault are not:
        every validation tries it again, for the others to be compared with."""
        return at_fault([one for one in self.failures if self.name != DEFAULT or not excusable(one)])

    @property
    def is_steady(self) -> bool:
        """Whether it ran, and no failure is held against it."""
        return bool(self.runs) and not self.is_barred

    @property
    def runs_text(self) -> str:
        """How many runs it has, in words."""
        return "1 run" if len(self.runs) == 1 else f"{len(self.runs)} runs"

    def measured(self, quantity: Quantity) -> Interval:
        """Mean over the runs."""
        return mean_interval([quantity.of(metrics) for metrics in self.runs.values()])

    def against(self, other: "Compared", quantity: Quantity, comparisons: int = 1) -> Interval:
        """Measured ratio to `other`, paired by round; infinite where it is so in any, none where one side is 0 in a
        round: no ratio of the other rounds would tell of it."""
        rounds = sorted(self.runs.keys() & other.runs.keys())
        mine = [quantity.of(self.runs[number]) for number in rounds]
        theirs = [quantity.of(other.runs[number]) for number in rounds]
        if any(math.isinf(value) and math.isfinite(base) for value, base in zip(mine, theirs, strict=True)):
            return Interval(math.inf, math.nan, math.nan, len(rounds))
        if any(value == 0 or base == 0 for value, base in zip(mine, theirs, strict=True)):
            return Interval(math.nan, math.nan, math.nan, len(rounds))
        return paired_ratio(mine, theirs, comparisons=comparisons)

    def prediction_error(self, quantity: Quantity) -> float:
        """Predicted over measured, less one; NaN where either is missing or infinite."""
        return _error(quantity.of(self.predicted), self.measured(quantity).value)

    def error_at_speed(self, quantity: Quantity) -> float:
        """The same with each run predicted for steps as slow as its own were: what schedule and overhead are off by."""
        rounds = sorted(self.runs.keys() & self.at_speed.keys())
        measured = mean_interval([quantity.of(self.runs[number]) for number in rounds]).value
        predicted = mean_interval([quantity.of(self.at_speed[number]) for number in rounds]).value
        return _error(predicted, measured)


def _error(predicted: float, measured: float) -> float:
    return predicted / measured - 1 if measured and math.isfinite(predicted) and math.isfinite(measured) else math.nan


def quantities(objective: Objective) -> list[Quantity]:
    """What is worth showing: the limits first, then the means, then the throughput."""
    shown = [_limit_quantity(slo, is_target=bool(objective.slos)) for slo in objective.limits]
    known = {quantity.key for quantity in shown}
    for goal in objective.goals:
        if goal.metric not in known:
            shown.append(_metric_quantity(goal.metric))
            known.add(goal.metric)
    keys = ["mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "request_throughput", "output_throughput"]
    if objective.goodput:
        keys.append("request_goodput")
    return shown + [_metric_quantity(key) for key in keys if key not in known]


def _limit_quantity(slo: Slo, *, is_target: bool) -> Quantity:
    """What a good request keeps is no target of a percentile, where goodput stands alone."""
    return Quantity(f"p{digits(slo.percentile)} {LATENCY_NAMES[slo.metric]}", "ms", slo.key, slo if is_target else None)


def _metric_quantity(key: str) -> Quantity:
    parts = key.split("_")
    if parts[-1] == "ms":
        return Quantity(f"{parts[0]} {LATENCY_NAMES[parts[1]]}", "ms", key)
    unit = "requests/s" if parts[0] == "request" else "tokens/s"
    return Quantity(key.replace("_", " "), unit, key)


def compared(study: Study) -> list[Compared]:
    """The default, then every other configuration that was tried on the engine, in the order of its first run."""
    hardware = study.trials("hardware")
    predicted = {trial.key: trial.metrics for trial in study.trials("simulation")}
    default = dict(study.asked.engine)
    tried = {trial.key: dict(trial.settings) for trial in hardware}
    tried.pop(settings_key(default), None)
    named = [(DEFAULT, default)] + [(f"#{i}", settings) for i, settings in enumerate(tried.values(), 1)]
    return [_compared(name, settings, predicted, hardware) for name, settings in named]


def default_trial(study: Study) -> Trial:
    """The default's trial in simulation."""
    key = settings_key(study.asked.engine)
    return next((t for t in study.trials("simulation") if t.key == key), Trial(study.asked.engine, None))


def _compared(
    name: str, settings: Settings, predicted: Mapping[str, Metrics | None], hardware: Iterable[Trial]
) -> Compared:
    mine = [trial for trial in hardware if trial.key == settings_key(settings)]
    runs = {trial.repeat: trial.metrics for trial in mine if trial.metrics is not None}
    failures = [trial for trial in mine if trial.metrics is None]
    timed = [trial for trial in mine if trial.metrics is not None and "step_time_ratio" in trial.details]
    return Compared(
        name,
        settings,
        predicted.get(settings_key(settings)),
        runs,
        failures,
        at_speed={trial.repeat: with_nan(trial.details["predicted_at_speed"]) for trial in timed},
        step_time_ratios={trial.repeat: trial.details["step_time_ratio"] for trial in timed},
        errors={trial.repeat: trial.details["first_error"] for trial in mine if trial.details.get("first_error")},
        cache_tokens={trial.repeat: tokens for trial in mine if (tokens := _cache_tokens(trial))},
    )


def _cache_tokens(trial: Trial) -> int:
    """Of the engine of a run; 0 where it did not tell."""
    return int(trial.details.get("num_gpu_blocks") or 0) * int(trial.details.get("block_size") or 0)


def comparisons(found: Sequence[Compared]) -> int:
    """How many configurations are compared with the default (first in `found`), for intervals that hold together."""
    return max(sum(bool(one.runs) for one in found[1:]), 1)


def changes_text(settings: Mapping[str, object], default: Mapping[str, object]) -> str:
    """How settings differ from the default, in a line."""
    changed = [f"{name}={value}" for name, value in settings.items() if default.get(name) != value]
    return " ".join(changed) or "no change"
