"""slotune tune: the main job."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .notes import announce_compilation, note_ignored, note_load, warn
from .options import (
    acceptance_rate_option,
    dask_scheduler_option,
    engine_options,
    goodput_option,
    jobs_option,
    json_option,
    max_concurrency_option,
    policy_option,
    profile_option,
    rate_option,
    seed_option,
    served_model_option,
    slo_option,
    trace_option,
    vllm_python_option,
)
from .output import emit_json, table, tell_trust
from .progress import progress
from .validate import validated

if TYPE_CHECKING:
    from ..simulator.slo import Slo
    from ..tuner.recommendation import Recommendation
    from ..tuner.study.study import Asked


@click.command()
@profile_option
@trace_option
@slo_option
@goodput_option
@click.option(
    "--maximize", multiple=True, metavar="METRIC", help="A goal, e.g. goodput or output_throughput (repeatable)."
)
@click.option(
    "--minimize", multiple=True, metavar="METRIC", help="A goal, e.g. p99_ttft_ms; several give a Pareto front."
)
@engine_options
@acceptance_rate_option
@rate_option
@max_concurrency_option
@policy_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="The study's folder: new, empty, or an earlier study of the same question, which is continued.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Configurations to simulate in all; a continued study also keeps any it has beyond that.",
)
@click.option("--optimizer", type=click.Choice(("smac", "random")), default="smac", show_default=True)
@seed_option
@jobs_option
@dask_scheduler_option
@click.option(
    "--validate",
    "validate_best",
    type=click.IntRange(min=1),
    metavar="K",
    help="Then run the best K and the default on the real engine, as `slotune validate` does.",
)
@vllm_python_option
@served_model_option
@json_option
def command(
    out: Path,
    jobs: int | None,
    dask_scheduler: str | None,
    validate_best: int | None,
    vllm_python: str | None,
    model: str | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Search in the simulator for the settings that meet the targets.

    Settings given with --engine are fixed; the rest are searched. Without a goal, the configuration with the most
    headroom under the targets wins; a default that meets them stays unless that is beyond chance. Exit code 3: no
    configuration meets the targets; the nearest is printed anyway.

    \b
    Example:
      slotune tune --profile h200-llama-3.1-8b --trace chat --slo p99:ttft:500 --slo p99:tpot:30 --out studies/chat
    """
    from ..profiler.profile_folder import load_profile
    from ..simulator.misses import unanswered
    from ..traces.read import read_trace
    from ..tuner.hardware import validation
    from ..tuner.pages.recommendation_page import document
    from ..tuner.recommendation import after_measuring, called, require_targets
    from ..tuner.tune import tune
    from ..tuner.validate import to_start

    announce_compilation()
    question = _asked(**asked)
    profile = load_profile(question.profile)
    if validate_best:
        to_start(question, profile, vllm_python, model)  # what is wrong with it is told before the search
    trace = read_trace(question.trace)
    note_load(trace, question.rate)
    note_ignored(profile, question.policy, trace, question.with_model(question.engine))
    with progress("tune", question.trials) as bar:
        found = tune(
            question,
            out,
            jobs=jobs,
            dask_scheduler=dask_scheduler,
            on_trial=lambda trial, done: bar.update(done, note=trial.origin),
        )
    if not as_json:
        _print(found)
    if validate_best:
        measured = validated(found.folder, as_json, top=validate_best, vllm_python=vllm_python, model=model)
        found = after_measuring(found, measured)
    if as_json:
        emit_json(document(found))
    warn(f"with the {called(found)} settings {line}" for line in unanswered(found.best.metrics or {}))
    if validate_best and found.measured and found.measured.verdict is None:
        validation.require_targets(found.measured)
    require_targets(found)


def _asked(
    profile: str,
    engine: tuple[str, ...],
    engine_config: Path | None,
    acceptance_rate: str | None,
    slo: tuple["Slo", ...],
    **rest: Any,
) -> "Asked":
    from ..profiler.profile_folder import load_profile
    from ..simulator.config_file import of_the_server
    from ..simulator.settings import parse_settings
    from ..tuner.study.task import ask

    settings = parse_settings(engine, engine_config, acceptance_rate, load_profile(profile).defaults)
    left_out = tuple(of_the_server(engine_config)) if engine_config and engine_config.is_file() else ()
    return ask(profile, slos=slo, engine=settings, of_the_server=left_out, **rest)


def _print(found: "Recommendation") -> None:
    from ..tuner.pages.recommendation_page import (
        FRONT_NOTE,
        comparison,
        front_table,
        keep_line,
        measured_lines,
    )
    from ..tuner.recommendation import called, cautions

    table(("", "default", called(found)), comparison(found), title="Predicted by simulation")
    if found.front:
        table(*front_table(found), title="Pareto front: none is beaten in one goal without winning another")
        click.echo(FRONT_NOTE)
    for line in [*keep_line(found), *measured_lines(found)]:
        click.echo(line)
    task, trust = found.task, found.trust()
    told = task.profile.trust(task.asked.with_model(task.asked.engine))["not_represented"]  # before the search
    for line in trust["not_represented"]:
        if line not in told:
            click.echo(line)
    tell_trust(trust, task.asked.policy)
    for line in cautions(found):
        click.echo(line)
    count = f"{found.trials} configuration{'s' * (found.trials != 1)}"
    click.echo(f"{count} in {found.folder}; its best.yaml is for `vllm serve --config`")
    if found.measured is None:
        study = shlex.quote(str(found.folder))
        click.echo(f"next: `slotune validate {study}` measures it on the engine, `slotune report {study}` draws it")
