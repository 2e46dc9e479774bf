"""What a recommendation says of its numbers, sentence by sentence, with numbers that are given to it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slotune.errors import InfeasibleError
from slotune.simulator.slo import Slo
from slotune.traces.generate import make_trace
from slotune.traces.lengths import constant
from slotune.tuner.conclusion import concluded
from slotune.tuner.finalists.longer_load import TIMES, LongerLoad
from slotune.tuner.finalists.other_orders import OtherOrders
from slotune.tuner.objective import Goal, Objective
from slotune.tuner.recommendation import (
    BURSTS,
    Recommendation,
    best_yaml_of,
    called,
    cautions,
    default_lasts,
    edge_lines,
    fallen_lines,
    lost_lines,
    luck_lines,
    require_targets,
    unlimited_lines,
)
from slotune.tuner.sensitivity import Doubt, Sensitivity
from slotune.tuner.study.study import Study, Trial
from slotune.tuner.study.task import load_task

TTFT, ITL = Slo(99.0, "ttft", 2500.0), Slo(99.0, "itl", 150.0)
RUN = {
    "completed": 80.0,
    "failed": 0.0,
    "request_throughput": 4.0,
    "request_goodput": 4.0,
    "p99_ttft_ms": 2000.0,
    "p99_itl_ms": 100.0,
    "mean_ttft_ms": 100.0,
    "mean_tpot_ms": 10.0,
}


@pytest.fixture(scope="module")
def read(searched: Path) -> Recommendation:
    with Study.open(searched) as opened:
        return concluded(opened, load_task(opened.asked))


def with_runs(
    found: Recommendation,
    best: dict[str, float],
    longer: dict[str, float] | None = None,
    orders: list[dict[str, float]] | None = None,
    objective: Objective | None = None,
) -> Recommendation:
    """With these numbers in place of its own, over those of RUN."""
    trial = replace(found.best, metrics=RUN | best)
    return replace(
        found,
        best=trial,
        default=replace(found.default, metrics=RUN),
        task=replace(found.task, objective=objective or Objective((TTFT, ITL))),
        longer_loads={} if longer is None else {trial.key: LongerLoad(TIMES, RUN | longer)},
        orders={} if orders is None else {trial.key: OtherOrders([RUN | order for order in orders])},
    )


@pytest.mark.parametrize(
    ("best", "longer", "told"),
    [
        ({"p99_itl_ms": 151.0}, None, "has p99_itl_ms 151 ms, where the limit is 150: raise it"),
        ({"p99_itl_ms": 300.0, "p99_ttft_ms": 4000.0}, {}, "the recommended settings do if the same traffic lasts 30"),
        ({"p99_itl_ms": 300.0, "p99_ttft_ms": 5100.0}, {"p99_itl_ms": 151.0}, "has p99_ttft_ms 5,100 ms, where the"),
        (
            {"p99_itl_ms": 300.0},
            {"p99_ttft_ms": 5100.0},
            "has p99_ttft_ms 5,100 ms if the same traffic lasts 30 times as long, where the limit is 2500: raise",
        ),
        (
            {"p99_itl_ms": 300.0, "failed": 1.0, "completed": 79.0},
            None,
            "with the nearest overall, 1 of 80 requests are not answered, each a miss: `slotune simulate` tells why",
        ),
        (
            {"p99_itl_ms": 300.0},
            {"failed": 1234.0, "completed": 79.0},
            "overall if the same traffic lasts 30 times as long, 1,234 of 1,313 requests are not answered, each a miss",
        ),
    ],
)
def test_the_nearest_miss_is_the_largest_of_the_trace_and_of_its_traffic_going_on(
    read: Recommendation, best: dict[str, float], longer: dict[str, float] | None, told: str
) -> None:
    with pytest.raises(InfeasibleError) as refused:
        require_targets(with_runs(read, best, longer))
    assert str(refused.value).startswith("none of 16 configurations meets the targets") and told in str(refused.value)
    assert "warm" not in str(refused.value)


@pytest.mark.parametrize(
    ("gaps_s", "limit", "mend"),
    [
        ([1.01] * 199, None, "150: raise it, as requests are alone in the engine so far"),
        ([1.01] * 198 + [0.99], None, "raise it, as requests are alone"),  # 0.5 % of them do not move a p99
        ([1.01] * 196 + [0.99] * 3, None, "raise it, lower --rate, or plan for more replicas"),
        ([0.0, 300.0] * 99 + [0.0], None, "lower --rate, or plan for more replicas"),  # pairs
        ([0.0] * 199, 8, "lower --max-concurrency, or plan for more replicas"),
        ([0.5] * 199, 8, "lower --rate, or plan for more replicas"),
    ],
)
def test_what_would_help_is_told_by_what_is_asked(
    read: Recommendation, gaps_s: list[float], limit: int | None, mend: str
) -> None:
    found = with_runs(read, {"p99_itl_ms": 151.0, "p99_e2el_ms": 1000.0})
    asked = found.task.asked.model_copy(update={"max_concurrency": limit})
    trace = make_trace(200, 5.0, (constant(900), constant(9)), seed=1)
    trace = replace(trace, arrival_s=np.cumsum([0.0, *gaps_s]))
    found = replace(found, task=replace(found.task, asked=asked, trace=trace))
    with pytest.raises(InfeasibleError, match=mend):
        require_targets(found)
    lucky = replace(found, orders={found.best.key: OtherOrders([RUN | {"p99_ttft_ms": 9999.0}] * 2)})
    closed = limit is not None and gaps_s[0] == 0.0
    assert ("lower --max-concurrency or raise" in luck_lines(lucky)[0]) == closed
    lost = {found.best.key: LongerLoad(TIMES, RUN | {"p99_ttft_ms": 9999.0})}
    advice = "in flight; lower --max-concurrency" if closed else "`slotune plan` finds a rate"
    assert advice in lost_lines(replace(found, longer_loads=lost))[0]


def test_targets_that_are_met_are_required_no_more(read: Recommendation) -> None:
    require_targets(with_runs(read, {"p99_itl_ms": 150.0, "p99_ttft_ms": 2500.0}, {"p99_itl_ms": 300.0}))


def test_where_requests_share_prompts_the_caches_are_told_to_be_warm(read: Recommendation) -> None:
    shared = make_trace(80, 5.0, (constant(900), constant(9)), seed=1, system_prompts=1, system_prompt_tokens=512)
    found = with_runs(read, {"p99_itl_ms": 300.0}, {})
    with pytest.raises(InfeasibleError, match=r"lasts 30 times as long, once prefix caches are warm$"):
        require_targets(replace(found, task=replace(found.task, trace=shared)))


def test_too_few_good_requests_are_told_with_their_share(read: Recommendation) -> None:
    objective = Objective((TTFT,), goodput={"ttft": 500.0})
    require_targets(with_runs(read, {"request_goodput": 3.96}, objective=objective))
    with pytest.raises(InfeasibleError, match=r"nearest overall, 75\.0% of the requests are good where 99% are needed"):
        require_targets(with_runs(read, {"request_goodput": 3.0}, objective=objective))


@pytest.mark.parametrize(
    ("best", "longer", "name"),
    [
        ({}, None, "recommended"),
        ({"p99_itl_ms": 151.0}, None, "nearest"),
        ({"p99_itl_ms": 151.0}, {}, "recommended"),
        ({}, {"p99_itl_ms": 151.0}, "recommended"),
        ({"p99_itl_ms": 151.0}, {"p99_itl_ms": 151.0}, "nearest"),
    ],
)
def test_what_misses_a_target_on_both_loads_is_the_nearest(
    read: Recommendation, best: dict[str, float], longer: dict[str, float] | None, name: str
) -> None:
    found = with_runs(read, best, longer)
    assert called(found) == name
    text = best_yaml_of(found)
    assert f"# {name} by slotune " in text and " after 16 simulated configurations" in text
    assert ("THE NEAREST OF THOSE THAT ALL MISS A TARGET" in text) == (name == "nearest")


@pytest.mark.parametrize(("met", "orders", "told"), [(0, 6, True), (3, 6, True), (4, 6, False), (2, 5, True)])
def test_luck_is_told_up_to_half_of_the_orders(read: Recommendation, met: int, orders: int, told: bool) -> None:
    runs = [{"p99_itl_ms": 100.0 if order < met else 200.0} for order in range(orders)]
    line = f"p99:itl:150 is met {f'only in {met}' if met else 'in none'} of {orders} other orders of the requests: "
    line += f"similar traffic may miss it {orders - met} times in {orders}; "
    line += "lower --rate or raise the limit to be sure of it"
    assert luck_lines(with_runs(read, {}, orders=runs)) == [line] * told
    assert luck_lines(with_runs(read, {"p99_itl_ms": 151.0}, orders=runs)) == [], "it is missed on the trace too"


def test_targets_that_are_lost_where_the_traffic_goes_on_are_told_among_the_cautions(read: Recommendation) -> None:
    lost = with_runs(read, {}, {"p99_itl_ms": 151.0})
    (line,) = lost_lines(lost)
    assert "p99:itl:150 (151 ms)" in line and "p99:ttft:2500" not in line and line in cautions(lost)
    assert lost_lines(with_runs(read, {"p99_itl_ms": 151.0}, {"p99_itl_ms": 151.0})) == []
    assert lost_lines(with_runs(read, {}, {})) == lost_lines(with_runs(read, {})) == []


@pytest.mark.parametrize(
    ("goal", "was", "becomes", "told"),
    [
        (
            Goal("p99_ttft_ms", False),
            1000.0,
            2010.0,
            ["p99_ttft_ms goes from 1,000 to 2,010 if the same traffic"],
        ),
        (Goal("p99_ttft_ms", False), 1000.0, 1990.0, []),
        (Goal("request_throughput", True), 4.0, 1.99, ["request_throughput goes from 4 to 1.99 if the same traffic"]),
        (Goal("request_throughput", True), 4.0, 2.01, []),
        (Goal("p99_ttft_ms", False), float("nan"), 1990.0, []),
    ],
)
def test_a_goal_that_falls_to_less_than_half_is_told(
    read: Recommendation, goal: Goal, was: float, becomes: float, told: list[str]
) -> None:
    found = with_runs(read, {goal.metric: was}, {goal.metric: becomes}, objective=Objective(goals=(goal,)))
    assert [line.startswith(start) for line, start in zip(fallen_lines(found), told, strict=True)] == [True] * len(told)
    assert fallen_lines(replace(found, longer_loads={})) == []


@pytest.mark.parametrize(
    ("objective", "tpot_ms", "told"),
    [
        (Objective((TTFT,)), 20.1, True),
        (Objective((TTFT,)), 19.9, False),
        (Objective((Slo(50.0, "tpot", 500.0),)), 20.1, False),
        (Objective((TTFT,), (Goal("median_tpot_ms", False),)), 20.1, False),
        (Objective((TTFT,), goodput={"tpot": 500.0}), 20.1, False),
    ],
)
def test_a_latency_that_nobody_named_and_that_doubles_is_told(
    read: Recommendation, objective: Objective, tpot_ms: float, told: bool
) -> None:
    line = f"mean TPOT goes from 10 ms to {tpot_ms:g} ms: no target limits it; set one if it matters"
    found = with_runs(read, {"mean_tpot_ms": tpot_ms}, objective=objective)
    assert [one for one in unlimited_lines(found) if "TPOT" in one] == [line] * told


def test_a_limit_at_the_end_of_its_range_is_told_unless_it_was_given(read: Recommendation) -> None:
    knobs = {knob.name: knob.values for knob in read.task.space.knobs}
    settings: dict[str, Any] = {name: knobs[name][-1] for name in ("max_num_batched_tokens", "max_num_seqs")}
    other = next(name for name, values in knobs.items() if name not in settings and values[-1] is not True)
    both = replace(read, best=Trial(settings | {other: knobs[other][-1]}, RUN))
    assert [line.partition(" is the largest")[0] for line in edge_lines(both)] == [
        f"the recommended {name}={value}" for name, value in settings.items()
    ]
    given = both.task.asked.model_copy(update={"engine": {"max_num_seqs": settings["max_num_seqs"]}})
    (line,) = edge_lines(replace(both, task=replace(both.task, asked=given)))
    assert "`--engine max_num_batched_tokens=N` in another study" in line
    inner = {name: knobs[name][-2] for name in settings}
    assert edge_lines(replace(read, best=Trial(inner, RUN))) == []


def test_the_default_lasts_if_it_meets_its_targets_on_both_loads(read: Recommendation) -> None:
    found = with_runs(read, {})
    key = found.default.key
    assert default_lasts(found)
    for metrics, lasts in ((RUN, True), (RUN | {"p99_itl_ms": 151.0}, False)):
        assert default_lasts(replace(found, longer_loads={key: LongerLoad(TIMES, metrics)})) == lasts
    assert not default_lasts(replace(found, default=replace(found.default, metrics=RUN | {"p99_itl_ms": 151.0})))


def test_bursts_are_cautioned_of(read: Recommendation) -> None:
    bursts = make_trace(500, 5.0, (constant(100), constant(10)), cv=4.0, seed=1)
    found = with_runs(read, {})
    assert BURSTS not in cautions(found)
    assert cautions(replace(found, task=replace(found.task, trace=bursts)))[-1] == BURSTS


def test_few_requests_are_cautioned_of(read: Recommendation) -> None:
    """A p99 needs a thousand; with a goal alone, its percentile counts too."""

    def few(requests: int, objective: Objective) -> list[str]:
        trace = make_trace(requests, 5.0, (constant(100), constant(10)), seed=1)
        found = with_runs(read, {}, objective=objective)
        told = cautions(replace(found, task=replace(found.task, trace=trace)))
        return [line for line in told if line.startswith("the trace has only ")]

    targets = Objective((Slo(99.0, "ttft", 500.0),))
    assert not few(1000, targets)
    assert "only 999 requests, fewer than the 1,000" in few(999, targets)[0]
    assert "fewer than the 200" in few(199, Objective((), (Goal("p95_ttft_ms", maximize=False),)))[0]


def test_best_yaml_tells_each_number_under_all_circumstances(read: Recommendation) -> None:
    objective = Objective((ITL,), (Goal("p99_ttft_ms", False),))
    orders = [{"p99_ttft_ms": 1800.0, "p99_itl_ms": 160.0}, {"p99_ttft_ms": 2200.0, "p99_itl_ms": 90.0}]
    found = with_runs(read, {}, {"p99_ttft_ms": 2100.0, "p99_itl_ms": 149.0}, orders, objective)
    slower = RUN | {"p99_ttft_ms": 2700.0, "p99_itl_ms": 170.0}
    steps = Sensitivity(Doubt(0.08, 0.0165), RUN | {"p99_ttft_ms": 1500.0, "p99_itl_ms": 80.0}, slower)
    text = best_yaml_of(replace(found, sensitivities={found.best.key: steps}))
    assert text.count(read.task.profile.provenance) == 1
    assert (
        "p99_ttft_ms: 2,000 in simulation; in 2 other orders of the requests 1,800 to 2,200; 30 times as long 2,100; "
        "with steps 8% faster / slower, TTFT +16.5 ms 1,500 / 2,700"
    ) in text
    assert (
        "p99:itl:150: met (100 ms) in simulation; in 2 other orders of the requests met in 1 (90 to 160 ms); "
        "30 times as long met (149 ms); with steps 8% faster / slower, TTFT +16.5 ms met / missed (80 / 170 ms)"
    ) in text


def test_trust_is_in_what_is_recommended_and_in_no_pile_that_is_chance(read: Recommendation) -> None:
    bent = {"extrapolated_share": 0.25, "far_share": 0.02, "piled_up_share": 0.2}
    trust = with_runs(read, bent).trust()
    assert {name: trust[name] for name in bent} == bent
    assert with_runs(read, bent, {"piled_up_share": 0.0}).trust()["piled_up_share"] == 0.0
    assert with_runs(read, bent, {"piled_up_share": 0.3}).trust()["piled_up_share"] == 0.2
