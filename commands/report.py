"""slotune report: a study as one HTML page."""

from pathlib import Path

import click

from .notes import announce_compilation, note_study
from .options import jobs_option, json_option
from .output import emit_json
from .progress import progress


@click.command()
@click.argument("study", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Default: report.html in the study."
)
@jobs_option
@json_option
def command(study: Path, out: Path | None, jobs: int | None, as_json: bool) -> None:
    """Write a study as one self-contained HTML page.

    The recommendation comes first, then what it rests on.

    \b
    Example:
      slotune report studies/chat
    """
    from ..tuner.pages.report import write_report
    from ..tuner.study.study import check_apart

    check_apart(study, out)
    note_study(study)
    announce_compilation()
    with progress("report") as bar:
        path = write_report(study, out, jobs=jobs, note=bar.line)
    if as_json:
        emit_json({"report": path})
    else:
        click.echo(path)
