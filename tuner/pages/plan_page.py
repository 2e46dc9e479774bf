"""Plans as people and programs read them: a JSON document, what is to be said beside it, and what the GPUs cost."""

from collections.abc import Sequence
from typing import Any

from ...simulator.misses import unanswered
from ...traces.arrivals import span_s
from ...traces.lasting_prefixes import passing_on
from ..planning.draws import CONFIDENCE
from ..planning.fleet import ORDERINGS, OTHERS_TEXT
from ..planning.plan import Plan
from ..traffic.overlay import busy_times, is_overlaid, peak
from ..traffic.sample import enough_requests
from ..traffic.steady_load import in_bursts

SECONDS_PER_HOUR = 3600.0
IN_TURNS = (
    "requests build on the text of others, as in conversations, or share prefixes too rarely to be told from those: "
    "the interval spans only other starting points in this trace, not other samples; rates of similar traffic lie "
    "farther apart, by 10 % and more"
)
BURSTS = (
    "requests come in bursts, and the trace holds few of them: the interval rests on these few, and similar traffic "
    "may lie outside it"
)
NO_RATE = (
    "{} of {} traces drawn from this one meet the targets at no rate: with a few more of the requests that take "
    "longest even alone, neither would this one"
)
LIKE_THIS = (
    "{}: for traffic like this trace, with {:.0%} confidence; an hour with other requests, or with a changing rate, is "
    "not like it"
)
COSTS = ("cost_per_hour", "cost_per_million_output_tokens", "cost_per_million_tokens")
REPLICAS = ("replicas", "replicas_interval", "replicas_at_random", "gpus", "utilisation")
ANSWERS = ("draws_without_rate", "binding", *REPLICAS, *COSTS, "metrics", "metrics_rate")
"""Of a plan in JSON, the keys that are null where no rate meets the targets."""
NO_RATE_MEETS = {"max_request_rate": 0.0, "interval": [0.0, 0.0]}
"""Of a plan whose targets no rate meets; where the engine or the profile refuses, nothing is known."""
FEW_REQUESTS = (
    "the trace has only {:,} requests, fewer than the {:,} that the percentiles of the targets need: similar traffic "
    "may well lie outside the interval and need more replicas"
)
MADE_UP = (
    "all requests of the trace arrive at once, so it says nothing about arrivals, and Poisson arrivals were assumed; "
    "an engine takes less of bursty traffic"
)
DRIFTS = (
    "the trace's rate varies: at its busiest it is {:.1f} times the mean. Reordering its pieces levels much of "
    "that out, and a higher rate makes a peak as much shorter: plan with the trace of the busiest time, at its rate"
)
OVERLAID = (
    "the trace's rate varies, so the replicas serve copies of it laid over each other, whose busy times last as long "
    "as its own: more may be needed than one engine's rate suggests, which is found with time squeezed"
)


def document(plans: Sequence[Plan], gpu_hour_cost: float | None, steps: Sequence[Plan] = ()) -> dict[str, Any]:
    """The JSON document of `slotune plan --json`: the base plan, with the what-if scenarios inside.

    `steps` are the plans of `with_other_step_times(base)`.
    """
    base = plans[0]
    sides = dict(zip(("faster", "slower"), (described(one, gpu_hour_cost) for one in steps), strict=False))
    return described(base, gpu_hour_cost) | {
        "sensitivity": base.doubt.as_dict() | sides if base.doubt and sides else None,
        "what_if": [described(other, gpu_hour_cost) | {"scenario": other.scenario.name} for other in plans[1:]],
        "orderings": ORDERINGS,
        "draws": len(base.drawn_rates),
        "interval_confidence": CONFIDENCE if is_confident(base) else None,
        "warnings": warnings(plans, steps),
        "policy": base.scenario.policy,
        "profile": base.scenario.profile.describe(),
        "trust": trust_of(plans),
    }


def confidence_line(plans: Sequence[Plan]) -> str | None:
    """What the intervals of the plans are; None where they promise nothing."""
    planned = [one for one in plans if one.capacities]
    if not planned or not all(map(is_confident, planned)):
        return None
    told = "lowest to highest" + (", and replicas in brackets" if any(one.fleet for one in planned) else "")
    return LIKE_THIS.format(told, CONFIDENCE)


def is_confident(one: Plan) -> bool:
    """Whether the interval is of a kind that was found to hold the rate of such traffic as often as it says."""
    rates, trace = one.drawn_rates, one.scenario.trace
    lasts = span_s(trace.arrival_s) > 0 and not busy_times(trace) and not in_bursts(trace)
    return bool(rates) and 0.0 not in rates and len(trace) >= _enough(one) and lasts


def _enough(one: Plan) -> int:
    """Requests on which every percentile of the targets can stand."""
    return enough_requests(one.scenario.objective.percentiles)


def warnings(plans: Sequence[Plan], steps: Sequence[Plan] = ()) -> list[str]:
    """What is wrong with the answers that the plans count, where anything is, and with the intervals, also those of
    other `steps`."""
    planned, trace = [one for one in plans if one.capacities], plans[0].scenario.trace
    told = []
    if planned:
        enough, in_turns = _enough(planned[0]), passing_on(trace)
        rate = planned[0].rate
        overlays = rate is not None and is_overlaid(trace, rate)
        told += [FEW_REQUESTS.format(len(trace), enough)] if len(trace) < enough else []
        told += [IN_TURNS] if in_turns else []
        told += [OTHERS_TEXT] if in_turns and any(one.fleet and one.fleet.replicas > 1 for one in plans) else []
        told += [BURSTS] if in_bursts(trace) else []
        told += [] if span_s(trace.arrival_s) else [MADE_UP]
        told += [DRIFTS.format(peak(trace))] if busy_times(trace) and not (in_turns or overlays) else []
        told += [OVERLAID] if overlays else []
    for one in [*planned, *steps]:
        if hopeless := one.drawn_rates.count(0.0):
            told.append(f"{one.scenario.name}: {NO_RATE.format(hopeless, len(one.drawn_rates))}")
    return told + [f"{one.scenario.name}: {line}" for one in planned for line in unanswered(one.shown.metrics)]


def without_turns(plans: Sequence[Plan]) -> str | None:
    """How many replicas serve the forecast where each request goes to any of them at random; of the plans that need
    fewer where requests go to each in turn, and None where there are none."""
    told = []
    for one in plans:
        if one.fleet and one.fleet.replicas_at_random != one.fleet.replicas:
            number = one.fleet.replicas_at_random or f"more than {one.fleet.most_at_random:,}"
            told.append(f"{number} ({one.scenario.name})")
    if not told:
        return None
    return f"these replicas are enough with round-robin routing; with random routing, expect {', '.join(told)}"


def replicas_text(one: Plan) -> str | None:
    """The replicas of a forecast, with their interval; None where there are none."""
    if one.fleet is None:
        return None
    if one.fleet.interval is None:
        return str(one.fleet.replicas)
    least, most = one.fleet.interval
    return f"{one.fleet.replicas} ({least} {f'to {most}' if most else 'or more'})"


def trust_of(plans: Sequence[Plan]) -> dict[str, Any]:
    """How far to believe the plans: at the rates they name, the largest shares."""
    runs = [run for one in plans for run in one.runs]
    return plans[0].scenario.profile.trust(*(one.scenario.settings for one in plans), runs=runs)


def described(one: Plan, gpu_hour_cost: float | None) -> dict[str, Any]:
    """One plan as JSON; null where there is no answer, as for costs without a price."""
    if not one.capacities:
        none = {"max_request_rate": None, "interval": None} if one.refused else NO_RATE_MEETS
        return (
            dict.fromkeys(ANSWERS)
            | none
            | {
                "engine": dict(one.scenario.settings),
                "rate": one.rate,
                "reason": one.reason,
            }
        )
    answered = one.rate is None or one.fleet is not None
    cost = gpu_hour_cost * one.gpus if gpu_hour_cost is not None and answered else None
    return {
        "max_request_rate": one.max_request_rate,
        "interval": list(one.interval),
        "draws_without_rate": one.drawn_rates.count(0.0),
        "binding": one.binding,
        "engine": dict(one.scenario.settings),
        "rate": one.rate,
        "replicas": one.fleet.replicas if one.fleet else None,
        "replicas_interval": list(one.fleet.interval) if one.fleet and one.fleet.interval else None,
        "replicas_at_random": one.fleet.replicas_at_random if one.fleet else None,
        "gpus": one.gpus if answered else None,
        # Above 1 where the router, which sends every replica the next request in turn, smooths what each gets.
        "utilisation": _utilisation(one),
        "cost_per_hour": cost,
        "cost_per_million_output_tokens": _per_million(cost, one, outputs_only=True),
        "cost_per_million_tokens": _per_million(cost, one, outputs_only=False),
        "metrics": dict(one.shown.metrics),
        "metrics_rate": one.shown.rate,  # of the first ordering where no forecast was given
        "reason": one.reason,
    }


def _utilisation(one: Plan) -> float | None:
    return one.rate / (one.fleet.replicas * one.max_request_rate) if one.rate and one.fleet else None


def _per_million(cost_per_hour: float | None, one: Plan, *, outputs_only: bool) -> float | None:
    if cost_per_hour is None:
        return None
    metrics = one.capacities[0].best.metrics  # of whole copies of the trace, whose tokens are the forecast's
    made = metrics["total_output_tokens"] + (0 if outputs_only else metrics["total_input_tokens"])
    tokens = made / (metrics["completed"] + metrics["failed"])
    return cost_per_hour / ((one.rate or one.max_request_rate) * tokens * SECONDS_PER_HOUR) * 1e6 if tokens else None
