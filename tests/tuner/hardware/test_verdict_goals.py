"""What may be said of goals after measuring: goodput, throughput, a latency, several at once."""

import math

import numpy as np
import pytest

from slotune.tests.tuner.hardware.measured import TTFT, good, measured
from slotune.tuner.hardware.verdict import decide, merit_of
from slotune.tuner.objective import Objective, parse_goal
from slotune.tuner.study.comparison import Compared

THROUGHPUT = Objective(slos=TTFT.slos, goals=(parse_goal("throughput", maximize=True),))
GOODPUT = Objective(goodput={"ttft": 500.0})


def test_the_targets_come_before_the_goal():
    fast = measured("#1", 600, 610, 620, throughput=5000)
    found = decide([measured("default", 300, 310, 320), fast], THROUGHPUT)
    assert found.recommended.name == "default"
    assert "does" in found.sentence


def test_the_goal_decides_among_those_that_meet_the_targets():
    found = decide(
        [measured("default", 300, 310, 320), measured("#1", 400, 410, 420, throughput=2000)],
        THROUGHPUT,
    )
    assert found.recommended.name == "#1"
    assert "output_throughput" in found.sentence


def test_goodput_out_of_nothing_is_proven_and_once_nothing_is_not_left_out():
    nothing = good("default", 0, 0, 0, 0)
    found = decide([nothing, good("#1", 5, 5.1, 4.9, 5), good("#2", 7, 7.1, 6.9, 7)], GOODPUT)
    assert (found.recommended.name, found.proven) == ("#2", True)
    assert "in which the default has nothing to show for request_goodput" in found.sentence
    lost = decide([good("default", 5, 5, 5), good("#1", 10, 0, 10.1)], GOODPUT)
    assert lost.recommended.name == "default"
    assert "has nothing to show for request_goodput" in lost.sentence
    neither = decide([good("default", 0, 0), good("#1", 0, 0)], GOODPUT)
    assert neither.recommended.name == "default"
    assert "No paired run tells #1" in neither.sentence
    once = decide([good("default", 0), good("#1", 5)], GOODPUT)
    assert once.recommended.name == "default"
    assert "or 3 in which it alone has one" in once.sentence
    three = [good("default", 0, 0, 0), good("#1", 5, 5, 5), good("#2", 7, 7, 7)]
    assert decide(three, GOODPUT).recommended.name == "default"  # of two that are tried beside it one may be so lucky
    assert "or 4 in which" in decide(three, GOODPUT).sentence
    assert decide(three[:2], GOODPUT).recommended.name == "#1"
    better = decide([good("default", 1, 1, 0), good("#1", 1.2, 1.21, 1.19)], GOODPUT)
    assert "cannot tell" not in better.sentence  # two rounds in which both have a merit tell it
    assert better.recommended.name == "#1"


def test_goodput_out_of_nothing_counts_where_the_rest_is_equal():
    found = decide([good("default", *[0] * 6, 5), good("#1", *[5] * 7)], GOODPUT)
    assert (found.recommended.name, found.proven) == ("#1", True)
    assert "better in 6 paired runs, in which" in found.sentence
    found = decide([good("default", *[0] * 5, 5), good("#1", *[5] * 6)], GOODPUT)
    assert found.recommended.name == "default"


def test_six_rounds_out_of_nothing_do_not_outweigh_one_that_is_worse():
    default = good("default", *[0] * 6, 5)
    assert decide([default, good("#1", *[5] * 6, 4.9)], GOODPUT).recommended.name == "default"
    assert decide([default, good("#1", *[5] * 6, 5.1)], GOODPUT).recommended.name == "#1"


def test_goodput_counts_unanswered_requests_once():
    default, fewer = good("default", 5, 5, 5), good("#1", 10, 10, 10.1)
    runs = {number: dict(run) | {"completed": 80, "failed": 20} for number, run in fewer.runs.items()}
    found = decide([default, Compared("#1", fewer.settings, None, runs)], GOODPUT)
    assert (found.recommended.name, found.proven) == ("#1", True)


def test_unanswered_requests_make_no_configuration_faster():
    latency = Objective(goals=(parse_goal("p99_ttft_ms", maximize=False),))
    found = decide([measured("default", 200, 210, 205), measured("#1", 100, 105, 102, failed=60)], latency)
    assert found.recommended.name == "default"
    assert "serves fewer requests" in found.sentence
    everyone = decide([measured("default", 200, 210, failed=60), measured("#1", 100, 105, failed=60)], latency)
    assert everyone.recommended.name == "#1"


@pytest.mark.parametrize(
    ("goodput", "told"),
    [
        ((10, 10.1, 9.9), "Measured 100 % more request_goodput than the default (between +"),
        ((3.7, 3.75, 3.8), "The default is better: the best other, #1 (max_num_seqs=64), differs by -25.0 %"),
        ((5.1, 4.9, 5.2), "The default is as good: the best other, #1 (max_num_seqs=64), differs by +1.3 %"),
    ],
)
def test_of_what_is_maximised_more_is_said_to_be_more(goodput: tuple[float, ...], told: str):
    assert decide([good("default", 5, 5, 5), good("#1", *goodput)], GOODPUT).sentence.startswith(told)


def test_of_several_goals_each_one_s_change_is_told():
    both = Objective(goals=(parse_goal("throughput", maximize=True), parse_goal("p99_ttft_ms", maximize=False)))
    slower = decide([measured("default", 100, 101, 99), measured("#1", 182, 183, 181, throughput=1022)], both)
    assert "in the goals together (output_throughput +2.2 %, p99_ttft_ms +82." in slower.sentence
    faster = decide([measured("default", 100, 101, 99), measured("#1", 50, 51, 50)], both)
    assert faster.sentence.startswith("Measured ") and "(output_throughput +0.0 %, p99_ttft_ms -49." in faster.sentence


@pytest.mark.parametrize("bad", [0.2, 0.5, 0.8])
def test_of_equals_few_are_proven_better(bad: float):
    """Each run of four equal configurations has nothing to show with a chance of `bad`."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(600):
        rounds = np.where(rng.random((4, 3)) < bad, 0.0, 5.0)
        found = [good(name, *row) for name, row in zip(("default", "#1", "#2", "#3"), rounds, strict=True)]
        wrong += decide(found, GOODPUT).recommended.name != "default"
    assert wrong <= 0.05 * 600


def test_runs_that_lie_worlds_apart_prove_nothing_and_break_nothing():
    others = [good(f"#{i}", 0.02, 5.1) for i in range(1, 21)]
    found = decide([good("default", 5, 0.01), *others], GOODPUT)
    assert found.recommended.name == "default"


def test_the_merit_of_several_goals_is_their_geometric_mean():
    both = Objective(goals=(parse_goal("throughput", maximize=True), parse_goal("p99_ttft_ms", maximize=False)))
    merit = merit_of(both)
    assert merit({"output_throughput": 4.0, "p99_ttft_ms": 100.0}) == pytest.approx(5.0)  # root of 100 / 4
    for nothing in ({"output_throughput": 0.0}, {"output_throughput": math.nan}, {}):
        assert merit({"p99_ttft_ms": 100.0} | nothing) == math.inf
    assert merit_of(TTFT)({"p99_ttft_ms": 100.0}) == 0.2
