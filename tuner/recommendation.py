"""What a search recommends, in the forms people see: a comparison with the default, a YAML file, a JSON document."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InfeasibleError
from ..simulator.engine_config import Settings
from ..simulator.slo import Slo
from .deployment import deployed
from .export import vllm_yaml
from .objective import Metrics, Objective
from .study import Trial
from .task import Task

SHOWN = {
    "mean_ttft_ms": "TTFT mean, ms",
    "p99_ttft_ms": "TTFT p99, ms",
    "mean_tpot_ms": "TPOT mean, ms",
    "p99_tpot_ms": "TPOT p99, ms",
    "request_throughput": "requests/s",
    "output_throughput": "output tokens/s",
}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What a search found, beside the default."""

    folder: Path
    task: Task
    best: Trial
    default: Trial
    trials: int
    front: tuple[Trial, ...]
    """With several goals: every configuration that no other beats in all of them."""

    @property
    def settings(self) -> Settings:
        """The recommended settings, with what was fixed."""
        return dict(self.best.settings)

    def meets_targets(self) -> bool:
        """Whether the recommended configuration meets every target in the simulator."""
        return self.task.objective.meets(self.best.metrics or {})


def require_targets(recommendation: Recommendation) -> None:
    """Raise InfeasibleError where not even the best configuration meets the targets, naming the nearest miss."""
    metrics, objective = recommendation.best.metrics or {}, recommendation.task.objective
    missed = [slo for slo in objective.slos if objective.ratio(slo, metrics) > 1]
    if missed:
        worst = max(missed, key=lambda slo: objective.ratio(slo, metrics))
        raise InfeasibleError(
            f"none of {recommendation.trials} configurations meets the targets; the nearest has {worst.key} "
            f"{worst.value_ms(metrics):.4g} ms where {worst.limit_ms:g} are allowed: allow more, lower --rate, or plan "
            "for more replicas"
        )


def comparison(recommendation: Recommendation) -> list[tuple[str, object, object]]:
    """Rows of (what, default, recommended): settings that differ, predicted metrics, and the targets met."""
    default, best, task = recommendation.default, recommendation.best, recommendation.task
    was: Mapping[str, Any] = {knob.name: knob.default for knob in task.space.knobs}
    changed = task.space.changes(best.settings)
    rows: list[tuple[str, object, object]] = [(name, str(was[name]), str(value)) for name, value in changed.items()]
    labels = {goal.metric: goal.metric for goal in task.objective.effective_goals()} | SHOWN
    for key, label in labels.items():
        rows.append((label, (default.metrics or {}).get(key), (best.metrics or {}).get(key)))
    for slo in task.objective.slos:
        rows.append((str(slo), _verdict(task.objective, slo, default), _verdict(task.objective, slo, best)))
    return rows


def _verdict(objective: Objective, slo: Slo, trial: Trial) -> str:
    if trial.metrics is None:
        return f"does not start: {trial.message}"
    ratio = objective.ratio(slo, trial.metrics)
    return f"{'met' if ratio <= 1 else 'missed'} ({slo.value_ms(trial.metrics):.4g} ms)"


def targets_met(objective: Objective, metrics: Metrics) -> dict[str, bool]:
    """Each target as it was written, and whether it is met."""
    return {str(slo): objective.ratio(slo, metrics) <= 1 for slo in objective.slos}


def best_yaml(recommendation: Recommendation) -> str:
    """best.yaml: the settings as `vllm serve --config` reads them, headed by what they were chosen on."""
    asked = recommendation.task.asked
    comments = [
        f"recommended by slotune {asked.versions.slotune} after {recommendation.trials} simulated configurations",
        recommendation.task.profile.provenance,
        f"trace {asked.trace}" + (f" at {asked.rate:g} requests/s" if asked.rate else ""),
        *(f"{target}: {'met' if met else 'missed'} in simulation" for target, met in _met(recommendation).items()),
    ]
    profile = recommendation.task.profile
    return vllm_yaml(deployed(profile, recommendation.settings), profile.engine.model, comments)


def _met(recommendation: Recommendation) -> dict[str, bool]:
    return targets_met(recommendation.task.objective, recommendation.best.metrics or {})


def document(recommendation: Recommendation, measured: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The JSON document of `slotune tune --json`; `measured` is what validation found of the best configuration."""
    best, task = recommendation.best, recommendation.task
    return {
        "best": _side(recommendation, best) | {"measured": measured},
        "default": _side(recommendation, recommendation.default) | {"measured": None},
        "trials": recommendation.trials,
        "front": [_side(recommendation, trial) for trial in recommendation.front],
        "study": str(recommendation.folder),
        "files": [str(path) for path in sorted(recommendation.folder.iterdir())],
        "profile": task.profile.describe(),
        "trust": task.profile.trust() | {"extrapolated_share": (best.metrics or {}).get("extrapolated_share", 0.0)},
    }


def _side(recommendation: Recommendation, trial: Trial) -> dict[str, Any]:
    metrics = trial.metrics
    return {
        "engine": dict(trial.settings),
        "resolved": recommendation.task.space.resolved(trial.settings),
        "predicted": None if metrics is None else dict(metrics),
        "failure": trial.message,
        "targets": {} if metrics is None else targets_met(recommendation.task.objective, metrics),
    }
