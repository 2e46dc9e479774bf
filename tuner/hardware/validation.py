"""What the runs on the engine say of a study's configurations, and what follows from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EngineError, InfeasibleError
from ...simulator.slo import milliseconds
from ..finalists.longer_load import LongerLoad, longer_loads_of
from ..intervals import spread
from ..objective import ENOUGH_GOOD, GOOD_SHARE, Objective, met_or_missed, share_text
from ..study.best_yaml import NEAREST, RECOMMENDED, best_yaml, head_line
from ..study.comparison import Compared, Quantity, compared, quantities
from ..study.study import Study
from ..study.task import Task
from .shortlist import shortlist
from .verdict import Verdict, decide, mean_good_share, mean_ratio

IDENTITY = ("model", "vllm_version", "device")


@dataclass(frozen=True, slots=True)
class Validation:
    """What a validation found."""

    folder: Path
    task: Task
    found: tuple[Compared, ...]
    """The default first."""
    verdict: Verdict | None
    """None where no configuration ran without failing, or where the default or all others have yet to run."""
    ran: Mapping[str, Any]
    """What the runs were of (EngineRun.identity): model, vllm_version, device; empty where none succeeded."""
    longer_loads: Mapping[str, LongerLoad]
    """What configurations are predicted to give on the longer load, by `settings_key`, where that is known."""

    @property
    def quantities(self) -> list[Quantity]:
        return quantities(self.task.objective)

    def drift(self, quantity: Quantity) -> float:
        """How far the default's runs lie apart: the machine's doing, as nothing else changed. NaN below two runs."""
        return spread([quantity.of(metrics) for metrics in self.found[0].runs.values()])


def validation_of(study: Study, task: Task) -> Validation:
    """What the runs that are in the study say."""
    found = compared(study)
    ran = next((trial.details for trial in study.trials("hardware") if trial.metrics is not None), {})
    identity = {name: ran[name] for name in IDENTITY if ran.get(name)}
    verdict = verdict_on(found, study, task)
    return Validation(study.folder, task, tuple(found), verdict, identity, longer_loads_of(study))


def verdict_on(found: Sequence[Compared], study: Study, task: Task) -> Verdict | None:
    """The verdict on a study's configurations; None where none ran without failing, or no candidate has had its turn:
    a validation that was stopped after the default says nothing yet."""
    if len(found) == 1 and shortlist(study, task):
        return None
    return decide(found, task.objective)


def nothing_said(found: Sequence[Compared]) -> str:
    """Why there is no verdict."""
    if not any(one.runs or one.failures for one in found):
        return "Not yet measured on the engine: run slotune validate."
    if found[0].is_steady:
        return "Only the default has run on the engine so far: `slotune validate` continues."
    if any(one.is_steady for one in found):
        return (
            f"The comparison with the default is missing: it failed ({found[0].failures[-1].failure}), perhaps not "
            "because of its settings; `slotune validate` tries it again."
        )
    return "No configuration ran on the engine without failing."


def called(verdict: Verdict) -> str:
    """What the configuration of the verdict is: recommended, unless it misses a target."""
    return RECOMMENDED if verdict.meets_targets else NEAREST


def measured_yaml(validation: Validation, verdict: Verdict) -> str:
    """best.yaml, headed by what was measured."""
    task, one = validation.task, verdict.recommended
    by = f"{task.asked.versions.slotune} after {one.runs_text} on the engine"
    found = [
        head_line(called(verdict), by),
        *ran_lines(validation),
        verdict.sentence,
        *_target_lines(one, task.objective),
    ]
    return best_yaml(task, one.settings, found, model=validation.ran.get("model"))


def ran_lines(validation: Validation) -> list[str]:
    """What the runs were of, and what their intervals then are of, a line each; none where nothing ran."""
    ran, requests = validation.ran, len(validation.task.trace)
    version = [f"vLLM {ran['vllm_version']}"] if "vllm_version" in ran else []
    what = ", ".join(filter(None, [ran.get("model"), *version, ran.get("device")]))
    served = f"every run served the same {requests:,} requests: intervals and proof are of these, not of others"
    return [f"measured: {what}", served] if what else []


def _target_lines(one: Compared, objective: Objective) -> list[str]:
    lines = []
    for slo in objective.slos:
        mean_ms = one.measured(Quantity(str(slo), "ms", slo.key, slo)).value
        met = met_or_missed(mean_ratio(one, slo) <= 1)
        lines.append(f"{slo}: {met} ({milliseconds(mean_ms)}), mean over the runs")
    if objective.good_is_target:
        share = mean_good_share(one)
        met = met_or_missed(share >= GOOD_SHARE)
        lines.append(f"{ENOUGH_GOOD}: {met} ({share_text(share)}), mean over the runs")
    return lines


def failure_lines(found: Sequence[Compared]) -> list[str]:
    """What failed on the engine, and why; a line a run."""
    return [
        f"{one.name} failed on the engine in round {trial.repeat + 1}, {trial.failure}: {trial.message}"
        for one in found
        for trial in one.failures
    ]


def require_targets(validation: Validation) -> None:
    """Raise EngineError where there is no verdict, InfeasibleError where nothing measured meets the targets."""
    if validation.verdict is None:
        failures = [trial for one in validation.found for trial in one.failures]
        why = f"; the first failed, {failures[0].failure}: {failures[0].message}" if failures else ""
        raise EngineError(nothing_said(validation.found).rstrip(".") + why, "none")
    if not validation.verdict.meets_targets:
        raise InfeasibleError(f"{validation.verdict.sentence} Allow more, lower --rate, or plan for more replicas.")
