"""slotune screen: many configurations in one table."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .notes import announce_compilation, note_few_requests, note_ignored, note_load
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
    slo_option,
    trace_option,
)
from .output import check_outputs, emit_json, labelled, table_of_answers, tell_trust, writing
from .progress import progress

if TYPE_CHECKING:
    from ..simulator.settings import Settings
    from ..simulator.slo import Slo
    from ..tuner.evaluate import SimulatedRun
    from ..tuner.objective import Objective
    from ..tuner.screen import Screened

WRONG = ("failed", "answers_cut")
"""Shown where there are any."""
SHOWN = ("mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_tpot_ms", "output_throughput")


@click.command()
@profile_option
@trace_option
@click.option(
    "--configs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="YAML or JSON: a list of configurations, or a grid (name: list of values).",
)
@click.option(
    "--sort",
    metavar="METRIC",
    help="Sort by this metric, best first, e.g. p99_ttft_ms; default: headroom under targets, or goodput, or "
    "output_throughput.",
)
@slo_option
@goodput_option
@engine_options
@acceptance_rate_option
@rate_option
@max_concurrency_option
@policy_option
@seed_option
@jobs_option
@dask_scheduler_option
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.csv", help="Also write a CSV.")
@json_option
def command(
    configs: Path,
    acceptance_rate: str | None,
    sort: str | None,
    jobs: int | None,
    dask_scheduler: str | None,
    out: Path | None,
    as_json: bool,
    **common: Any,
) -> None:
    """Simulate many configurations on all cores, best first.

    With targets, configurations that meet them with the most headroom come first; exit code 3: none meets them. A
    configuration that cannot run gets a row with the reason.

    \b
    Example:
      echo 'max_num_seqs: [64, 128, 256]' > grid.yaml
      slotune screen --profile h200-llama-3.1-8b --trace chat --configs grid.yaml --slo p99:ttft:500 --out screen.csv
    """
    from ..tuner.screen import (
        check_metric,
        document,
        drafting,
        read_configurations,
        require_targets,
        screen,
        trust_of,
        write_csv,
    )

    check_outputs({"--out": out}, configs, acceptance_rate, *map(common.get, ("profile", "trace", "engine_config")))
    announce_compilation()
    sort = check_metric(sort, common["goodput"], common["slo"]) if sort else None
    configurations = read_configurations(configs)
    run, settings, objective = _common(sort, **common)
    configurations = drafting(configurations, {**run.profile.defaults, **settings}, acceptance_rate)
    note_ignored(run.profile, run.policy, run.trace, *(settings | one for one in configurations))
    with progress("screen", len(configurations)) as bar:
        rows = screen(
            configurations,
            run,
            settings,
            sort=sort,
            objective=objective,
            jobs=jobs,
            dask_scheduler=dask_scheduler,
            on_done=bar.update,
        )
    if out:
        with writing(out):
            write_csv(rows, out, objective)
    trust = trust_of(rows, run.profile, settings, objective)
    if as_json:
        emit_json(document(rows, objective) | {"policy": run.policy, "profile": run.profile.describe(), "trust": trust})
    else:
        _print(rows, objective, sort)
        tell_trust(trust, run.policy)
    require_targets(rows, objective)


def _common(
    sort: str | None,
    profile: str,
    trace: str,
    engine: tuple[str, ...],
    engine_config: Path | None,
    slo: tuple["Slo", ...],
    goodput: dict[str, float],
    rate: float | None,
    max_concurrency: int | None,
    policy: str,
    seed: int,
) -> tuple["SimulatedRun", "Settings", "Objective | None"]:
    from ..profiler.profile_folder import load_profile
    from ..simulator.settings import parse_settings
    from ..simulator.slo import percentile_of
    from ..traces.read import read_trace
    from ..traces.transform import at_rate
    from ..tuner.evaluate import SimulatedRun
    from ..tuner.objective import Objective

    load = read_trace(trace)
    note_load(load, rate)
    load = at_rate(load, rate, seed)
    objective = Objective(slo, (), goodput) if slo or goodput else None
    shown = percentile_of(sort or "")
    percentiles = tuple(target.percentile for target in slo) + (() if shown is None else (shown,))
    note_few_requests(load, (*percentiles, *(objective.percentiles if objective else ())))
    run = SimulatedRun(load_profile(profile), load, goodput, policy, max_concurrency, seed, percentiles)
    return run, parse_settings(engine, engine_config), objective


def _print(rows: "list[Screened]", objective: "Objective | None", sort: str | None) -> None:
    from ..profiler.trust_page import extrapolated_text
    from ..tuner.objective import good_share, share_text
    from ..tuner.screen import meets, setting_names

    names, targeted = setting_names(rows), bool(objective and objective.slos)
    targets_of = [slo.key for slo in objective.slos] if objective else []
    goodput = ["request_goodput"] if objective and objective.goodput else []
    shown = dict.fromkeys([*([sort] if sort else []), *targets_of, *goodput, *SHOWN])
    shown |= dict.fromkeys(key for key in WRONG if any((row.outcome.metrics or {}).get(key) for row in rows))
    columns = [*names, *map(labelled, shown), "requests good", "extrapolated", "targets", "failure"]
    lines = []
    for row in rows:
        metrics = row.outcome.metrics or {}
        settings = ["default" if row.settings.get(name) is None else str(row.settings[name]) for name in names]
        targets = bool(meets(row, objective)) if targeted else None
        good = share_text(good_share(metrics)) if goodput and metrics else None
        told = [good, extrapolated_text(metrics), targets, row.outcome.message]
        lines.append([*settings, *(metrics.get(key) for key in shown), *told])
    table_of_answers(columns, lines)
