"""slotune simulate: one configuration on one trace."""

import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..figures import figure
from ..simulator.policy_names import ROUTERS
from .notes import announce_compilation, note, note_few_requests, note_ignored, note_load, warn
from .options import (
    acceptance_rate_option,
    engine_options,
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
from .output import cell, check_outputs, emit_json, labelled, table, tell_trust, writing

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..profiler.profile import Profile
    from ..simulator.engine_config import EngineConfig
    from ..simulator.outage import Outage
    from ..simulator.settings import Settings
    from ..simulator.simulation import SimulationResult
    from ..simulator.slo import Slo
    from ..simulator.timing import Pace, Timing
    from ..traces.trace import Trace
    from ..tuner.objective import Metrics, Objective
    from ..tuner.sensitivity import Sensitivity

MOST_REPLICAS = 10_000
MOST_SIMULATED_AGAIN = 50_000
"""Requests times replicas up to which faster and slower steps are simulated too: that takes three times as long."""
SHOWN = ("mean", "median", "p90", "p99")


@click.command()
@profile_option
@trace_option
@engine_options
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
    type=click.Choice(ROUTERS),
    default=ROUTERS[0],
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
    "--requests-out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="F.csv",
    help="Write a CSV with one line per request.",
)
@click.option(
    "--steps-out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="F.jsonl",
    help="Write JSON lines, one per step.",
)
@json_option
def command(
    slo: tuple["Slo", ...], goodput: dict[str, float], requests_out: Path | None, as_json: bool, **asked: Any
) -> None:
    """Simulate one configuration: the metrics of `vllm bench serve`.

    Up to 50,000 requests times replicas, two more runs follow: with every step shorter and longer by the profile's
    error. In the slower run, requests also take longer between client and engine if the profile did not measure that.

    \b
    Example:
      slotune simulate --profile h200-llama-3.1-8b --trace chat --engine max_num_seqs=64 --slo p99:ttft:500
    """
    from ..simulator.request_table import write_requests
    from ..tuner.evaluate import trust_shares
    from ..tuner.objective import Objective

    written = {"--requests-out": requests_out, "--steps-out": asked["steps_out"]}
    check_outputs(written, *(asked[name] for name in ("profile", "trace", "engine_config", "acceptance_rate")))
    announce_compilation()
    run = _simulated(**asked)
    if requests_out:
        with writing(requests_out):
            write_requests(run.result.requests, requests_out)
    objective = Objective(slo, (), goodput) if slo or goodput else None
    note_few_requests(run.load, objective.percentiles if objective else ())
    summary = partial(_summary, slo, goodput)
    metrics = summary(run.result)
    shares = trust_shares(run.result, run.result.requests, run.load.output_tokens, metrics["duration"])
    steps = _with_other_steps(run, summary, asked["replicas"], shares)
    _note_outages(asked["outage"], metrics["duration"])
    warn(_warnings(run, asked["policy"]))
    trust = run.profile.trust(run.settings, runs=[shares])
    if as_json:
        document = {
            "metrics": metrics,
            "engine": asdict(run.engine),
            "policy": asked["policy"],
            "profile": run.profile.describe(),
            "trust": trust,
            "sensitivity": None if steps is None else steps.as_dict(partial(_targets, objective)),
        }
        emit_json(document | ({"targets": _targets(objective, metrics)} if slo else {}))
    else:
        _print(metrics, objective, steps)
        tell_trust(trust, asked["policy"])


def _with_other_steps(
    run: "_Run", summary: "Callable[[SimulationResult], Metrics]", replicas: int, shares: "Metrics"
) -> "Sensitivity | None":
    """The metrics with faster and slower steps; None where no error is known, or where it would take long."""
    from ..tuner.sensitivity import doubt_of

    doubt = doubt_of(run.profile, [shares])
    if doubt is None:
        return None
    if len(run.load) * replicas > MOST_SIMULATED_AGAIN:
        note(f"over {MOST_SIMULATED_AGAIN:,} requests times replicas: not simulated with faster and slower steps")
        return None
    return doubt.tried(lambda pace: summary(run.at(pace)))


def _note_outages(outages: tuple["Outage", ...], duration_s: float) -> None:
    """Say on stderr which outages come too late: a trace may begin at another time than its file did."""
    for outage in outages:
        if outage.start_s >= duration_s:
            told = f"the outage of replica {outage.replica} from {figure(outage.start_s)} s on begins after the run"
            why = "changes nothing; times count from the start of the trace"
            note(f"{told} ({figure(duration_s)} s) and {why}")


def _warnings(run: "_Run", policy: str) -> list[str]:
    """What is wrong with the answers, where anything is."""
    from ..simulator.misses import cut_short, reasons

    requests = run.result.requests
    asked = run.load.output_tokens
    cut, unanswered = cut_short(requests, asked, run.engine), reasons(requests, asked, run.engine, policy)
    missed = f"not answered, which counts as missing every target: {'; '.join(unanswered)}" if unanswered else None
    return [line for line in (cut, missed) if line]


def _summary(slo: tuple["Slo", ...], goodput: dict[str, float], result: "SimulationResult") -> dict[str, float]:
    from ..simulator.metrics import summarise

    return summarise(result.requests, result.gaps, goodput, [target.percentile for target in slo])


def _targets(objective: "Objective | None", metrics: "Metrics") -> dict[str, bool]:
    """Each target, and whether it is met."""
    return objective.targets_met(metrics) if objective else {}


@dataclass(frozen=True, slots=True)
class _Run:
    profile: "Profile"
    settings: "Settings"
    engine: "EngineConfig"
    load: "Trace"
    """The trace at the asked rate."""
    result: "SimulationResult"
    at: "Callable[[Pace], SimulationResult]"
    """The same at another pace."""


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
) -> _Run:
    from ..profiler.profile_folder import load_profile
    from ..simulator.settings import parse_settings
    from ..simulator.simulation import simulate
    from ..simulator.step_writer import StepWriter
    from ..traces.read import read_trace
    from ..traces.transform import at_rate
    from ..whole_file import whole_file

    known = load_profile(profile)
    settings = parse_settings(engine, engine_config, acceptance_rate, known.defaults)
    config = known.engine_config(settings)
    load = read_trace(trace)
    note_load(load, rate)
    note_ignored(known, service["policy"], load, settings)
    load = at_rate(load, rate, seed)
    timing = known.timing(settings)

    def run(timing: "Timing", writer: StepWriter | None = None) -> "SimulationResult":
        return simulate(load, config, timing, seed=seed, replicas=replicas, outages=outage, steps_out=writer, **service)

    if steps_out is None:
        result = run(timing)
    else:
        with writing(steps_out), whole_file(steps_out) as out:
            result = run(timing, StepWriter(out, load, replicas))
    return _Run(known, settings, config, load, result, lambda pace: run(timing.at(pace)))


def _print(metrics: "Metrics", objective: "Objective | None", steps: "Sensitivity | None") -> None:
    from ..simulator.slo import METRICS, OF_ALL
    from ..tuner.wording import of_limits

    rows: list[list[object]] = []
    runs = [metrics, *([steps.faster, steps.slower] if steps else [])]
    for name in METRICS:
        keys = [f"{kind}_{name}_ms" for kind in SHOWN]
        rows.append([name.upper(), *(metrics[key] for key in keys)])
        if steps and any(not math.isnan(run[key]) for run in runs[1:] for key in keys):
            rows.append([f"  {steps.label}", *(steps.both(partial(_value, key)) for key in keys)])
    # As vLLM has them; the targets below are held against all requests.
    table(["ms, of those answered" if any(run["failed"] for run in runs) else "ms", *SHOWN], rows)
    lines: list[tuple[str, object]] = [(labelled(k), v) for k, v in metrics.items() if not k.endswith(("_ms", OF_ALL))]
    for word in of_limits(objective) if objective else ():
        lines.append((word.name, word.run(metrics)))
        if steps:
            lines.append((f"  {steps.label}", word.steps(steps)))
    table(["", ""], lines)


def _value(key: str, metrics: "Metrics") -> str:
    return cell(metrics[key])
