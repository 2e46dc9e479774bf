"""What the runs on the engine say of a study's configurations, and what follows from them."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import EngineError, InfeasibleError
from .comparison import Compared, Quantity, compared, quantities
from .deployment import served
from .export import vllm_yaml
from .intervals import spread
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
    """None where no run succeeded."""

    @property
    def quantities(self) -> list[Quantity]:
        return quantities(self.task.objective)

    def drift(self, quantity: Quantity) -> float:
        """How far the default's runs lie apart: the machine's doing, as nothing else changed. NaN below two runs."""
        return spread([quantity.of(metrics) for metrics in self.found[0].runs.values()])


def validation_of(study: Study, task: Task) -> Validation:
    """What the runs that are in the study say."""
    found = compared(study)
    return Validation(study.folder, task, tuple(found), decide(found, task.objective))


def best_yaml(validation: Validation, verdict: Verdict) -> str:
    """best.yaml: the settings as `vllm serve --config` reads them, headed by what was measured."""
    asked, one = validation.task.asked, verdict.recommended
    comments = [
        f"recommended by slotune {asked.versions.slotune} after {len(one.runs)} runs on the engine",
        verdict.sentence,
        f"trace {asked.trace}" + (f" at {asked.rate:g} requests/s" if asked.rate else ""),
    ]
    return vllm_yaml(served(validation.task.profile, one.settings), validation.task.profile.engine.model, comments)


def require_targets(validation: Validation) -> None:
    """Raise EngineError where nothing ran, InfeasibleError where no measured configuration meets the targets."""
    if validation.verdict is None:
        first = next(trial for one in validation.found for trial in one.failures)
        raise EngineError(
            f"no configuration ran on the engine; the first failed, {first.failure}: {first.message}", "none"
        )
    if not validation.verdict.meets_targets:
        raise InfeasibleError(f"{validation.verdict.sentence} Allow more, lower --rate, or plan for more replicas.")
