"""slotune plan: how much one engine takes, and how many a forecast needs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .notes import announce_compilation, note, note_ignored, note_read, warn
from .options import (
    acceptance_rate_option,
    dask_scheduler_option,
    engine_options,
    goodput_option,
    jobs_option,
    json_option,
    policy_option,
    positive_number,
    profile_option,
    slo_option,
    trace_option,
)
from .output import emit_json, table_of_answers, tell_trust
from .progress import progress

if TYPE_CHECKING:
    from ..simulator.slo import Slo
    from ..tuner.planning.capacity import Scenario
    from ..tuner.planning.plan import Plan


@click.command()
@profile_option
@trace_option
@slo_option
@goodput_option
@engine_options
@acceptance_rate_option
@policy_option
@click.option(
    "--rate",
    type=positive_number,
    metavar="R",
    help="A forecast in requests per second, as the mean over the trace; its busy times grow with it: how many "
    "replicas serve it?",
)
@click.option(
    "--gpu-hour-cost", type=positive_number, metavar="C", help="The price of one GPU for an hour, in any currency."
)
@click.option(
    "--what-if",
    "changes",
    multiple=True,
    metavar="CHANGE",
    help="Also plan with one change: max_num_seqs=64, input_tokens=x1.5, step_time=x1.1 (repeatable).",
)
@jobs_option
@dask_scheduler_option
@json_option
def command(
    rate: float | None,
    gpu_hour_cost: float | None,
    changes: tuple[str, ...],
    jobs: int | None,
    dask_scheduler: str | None,
    as_json: bool,
    **base: Any,
) -> None:
    """Find the highest request rate that meets the targets.

    At this rate neither the queue nor the batch of the engine grows. It is the median over five orderings of the trace.
    Short traces are repeated until the load is long compared with a request's time in the engine. With --goodput, 99 %
    of the requests must be good.

    The interval comes from eight samples drawn from the trace and should hold the rate of similar traffic nine times in
    ten. It does so less often if the trace is short for a percentile, or holds conversations, which are not sampled; a
    warning says so. An hour with other requests, or with a changing rate, is not similar traffic.

    Replicas are the fewest that serve the forecast on every ordering with round-robin routing; in brackets, those for
    both ends of the interval. Where the trace's rate varies, copies of it are laid over each other, so that busy
    times last. Utilisation is the forecast divided by what these replicas take at their highest rate. It may exceed 1,
    because round-robin routing evens out arrivals; the number for random routing is given too.

    All of it is repeated with steps shorter and longer by the profile's error, the longer ones with more time between
    client and engine if that was not measured. Exit code 3: no rate, or no number of replicas, meets the targets.

    \b
    Example:
      slotune plan --profile h200-llama-3.1-8b --trace chat --slo p99:ttft:500 --rate 40 --gpu-hour-cost 3.5
      slotune plan --profile h200-llama-3.1-8b --trace chat --slo p99:ttft:500 --what-if max_num_batched_tokens=2048
    """
    from ..simulator.settings import nothing_drafted
    from ..simulator.speculation import drafts_of
    from ..tuner.pages.plan_page import document, trust_of, warnings
    from ..tuner.planning.plan import require_targets, what_if

    announce_compilation()
    first = _scenario(**base)
    acceptance = base["acceptance_rate"]
    scenarios = [first, *(what_if(first, change, acceptance) for change in changes)]
    if acceptance and not any(map(drafts_of, (first.profile.defaults, *(one.settings for one in scenarios)))):
        raise nothing_drafted(acceptance)
    note_ignored(first.profile, first.policy, first.trace, *(scenario.settings for scenario in scenarios))
    plans, sides = _plans(scenarios, rate, jobs=jobs, dask_scheduler=dask_scheduler)
    if as_json:
        emit_json(document(plans, gpu_hour_cost, sides))
    else:
        _print([plans[0], *sides, *plans[1:]], gpu_hour_cost)
        tell_trust(trust_of(plans), first.policy)
    warn(warnings(plans, sides))
    if not first.settings and plans[0].capacities:
        _note_defaults(plans[0].max_request_rate, own=bool(first.profile.defaults))
    require_targets(plans)


def _plans(scenarios: "list[Scenario]", rate: float | None, **workers: Any) -> "tuple[list[Plan], list[Plan]]":
    """The plans, and those of the first for other step times: one bar, of all that it will come to where the profile's
    error is known beforehand."""
    from ..tuner.planning.plan import plan, steps_of, with_other_step_times
    from ..tuner.sensitivity import doubt_of

    asked = steps_of(scenarios, rate)
    doubted = 2 if doubt_of(scenarios[0].profile, []) else 0
    with progress("plan", asked + doubted * steps_of(scenarios[:1], rate)) as bar:
        plans = plan(scenarios, rate, on_done=lambda done, now: bar.update(done, note=now), **workers)
        steps = with_other_step_times(plans[0])
        total = asked + steps_of(steps, rate)
        bar.update(asked, total)
        sides = plan(
            steps, rate, on_done=lambda done, now: bar.update(asked + done, total, now), after=plans, **workers
        )
    return plans, sides


def _note_defaults(rate: float, *, own: bool) -> None:
    defaults = "the settings of the profile" if own else "vLLM's defaults"
    told = f"find better settings with `slotune tune --rate {rate:.3g} ...`"
    note(f"planned with {defaults}; {told}, then add --engine-config STUDY/best.yaml")


def _scenario(
    profile: str,
    trace: str,
    slo: tuple["Slo", ...],
    goodput: dict[str, float],
    engine: tuple[str, ...],
    engine_config: Path | None,
    acceptance_rate: str | None,
    policy: str,
) -> "Scenario":
    from ..profiler.profile_folder import load_profile
    from ..simulator.settings import parse_settings
    from ..simulator.speculation import with_drafts
    from ..traces.read import read_trace
    from ..tuner.objective import Objective
    from ..tuner.planning.capacity import Scenario

    known = load_profile(profile)
    settings = with_drafts(parse_settings(engine, engine_config), known.defaults, acceptance_rate)
    load = read_trace(trace)
    note_read(load, rescaled=True)
    return Scenario("base", known, load, Objective(slo, (), goodput), settings, policy)


def _print(plans: "list[Plan]", gpu_hour_cost: float | None) -> None:
    from ..tuner.pages.plan_page import confidence_line, without_turns

    _print_table(plans, gpu_hour_cost)
    if promised := confidence_line(plans):
        click.echo(promised)
    for one in plans[1:]:
        if one.reason:
            click.echo(one.reason)
    if others := without_turns(plans):
        click.echo(others)


def _print_table(plans: "list[Plan]", gpu_hour_cost: float | None) -> None:
    """A row a plan; without the columns of what was not asked."""
    from ..tuner.pages.plan_page import described, replicas_text

    keys = ["gpus", "utilisation", "cost_per_hour", "cost_per_million_tokens"]
    columns = ["", "requests/s", "lowest", "highest", "binding", "replicas"]
    columns += [*(key.replace("_", " ") for key in keys[:-1]), "per million tokens in and out"]
    rows = []
    for one in plans:
        facts = described(one, gpu_hour_cost)
        answers = [facts.get("binding"), replicas_text(one), *(facts.get(key) for key in keys)]
        rows.append([one.scenario.name, facts["max_request_rate"], *(facts["interval"] or (None, None)), *answers])
    table_of_answers(columns, rows, title="The highest rate of one engine within the targets")
