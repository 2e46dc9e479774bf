"""slotune validate: the proof on the real engine."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .notes import note_study
from .options import duration, json_option, served_model_option, vllm_python_option
from .output import emit_json, table
from .progress import Progress, progress

if TYPE_CHECKING:
    from ..tuner.hardware.campaign import Progressed
    from ..tuner.hardware.validation import Validation


@click.command()
@click.argument("study", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--top", type=click.IntRange(min=1), default=3, show_default=True, help="How many of the best to measure."
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Runs of each configuration, interleaved. Three of the best three find a gain of 10 % only if runs of one "
    "configuration lie within about 2 % of each other: on a noisier machine take --top 1 or --repeats 5. Decide on it "
    "beforehand: adding runs until something is proven mistakes chance for proof more often.",
)
@click.option(
    "--budget",
    type=duration,
    metavar="TIME",
    help="Then also measure what the corrected simulator holds for better, until the engine has run for this long, "
    "e.g. 40m. Default: no further runs.",
)
@vllm_python_option
@served_model_option
@json_option
def command(
    study: Path, top: int, repeats: int, budget: float | None, vllm_python: str | None, model: str | None, as_json: bool
) -> None:
    """Run the best of a study and the default on the real engine.

    All get the same requests. Each round runs every configuration once, on an engine of its own; runs are compared
    within rounds. Each run is saved the moment it ends, so a validation that was stopped continues where it was. With
    --budget, the simulator is then corrected by the measurements and the configurations it now predicts to be better
    are measured too, until none promises more than the noise. Exit code 3: no configuration meets the targets.

    \b
    Example:
      slotune validate studies/chat --top 3 --repeats 3
    """
    from ..tuner.hardware.validation import require_targets
    from ..tuner.pages.validation_page import document

    note_study(study)
    how = {"top": top, "budget_s": budget or 0.0, "repeats": repeats, "vllm_python": vllm_python, "model": model}
    found = validated(study, as_json, **how)
    if as_json:
        emit_json(document(found))
    require_targets(found)


def validated(study: Path, as_json: bool, **how: Any) -> "Validation":
    """Measure the best of a study as `how` says (tuner/validate.py); print what was found unless as JSON."""
    from ..tuner.validate import validate

    with progress("validate") as bar:
        found = validate(study, watch=lambda progressed: _show(bar, progressed), **how)
    if not as_json:
        _print(found)
    return found


def _show(bar: Progress, progressed: "Progressed") -> None:
    """Tell of a run on the engine, and of its end."""
    bar.update(progressed.done, progressed.total, progressed.text)
    trial = progressed.trial
    if trial is not None:
        came = "ran" if trial.metrics is not None else f"failed, {trial.failure}: {trial.message}"
        bar.line(f"round {trial.repeat + 1}, {progressed.text}: {came} ({trial.duration_s:.0f} s)")


def _print(found: "Validation") -> None:
    """Predicted beside measured, the verdict, and how far to trust both."""
    from ..tuner.pages.validation_page import HEADS, TITLE, notes, rows

    table(HEADS, rows(found), title=TITLE)
    for line in notes(found):
        click.echo(line)
