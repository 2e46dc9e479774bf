"""Targets come before goals; misses are counted; every cost is finite."""

import math

import pytest

from slotune.errors import InputError
from slotune.simulator.slo import Slo
from slotune.tuner.objective import (
    FAILED,
    GOAL_SPAN,
    MISSED,
    Goal,
    Objective,
    answers_as_many,
    good_share,
    keeps_up,
    parse_goal,
    share_text,
)
from slotune.tuner.study.comparison import quantities

TTFT, TPOT = Slo(99.0, "ttft", 500.0), Slo(99.0, "tpot", 50.0)


def run(ttft=250.0, tpot=25.0, **other):
    return {"completed": 1000.0, "failed": 0.0, "p99_ttft_ms": ttft, "p99_tpot_ms": tpot} | other


def test_headroom_is_the_worst_ratio():
    objective = Objective((TTFT, TPOT))
    assert objective.worst_ratio(run(ttft=250, tpot=40)) == 0.8
    assert objective.costs(run(ttft=250, tpot=40), {}) == (math.log(0.8),)
    assert objective.meets(run(ttft=500, tpot=50))
    assert not objective.meets(run(ttft=501))


@pytest.mark.parametrize("duration_s", [1.0, 3.3, 7.7, 9.9, 44.1, 60.7, 123.4, 987.6])
def test_99_good_of_100_are_enough_however_long_they_take(duration_s):
    objective = Objective((TTFT,), goodput={"ttft": 500.0})
    rates = {"completed": 100.0, "request_throughput": 100 / duration_s}
    assert objective.fulfilled(run(**rates, request_goodput=99 / duration_s))
    assert not objective.fulfilled(run(**rates, request_goodput=98 / duration_s))


def test_failed_requests_are_misses():
    objective = Objective((TTFT,))
    late = {"p99_ttft_ms_of_all": 499.0}
    assert objective.meets(run(completed=991.0, failed=9.0, **late))
    assert not objective.meets(run(completed=991.0, failed=9.0)), "the percentile falls on a miss"
    assert not objective.meets(run(completed=990.0, failed=10.0, **late))
    assert not objective.meets(run(completed=0.0, ttft=math.nan))


def test_answers_of_one_token_have_no_time_between_tokens():
    assert Objective((TPOT,)).meets(run(tpot=math.nan))
    assert not Objective((TTFT,)).meets(run(ttft=math.nan))


@pytest.mark.parametrize("goals", [(), (Goal("p99_tpot_ms", False),)])
def test_however_far_from_a_target_nearer_is_better(goals):
    """Costs are bounded, and yet no two misses are alike: the nearest is told from the others."""
    objective = Objective((TTFT,), goals)
    costs = [objective.costs(run(ttft=500 * ratio), run()) for ratio in (1.1, 5, 10, 21, 60, 200, 5000)]
    assert costs == sorted(set(costs)) and costs[-1] < objective.costs(None, run())


def test_any_configuration_that_meets_the_targets_beats_any_that_does_not():
    objective = Objective((TTFT,), (Goal("p99_tpot_ms", False),))
    reference = run()
    slow = objective.costs(run(ttft=499, tpot=1e6), reference)
    fast = objective.costs(run(ttft=501, tpot=1e-3), reference)
    assert slow < (MISSED,) < fast < objective.costs(None, reference) == (FAILED,)


def test_goals_are_relative_to_the_default():
    objective = Objective((TTFT,), (Goal("output_throughput", True),))
    reference = run(output_throughput=100.0)
    better, worse = (objective.costs(run(output_throughput=x), reference)[0] for x in (110.0, 90.0))
    assert better < objective.costs(reference, reference)[0] < worse


def test_goodput_alone_is_a_goal_and_headroom_breaks_its_ties():
    objective = Objective(goodput={"ttft": 500.0})
    reference = run(request_goodput=5.0)
    assert objective.effective_goals == (Goal("request_goodput", True),)
    near, far = (objective.costs(run(ttft=t, request_goodput=5.0), reference) for t in (490, 100))
    assert far < near


@pytest.mark.parametrize("broken", [{}, {"p99_ttft_ms": math.nan, "completed": 0.0, "failed": 5.0}])
@pytest.mark.parametrize("objective", [Objective((TTFT,)), Objective((), (Goal("p99_ttft_ms", False),))])
def test_costs_are_finite_whatever_comes_in(objective, broken):
    assert all(math.isfinite(cost) for cost in objective.costs(broken, {}))


def test_goals_from_words():
    assert parse_goal("goodput", maximize=True) == Goal("request_goodput", True)
    assert parse_goal("p99_ttft_ms", maximize=False) == Goal("p99_ttft_ms", False)
    with pytest.raises(InputError, match="did you mean p99_ttft_ms"):
        parse_goal("p99_tttf_ms", maximize=False)
    with pytest.raises(InputError, match="minimize") as wrong:
        parse_goal("goodput", maximize=False)
    assert "did you mean goodput" not in str(wrong.value)


def test_nothing_to_tune_for():
    with pytest.raises(InputError, match="no target"):
        Objective()
    with pytest.raises(InputError, match="--goodput"):
        Objective((TTFT,), (Goal("request_goodput", True),))


def test_leaving_requests_unanswered_is_no_way_to_be_fast():
    latency = Objective(goals=(parse_goal("mean_ttft_ms", maximize=False),))
    everyone = {"mean_ttft_ms": 100.0, "completed": 100, "failed": 0}
    fewer = {"mean_ttft_ms": 10.0, "completed": 60, "failed": 40}
    assert latency.costs(everyone, everyone) < latency.costs(fewer, everyone) < latency.costs(None, everyone)
    assert latency.costs(fewer, fewer) < latency.costs(everyone | {"failed": 67}, fewer)


def test_however_far_from_the_default_better_is_better_and_within_the_span():
    goal = parse_goal("p99_ttft_ms", maximize=False)
    objective, reference = Objective((), (goal,)), run(ttft=1000)
    costs = [objective.costs(run(ttft=ttft), reference)[0] for ttft in (1e9, 1e5, 5e4, 1000, 200, 40, 20, 10)]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == len(costs)
    assert max(map(abs, costs)) <= GOAL_SPAN
    assert costs[4] == math.log(0.2)


def test_goodput_beside_a_target_is_a_target():
    objective = Objective((TTFT,), (), {"tpot": 30.0})
    rates = {"request_throughput": 10.0}
    good, few, none = (run(**rates, request_goodput=rate) for rate in (9.95, 5.0, 0.0))
    assert objective.meets(good) and not objective.meets(few)
    assert objective.worst_ratio(good) == 0.5
    assert objective.worst_ratio(few) == pytest.approx(0.99 / 0.5)
    assert objective.costs(good, {}) < objective.costs(few, {}) < objective.costs(none, {}) < objective.costs(None, {})


def serving(goodput, failed=0.0):
    """A run at 100 requests a second, of 1,000."""
    latency = {"p99_ttft_ms_of_all": math.inf} if failed > 10 else {}
    answered = {"completed": 1000.0 - failed, "failed": failed, "request_throughput": (1000.0 - failed) / 10}
    return run(**answered, **latency, request_goodput=goodput)


def test_goodput_counts_the_unanswered_itself():
    objective = Objective(goodput={"ttft": 500.0})
    waiting, shedding = serving(4.6), serving(39.7, failed=300.0)
    assert objective.costs(shedding, waiting) < objective.costs(waiting, waiting)
    few, fewer = serving(9.4, failed=20.0), serving(2.6, failed=20.0)  # prompts that no configuration takes
    assert objective.costs(few, fewer) < objective.costs(fewer, fewer)


def test_a_load_that_ends_sooner_without_the_long_requests_is_not_served_better():
    offline = {"completed": 1000.0, "failed": 0.0, "request_throughput": 10.0, "request_goodput": 10.0}
    turning_away = {"completed": 500.0, "failed": 500.0, "request_throughput": 40.0, "request_goodput": 40.0}
    for objective in (Objective(goodput={"ttft": 1e6}), Objective(goals=(Goal("request_throughput", True),))):
        assert objective.costs(offline, offline) < objective.costs(turning_away, offline)


def test_the_fewer_requests_go_unanswered_the_better():
    objective = Objective((TTFT,))
    costs = [objective.costs(run(completed=1000.0 - lost, failed=lost), {})[0] for lost in (147.0, 156.0, 900.0)]
    assert costs == sorted(costs) and costs[0] < costs[1] < costs[2] < FAILED
    assert objective.costs(run(ttft=1e9), {})[0] < costs[0]


def test_a_queue_that_the_default_does_not_have_is_no_headroom():
    tpot = Objective((TPOT,))
    default = run(tpot=14.0, request_throughput=16.5)
    strangled = run(tpot=8.0, request_throughput=10.8)
    assert tpot.meets(strangled)
    assert tpot.costs(default, default) < tpot.costs(strangled, default)
    assert tpot.costs(strangled, {}) < tpot.costs(default, {})


def test_what_a_good_request_keeps_is_shown_and_is_no_target():
    (shown,) = [q for q in quantities(Objective(goodput={"ttft": 300.0})) if q.key == "p99_ttft_ms"]
    assert shown.slo is None
    (target,) = [q for q in quantities(Objective((TTFT,))) if q.key == "p99_ttft_ms"]
    assert target.slo is not None


@pytest.mark.parametrize(("share", "text"), [(0.9896, "98.9%"), (0.99, "99.0%"), (1.0, "100.0%"), (0.29, "29.0%")])
def test_a_share_that_is_too_small_does_not_read_as_enough(share, text):
    assert share_text(share) == text


def test_any_percentile_may_be_a_goal_and_is_reported():
    objective = Objective((Slo(99.5, "ttft", 500.0),), (parse_goal("p99.9_e2el_ms", maximize=False),))
    assert objective.percentiles == (99.5, 99.9)
    for name in ("p101_ttft_ms", "p0_ttft_ms", "p99.90_ttft_ms", "p9_latency_ms"):
        with pytest.raises(InputError, match="unknown metric to minimize"):
            parse_goal(name, maximize=False)


def test_no_latency_is_to_be_maximised():
    with pytest.raises(InputError, match="metric to maximize"):
        parse_goal("p99_ttft_ms", maximize=True)


def test_a_goal_against_a_default_that_has_none_is_a_tenth_of_its_own_log():
    goodput, latency = Goal("request_goodput", True), Goal("p99_ttft_ms", False)
    for reference in ({"request_goodput": 0.0}, {"request_goodput": math.nan}, {}):
        assert goodput.loss({"request_goodput": math.e**5}, reference) == pytest.approx(-0.5)
    assert goodput.loss({"request_goodput": 0.8}, {"request_goodput": 0.4}) == pytest.approx(-math.log(2))
    assert latency.loss({"p99_ttft_ms": 100.0}, {}) == pytest.approx(math.log(100) / 10)
    assert goodput.loss({"request_goodput": 0.0}, {"request_goodput": 5.0}) == math.inf


def test_the_share_of_good_requests_is_of_all_that_were_sent():
    """Of 100 requests half are answered, four in five of these well."""
    half = {"completed": 50.0, "failed": 50.0, "request_throughput": 5.0, "request_goodput": 4.0}
    assert good_share(half) == 0.4
    assert good_share(half | {"completed": 0.0, "request_throughput": 0.0, "request_goodput": 0.0}) == 0.0
    at_once = half | {"completed": 0.0, "request_throughput": math.nan, "request_goodput": math.nan}
    assert share_text(good_share(at_once)) == "0.0%", "all turned away as they came: the run took no time"
    assert Objective((TTFT,), goodput={"ttft": 500.0}).good_ratio(half) == pytest.approx(0.99 / 0.4)


def test_all_targets_and_enough_good_requests_are_fulfilled():
    rates = {"request_throughput": 10.0}
    good, few = run(**rates, request_goodput=9.9), run(**rates, request_goodput=9.8)
    alone, beside = Objective(goodput={"ttft": 500.0}), Objective((TTFT,), goodput={"ttft": 500.0})
    assert alone.meets(few), "by itself it is a goal"
    assert [alone.fulfilled(metrics) for metrics in (good, few)] == [True, False]
    assert not beside.fulfilled(good | {"p99_ttft_ms": 501.0})
    assert Objective((TTFT,)).fulfilled(run()) and not Objective((TTFT,)).fulfilled(run(ttft=501))


def test_each_target_and_whether_it_is_met():
    few = run(ttft=501, request_throughput=10.0, request_goodput=9.8)
    assert Objective((TTFT, TPOT)).targets_met(few) == {"p99:ttft:500": False, "p99:tpot:50": True}
    beside = Objective((TPOT,), goodput={"ttft": 500.0})
    assert beside.targets_met(few) == {"p99:tpot:50": True, "goodput": False}
    assert beside.targets_met(few | {"request_goodput": 9.9})["goodput"]
    assert Objective(goodput={"ttft": 500.0}).targets_met(few) == {}


def test_requests_may_be_turned_away_for_goodput_and_not_for_latencies_too():
    all_good, shedding = serving(40.0), serving(60.0, failed=300.0)
    goodput, latency = Goal("request_goodput", True), Goal("mean_ttft_ms", False)
    assert Objective((), (goodput,), {"ttft": 500.0}).serves_as_much(shedding, all_good)
    assert not Objective((), (goodput,), {"ttft": 500.0}).serves_as_much(serving(40.0, failed=300.0), all_good)
    assert not Objective((), (goodput, latency), {"ttft": 500.0}).serves_as_much(shedding, all_good)


def test_what_is_within_the_end_of_a_short_trace():
    assert keeps_up({"request_throughput": 9.0}, {"request_throughput": 10.0})
    assert not keeps_up({"request_throughput": 8.99}, {"request_throughput": 10.0})
    assert not Objective((TTFT,)).serves_as_much(run(request_throughput=8.9), run(request_throughput=10.0))
    assert Objective((TTFT,)).serves_as_much(run(request_throughput=9.1), run(request_throughput=10.0))
    assert [answers_as_many({"completed": 1000.0 - lost, "failed": lost}, {}) for lost in (9.0, 11.0)] == [True, False]
    one_in_100 = [{"completed": 100.0 - lost, "failed": lost} for lost in (5.0, 6.0, 7.0)]
    assert [answers_as_many(metrics, one_in_100[0]) for metrics in one_in_100] == [True, True, False]


def test_what_the_search_minimises_in_numbers():
    """Logs of ratios, four and more for what misses a target; headroom counts a twentieth."""
    goal = Objective((TTFT,), (Goal("p99_tpot_ms", False),))
    two = Objective((TTFT,), (Goal("p99_tpot_ms", False), Goal("p99_ttft_ms", False)))
    default, lost = run(ttft=250, tpot=25), {"completed": 80.0, "failed": 20.0}
    assert goal.costs(run(ttft=250, tpot=20), default) == pytest.approx((math.log(0.8) + 0.05 * 0.5,))
    assert goal.costs(run(ttft=750), default) == pytest.approx((4 + math.log(1.5),))
    assert two.costs(run(ttft=750), default) == pytest.approx((4 + math.log(1.5),) * 2)
    assert two.costs(run() | lost, default) == pytest.approx((4 + 3 + 0.2 / 2,) * 2)
    assert two.costs(None, default) == (8.0, 8.0)
    assert Objective((TTFT,)).costs(None, default) == (8.0,)
    unlimited = Objective((), (Goal("p99_tpot_ms", False),))
    assert unlimited.costs(run(tpot=1) | lost, default) == pytest.approx((4 + 0.2,))
    goodput = Objective(goodput={"ttft": 500.0})
    assert goodput.costs(run(ttft=5000, request_goodput=5.0), {"request_goodput": 5.0}) == pytest.approx((0.05 * 2,))
