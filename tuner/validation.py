"""What the runs on the engine say of a study's configurations, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import EngineError, InfeasibleError
from .best_yaml import best_yaml
from .comparison import Compared, Quantity, compared, quantities
from .intervals import spread
from .shortlist import shortlist
from .study import Study
from .task import Task
from .verdict import Verdict, decide


@dataclass(frozen=True, slots=True)
class Validation:
    """What a validation found."""

    folder: Path
    task: Task
    found: tuple[Compared, ...]
    """The default first."""
    verdict: Verdict | None
    """None where no configuration ran without failing, or nothing but the default has run yet."""

    @property
    def quantities(self) -> list[Quantity]:
        return quantities(self.task.objective)

    def drift(self, quantity: Quantity) -> float:
        """How far the default's runs lie apart: the machine's doing, as nothing else changed. NaN below two runs."""
        return spread([quantity.of(metrics) for metrics in self.found[0].runs.values()])


def validation_of(study: Study, task: Task) -> Validation:
    """What the runs that are in the study say."""
    found = compared(study)
    return Validation(study.folder, task, tuple(found), verdict_on(found, study, task))


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
        return "Only the default has run on the engine so far: `slotune validate` goes on."
    return "No configuration ran on the engine without failing."


def best_yaml_of(validation: Validation, verdict: Verdict) -> str:
    """best.yaml, headed by what was measured."""
    task, one = validation.task, verdict.recommended
    who = f"recommended by slotune {task.asked.versions.slotune} after {len(one.runs)} runs on the engine"
    return best_yaml(task, one.settings, [who, verdict.sentence])


def require_targets(validation: Validation) -> None:
    """Raise EngineError where there is no verdict, InfeasibleError where nothing measured meets the targets."""
    if validation.verdict is None:
        failures = [trial for one in validation.found for trial in one.failures]
        why = f"; the first failed, {failures[0].failure}: {failures[0].message}" if failures else ""
        raise EngineError(nothing_said(validation.found).rstrip(".") + why, "none")
    if not validation.verdict.meets_targets:
        raise InfeasibleError(f"{validation.verdict.sentence} Allow more, lower --rate, or plan for more replicas.")
