"""What may be said after measuring, and what may not."""

import math

import pytest

from slotune.simulator.slo import parse_slo
from slotune.tuner.comparison import Compared
from slotune.tuner.objective import Objective, parse_goal
from slotune.tuner.verdict import decide

TTFT = Objective(slos=(parse_slo("p99:ttft:500"),))
THROUGHPUT = Objective(slos=TTFT.slos, goals=(parse_goal("throughput", maximize=True),))


def measured(name: str, *ttft_ms: float, throughput: float = 1000.0) -> Compared:
    """A configuration with a run for each p99 TTFT; NaN: that round has none."""
    settings = {} if name == "default" else {"max_num_seqs": 64}
    runs = {
        number: {
            "p99_ttft_ms": value,
            "output_throughput": throughput * (1 + number / 100),
            "completed": 100,
            "failed": 0,
        }
        for number, value in enumerate(ttft_ms)
        if not math.isnan(value)
    }
    return Compared(name, settings, None, runs)


def test_nothing_measured_is_no_verdict():
    assert decide([measured("default"), measured("#1")], TTFT) is None


def test_a_default_alone_is_said_to_be_alone():
    found = decide([measured("default", 200, 210, 205)], TTFT)
    assert found.recommended.name == "default"
    assert "Nothing else was measured" in found.sentence


def test_an_advantage_beyond_the_noise_wins():
    # The machine slows down by half over the rounds; the pairs do not care.
    found = decide([measured("default", 200, 250, 300), measured("#1", 101, 124, 151)], TTFT)
    assert found.recommended.name == "#1"
    assert found.meets_targets
    assert found.proven
    assert found.advantage.value == pytest.approx(0.502, abs=0.01)
    assert found.sentence.startswith("Measured 50 % better")


def test_an_advantage_within_the_noise_leaves_the_default():
    found = decide([measured("default", 200, 300, 250), measured("#1", 220, 210, 245)], TTFT)
    assert found.recommended.name == "default"
    assert "The default is as good" in found.sentence
    assert "3 paired runs" in found.sentence


def test_more_candidates_need_more_proof():
    default, best = measured("default", 200, 210, 205), measured("#1", 180, 192, 176)
    assert decide([default, best], TTFT).recommended is best
    others = [measured(f"#{i}", 201, 209, 204) for i in range(2, 8)]
    assert decide([default, best, *others], TTFT).recommended is default


def test_one_run_proves_nothing():
    found = decide([measured("default", 400), measured("#1", 100)], TTFT)
    assert found.recommended.name == "default"
    assert "repeat at least 3 times" in found.sentence


def test_a_default_that_misses_loses_to_one_that_meets_and_the_noise_is_admitted():
    default = measured("default", 900, 1100, 1000)
    clear = decide([default, measured("#1", 300, 320, 310)], TTFT)
    assert (clear.recommended.name, clear.proven) == ("#1", True)
    assert "which the default misses" in clear.sentence
    noisy = decide([measured("default", 505, 400, 700), measured("#1", 480, 520, 450)], TTFT)
    assert (noisy.recommended.name, noisy.proven) == ("#1", False)
    assert "within the noise" in noisy.sentence


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


def test_none_meeting_names_the_nearest():
    found = decide([measured("default", 900, 900, 900), measured("#1", 600, 600, 600)], TTFT)
    assert (found.recommended.name, found.meets_targets, found.proven) == ("#1", False, False)
    assert "1.2 times the latency allowed" in found.sentence


def test_a_default_that_did_not_run_is_said():
    found = decide([measured("default"), measured("#1", 100, 100, 100)], TTFT)
    assert found.recommended.name == "#1"
    assert "default did not run" in found.sentence


def test_only_rounds_that_both_ran_are_compared():
    nan = math.nan
    found = decide([measured("default", 100, 200, 300, nan), measured("#1", nan, 100, 150, 155)], TTFT)
    assert found.advantage.runs == 2
