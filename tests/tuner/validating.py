"""Validates the searched study on the engine that is none (conftest.py)."""

from pathlib import Path
from typing import Any

from slotune.tuner.hardware.validation import Validation
from slotune.tuner.study.study import Study
from slotune.tuner.study.task import load_task
from slotune.tuner.validate import validated

DEFAULT = {"num_gpu_blocks_override": 20000}


def run(
    folder: Path, engine_type: Any, *, top: int = 2, repeats: int = 3, budget_s: float = 0.0, **engine: Any
) -> tuple[Validation, Any]:
    """Validate the study on a fake engine."""
    with Study.open(folder, writable=True) as study:
        task = load_task(study.asked)
        fake = engine_type(task, **engine)
        return validated(study, task, fake, top=top, repeats=repeats, budget_s=budget_s), fake
