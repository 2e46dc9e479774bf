"""A validation as people and programs read it."""

import math
from collections.abc import Sequence
from typing import Any

from ...profiler.profile import UNLIMITED_BLOCKS, Profile
from ...profiler.trust_page import lines as trust_lines
from ..finalists.longer_load import without_chance
from ..hardware.validation import Validation, called, failure_lines, nothing_said, ran_lines
from ..hardware.verdict import meets, percent
from ..intervals import CONFIDENCE, Interval
from ..study.comparison import Compared, changes_text, comparisons
from ..study.task import Task
from .tables import validation_table

OTHER_CACHE = 0.1
"""Of the engine's tokens; less hardly moves a number."""
TITLE = (
    f"Predicted and measured (mean over runs of the same requests, {CONFIDENCE:.0%} intervals; changes are paired by "
    "round)"
)
HEADS = (
    "configuration",
    "",
    "predicted",
    "measured",
    "interval",
    "prediction off by",
    "at its step times",
    "against default",
    "interval",
)


def rows(validation: Validation) -> list[tuple[str, ...]]:
    """A row for each configuration that ran and each quantity."""
    lines: list[tuple[str, ...]] = []
    for row in validation_table(validation.found, validation.quantities, "").rows:
        (name, _, quantity), (predicted, measured, error, at_speed, change) = row.labels, row.cells
        errors = (error.text, at_speed.text)
        numbers = (predicted.text, measured.text, measured.interval, *errors, change.text, change.interval)
        lines.append((name, quantity, *numbers))
    return lines


def notes(validation: Validation) -> list[str]:
    """What the configurations are, what failed, how far the machine drifted, where the times come from, the verdict."""
    default = validation.found[0]
    lines = [f"{one.name}: {changes_text(one.settings, default.settings)}" for one in validation.found[1:]]
    lines += [*ran_lines(validation), *failure_lines(validation.found)]
    lines += unanswered_lines(validation.found) + forced_lines(validation.task)
    lines += cache_lines(validation.found, validation.task.profile)
    lines += [f"Machine: {drift_text(validation)}", *_step_times_text(validation)]
    lines += [f"Predictions: {line}" for line in trust_lines(trust_of(validation))]
    if validation.verdict:
        verdict = validation.verdict
        lines.append(f"{called(verdict).capitalize()}: {verdict.recommended.name}. {verdict.sentence}")
    else:
        lines.append(f"{nothing_said(validation.found)} Nothing is recommended.")
    return lines


def unanswered_lines(found: Sequence[Compared]) -> list[str]:
    """What the engine left unanswered, a line a configuration that did."""
    return [line for one in found if (line := _unanswered(one))]


def cache_lines(found: Sequence[Compared], profile: Profile) -> list[str]:
    """Which engines' KV cache held more or less than was simulated by OTHER_CACHE or more, a line a configuration; none
    where the profile does not know the memory, which is told elsewhere."""
    told = []
    for one in found:
        engine = profile.engine_or_none(one.settings)
        if engine is None or engine.num_gpu_blocks == UNLIMITED_BLOCKS:
            continue
        simulated = engine.num_gpu_blocks * engine.block_size
        others = [held for held in one.cache_tokens.values() if abs(held - simulated) >= OTHER_CACHE * held]
        told += [
            f"{one.name}: the engine's KV cache held {held:,} tokens, {simulated:,} were simulated"
            for held in others[:1]
        ]
    return told


def forced_lines(task: Task) -> list[str]:
    """That the runs accepted drafts as assumed; nothing where nothing is drafted."""
    if not task.speculative_config:
        return []
    return ["drafts were accepted as assumed, by vLLM's synthetic acceptance: what the model accepts is not proven"]


def _unanswered(one: Compared) -> str | None:
    """How many requests its runs left unanswered, each a miss, and why the first was; None where all were answered."""
    failed = sum(metrics.get("failed", 0) for metrics in one.runs.values())
    asked = failed + sum(metrics.get("completed", 0) for metrics in one.runs.values())
    why = next((f", the first because: {error}" for error in one.errors.values()), "")
    return f"{one.name}: {failed:.0f} of {asked:.0f} requests were not answered{why}" if failed else None


def drift_text(validation: Validation) -> str:
    """How far the runs of the default lie apart, by two of them or more."""
    drifts = [(q.label, validation.drift(q)) for q in validation.quantities if q.key.startswith("mean_")]
    known = [f"{label} {100 * drift:.0f} %" for label, drift in drifts if math.isfinite(drift)]
    if known:
        return f"the default's runs differ by {', '.join(known)}"
    return "two runs of the default would tell how far the machine drifts"


def _step_times_text(validation: Validation) -> list[str]:
    """How long the runs' steps took beside the profile's word, and what the second error then means."""
    ratios = [ratio for one in validation.found for ratio in one.step_time_ratios.values()]
    if not ratios:
        return []
    span = f"{percent(min(ratios))} to {percent(max(ratios))}"
    return [
        f"Steps took {span} compared with the profile; 'at its step times': the error with steps as slow as the run's"
    ]


def document(validation: Validation) -> dict[str, Any]:
    """The JSON document of `slotune validate --json`."""
    verdict = validation.verdict
    return {
        "best": _side(validation, verdict.recommended) if verdict else None,
        "default": _side(validation, validation.found[0]),
        "configurations": [_side(validation, one) for one in validation.found],
        "verdict": verdict
        and {
            "recommended": verdict.recommended.name,
            "meets_targets": verdict.meets_targets,
            "proven": verdict.proven,
            "sentence": verdict.sentence,
        },
        "drift": {quantity.key: validation.drift(quantity) for quantity in validation.quantities},
        "study": str(validation.folder),
        "profile": validation.task.profile.describe(),
        "trust": trust_of(validation),
    }


def trust_of(validation: Validation) -> dict[str, Any]:
    """How far to believe the predictions: of all configurations that ran, the largest shares."""
    found, task = validation.found, validation.task
    ran = {"model": validation.ran["model"]} if validation.ran.get("model") else {}
    asked = [{**task.asked.with_model(one.settings), **ran} for one in found]
    longer = validation.longer_loads
    runs = [one.predicted and without_chance(one.predicted, longer.get(one.key), task.trace) for one in found]
    return task.profile.trust(*asked, runs=runs)


def _side(validation: Validation, one: Compared) -> dict[str, Any]:
    return {
        "name": one.name,
        "engine": dict(one.settings),
        "predicted": None if one.predicted is None else dict(one.predicted),
        "measured": measured_document(validation, one),
        "failures": [
            {"round": trial.repeat + 1, "reason": trial.failure, "message": trial.message} for trial in one.failures
        ],
    }


def measured_document(validation: Validation, one: Compared) -> dict[str, Any] | None:
    """A configuration's measurements: each metric's mean and interval, and the runs; None where none succeeded."""
    if not one.runs:
        return None
    default = validation.found[0]
    return {
        "runs": [{"round": number + 1, "metrics": dict(metrics)} for number, metrics in sorted(one.runs.items())],
        "meets_targets": meets(one, validation.task.objective),
        "metrics": {q.key: _interval(one.measured(q)) for q in validation.quantities},
        "prediction_error": {q.key: one.prediction_error(q) for q in validation.quantities},
        "prediction_error_at_step_times": {q.key: one.error_at_speed(q) for q in validation.quantities},
        "step_time_ratio": {str(number + 1): ratio for number, ratio in sorted(one.step_time_ratios.items())},
        "against_default": {
            q.key: _interval(one.against(default, q, comparisons(validation.found)))
            for q in validation.quantities
            if one is not default
        },
    }


def _interval(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "runs": interval.runs}
