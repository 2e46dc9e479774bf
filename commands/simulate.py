"""slotune simulate: one configuration on one trace."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import (
    acceptance_rate_option,
    engine_config_option,
    engine_option,
    goodput_option,
    json_option,
    max_concurrency_option,
    outage_option,
    policy_option,
    profile_option,
    rate_option,
    seed_option,
    slo_option,
    trace_option,
)
from .output import announce_compilation, cell, emit_json, labelled, note_ignored, table, tell_trust, writing

if TYPE_CHECKING:
    from ..profiler.profile import Profile
    from ..simulator.engine_config import Settings
    from ..simulator.outage import Outage
    from ..simulator.simulation import SimulationResult
    from ..simulator.slo import Slo

MOST_REPLICAS = 10_000
SHOWN = ("mean", "median", "p90", "p99")


@click.command()
@profile_option
@trace_option
@engine_option
@engine_config_option
@acceptance_rate_option
@policy_option
@click.option(
    "--replicas",
    type=click.IntRange(1, MOST_REPLICAS),
    default=1,
    show_default=True,
    help="Engines behind a router.",
)
@click.option(
    "--router",
    type=click.Choice(["round-robin", "random", "least-outstanding", "least-kv", "prefix-aware"]),
    default="round-robin",
    show_default=True,
    help="How requests are spread over the replicas.",
)
@outage_option
@rate_option
@max_concurrency_option
@slo_option
@goodput_option
@seed_option
@click.option(
    "--requests-out", type=click.Path(dir_okay=False, path_type=Path), metavar="F.csv", help="A line a request."
)
@click.option("--steps-out", type=click.Path(dir_okay=False, path_type=Path), metavar="F.jsonl", help="A line a step.")
@json_option
def command(
    slo: tuple["Slo", ...], goodput: dict[str, float], requests_out: Path | None, as_json: bool, **asked: Any
) -> None:
    """Simulate one configuration: the metrics of `vllm bench serve`.

    \b
    Example:
      slotune simulate --profile h200-llama-3.1-8b --trace chat --engine max_num_seqs=64 --slo p99:ttft:500
    """
    from ..simulator.metrics import summarise
    from ..simulator.misses import reasons
    from ..simulator.request_table import write_requests
    from ..tuner.objective import Objective

    announce_compilation()
    profile, settings, result = _simulated(**asked)
    if requests_out:
        with writing(requests_out):
            write_requests(result.requests, requests_out)
    metrics = summarise(result.requests, result.gaps, goodput, [target.percentile for target in slo])
    document = {
        "metrics": metrics,
        "engine": asdict(profile.engine_config(settings)),
        "profile": profile.describe(),
        "trust": profile.trust(result.extrapolated_steps / max(result.steps, 1), settings),
    }
    if slo:
        objective = Objective(slo)
        document["targets"] = {str(target): objective.keeps(target, metrics) for target in slo}
    unanswered = reasons(result.requests, profile.engine_config(settings), asked["policy"])
    if unanswered:
        click.echo(f"Warning: not answered, and a miss of every target: {'; '.join(unanswered)}", err=True)
    if as_json:
        emit_json(document)
    else:
        _print(document, slo)
        tell_trust(document["trust"])


def _simulated(
    profile: str,
    trace: str,
    engine: tuple[str, ...],
    engine_config: Path | None,
    acceptance_rate: str | None,
    rate: float | None,
    outage: tuple["Outage", ...],
    seed: int,
    steps_out: Path | None,
    replicas: int,
    **service: Any,
) -> "tuple[Profile, Settings, SimulationResult]":
    from ..profiler.profile import load_profile
    from ..simulator.engine_config import parse_settings
    from ..simulator.simulation import simulate
    from ..simulator.step_writer import StepWriter
    from ..traces.read import read_trace
    from ..traces.transform import at_rate

    known = load_profile(profile)
    settings = parse_settings(engine, engine_config, acceptance_rate)
    config = known.engine_config(settings)
    note_ignored(known, settings)
    load = read_trace(trace)
    load = at_rate(load, rate, seed) if rate else load
    with writing(steps_out), steps_out.open("w") if steps_out else nullcontext() as out:
        writer = StepWriter(out, load, replicas) if out else None
        result = simulate(
            load,
            config,
            known.timing(settings),
            seed=seed,
            replicas=replicas,
            outages=outage,
            steps_out=writer,
            **service,
        )
    return known, settings, result


def _print(document: dict[str, Any], slo: tuple["Slo", ...]) -> None:
    metrics = document["metrics"]
    rows = [
        [name.upper(), *(metrics[f"{kind}_{name}_ms"] for kind in SHOWN)] for name in ("ttft", "tpot", "itl", "e2el")
    ]
    table(["ms", *SHOWN], rows)
    lines = [(labelled(k), v) for k, v in metrics.items() if not k.endswith("_ms")]
    for target in slo:
        verdict, value = ("kept" if document["targets"][str(target)] else "missed"), cell(target.value_ms(metrics))
        lines.append((str(target), f"{verdict}, {value} ms" if value else verdict))
    table(["", ""], lines)
