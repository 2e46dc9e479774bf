"""slotune export: what a study recommends, in the forms people deploy."""

from pathlib import Path

import click

from .options import json_option
from .output import emit_json, writing


@click.command()
@click.argument("study", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--form",
    type=click.Choice(("yaml", "command", "kubernetes")),
    default="yaml",
    show_default=True,
    help="A `vllm serve --config` file, a `vllm serve` command line, or a Kubernetes Deployment.",
)
@click.option("--model", metavar="M", help="Model name or folder to deploy. Default: the profile's.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Default: stdout.")
@json_option
def command(study: Path, form: str, model: str | None, out: Path | None, as_json: bool) -> None:
    """Write the recommended settings of a study for deployment.

    What they rest on, and which targets they meet, is printed on stderr and added to YAML as comments.

    \b
    Example:
      slotune export studies/chat --out engine.yaml && vllm serve --config engine.yaml
      slotune export studies/chat --form kubernetes
    """
    from ..tuner.study.export import exported, grounds, read_recommendation, write_export
    from ..tuner.study.study import check_apart

    check_apart(study, out)
    texts = exported(study, model)
    for line in grounds(study):
        click.echo(line, err=True)
    if out:
        with writing(out):
            write_export(texts[form], form, out)
        click.echo(f"wrote {out}", err=True)
    if as_json:
        emit_json({"engine": read_recommendation(study)[0], "grounds": grounds(study), **texts})
    elif not out:
        click.echo(texts[form], nl=False)
