"""`slotune doctor`: what is installed, which engine would be started, what is missing."""

import click

from .options import json_option, vllm_python_option


@click.command()
@vllm_python_option
@json_option
def command(vllm_python: str | None, as_json: bool) -> None:
    """Show what is installed, what is missing, and which vLLM starts.

    For what is missing, it prints the command that installs it.

    \b
    Example:
      slotune doctor --vllm-python venvs/vllm/bin/python
    """
    from ..profiler.doctor import as_documents, examine
    from .output import emit_json, table

    findings = examine(vllm_python)
    if as_json:
        emit_json({"findings": as_documents(findings)})
        return
    table(("what", "state", "found"), [(finding.name, finding.state, finding.value) for finding in findings])
    for finding in findings:
        if finding.mend:
            click.echo(f"{finding.name}: {finding.mend}")
