"""What may be said after measuring, and what may not."""

import math

import pytest

from slotune.simulator.slo import parse_slo
from slotune.tests.tuner.hardware.measured import TTFT, good, measured
from slotune.tuner.hardware.verdict import decide, percent
from slotune.tuner.objective import Objective
from slotune.tuner.study.comparison import Compared


def test_nothing_measured_is_no_verdict():
    assert decide([measured("default"), measured("#1")], TTFT) is None


def test_a_default_alone_is_said_to_be_alone():
    found = decide([measured("default", 200, 210, 205)], TTFT)
    assert (found.recommended.name, found.proven) == ("default", False)
    assert "Nothing else was measured" in found.sentence


def test_an_advantage_beyond_the_noise_wins():
    # The machine slows down by half over the rounds; the pairs do not care.
    found = decide([measured("default", 200, 250, 300), measured("#1", 101, 124, 151)], TTFT)
    assert found.recommended.name == "#1"
    assert found.meets_targets
    assert found.proven
    assert found.advantage.value == pytest.approx(0.502, abs=0.01)
    assert found.sentence.startswith("Measured 50 % better")
    assert found.sentence.endswith("beyond the noise between runs of the same requests.")


def test_an_advantage_within_the_noise_leaves_the_default():
    found = decide([measured("default", 200, 300, 250), measured("#1", 220, 210, 245)], TTFT)
    assert (found.recommended.name, found.meets_targets, found.proven) == ("default", True, False)
    assert "the runs vary too much to call the default as good: the best other, #1" in found.sentence
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
    assert clear.sentence.startswith("Meets the targets on average and the default does not; 69 % better")
    assert clear.sentence.endswith("beyond the noise between runs of the same requests.")
    noisy = decide([measured("default", 505, 400, 700), measured("#1", 480, 520, 450)], TTFT)
    assert (noisy.recommended.name, noisy.proven) == ("#1", False)
    assert "within the noise" in noisy.sentence


def test_targets_that_are_met_by_less_than_the_noise_are_said_to_be_met_on_average():
    found = decide([measured("default", 480, 500, 490)], TTFT)
    assert found.meets_targets
    assert found.sentence.endswith(
        "The default meets the targets on average (p99:ttft:500: the interval reaches 3.1 % above the limit)."
    )
    other = decide([measured("default", 900, 900, 900), measured("#1", 480, 500, 490)], TTFT)
    assert " #1 meets the targets on average (p99:ttft:500: " in other.sentence
    worlds_apart = decide([measured("default", 1, 900)], TTFT)
    assert "the interval reaches" in worlds_apart.sentence and "times the limit" in worlds_apart.sentence


@pytest.mark.parametrize("ttft_ms", [(450, 460, 455), (500, 500, 500), (499,), (600, 500, 550)])
def test_nothing_is_said_of_targets_that_are_surely_met_or_missed_or_that_one_run_alone_meets(
    ttft_ms: tuple[float, ...],
):
    assert "the interval reaches" not in decide([measured("default", *ttft_ms)], TTFT).sentence


def test_a_share_of_good_requests_that_is_met_by_less_than_the_noise_is_said_to_be_met_on_average():
    both = Objective(slos=(parse_slo("p99:e2el:500"),), goodput={"ttft": 500.0})

    def shares(*of_good: float) -> Compared:
        one = good("default", *(20 * share for share in of_good))
        return Compared("default", {}, None, {r: {**run, "p99_e2el_ms": 100.0} for r, run in one.runs.items()})

    close = decide([shares(0.991, 0.999, 0.989)], both)
    assert close.meets_targets
    assert close.sentence.endswith("(99% of requests good: the interval reaches down to 97.9%).")
    assert "the interval" not in decide([shares(1, 1, 1)], both).sentence


def test_none_meeting_names_the_nearest():
    found = decide([measured("default", 900, 900, 900), measured("#1", 600, 600, 600)], TTFT)
    assert (found.recommended.name, found.meets_targets, found.proven) == ("#1", False, False)
    assert "1.2 times the latency allowed" in found.sentence


def test_a_default_that_did_not_run_is_said():
    found = decide([measured("default"), measured("#1", 100, 100, 100)], TTFT)
    assert (found.recommended.name, found.meets_targets, found.proven) == ("#1", True, True)
    assert "default did not run" in found.sentence


def test_only_rounds_that_both_ran_are_compared():
    nan = math.nan
    found = decide([measured("default", 100, 200, 300, nan), measured("#1", nan, 100, 150, 155)], TTFT)
    assert found.advantage.runs == 2


def test_what_failed_on_the_engine_is_not_recommended_however_fast_it_was():
    default, other = measured("default", 200, 210, 205), measured("#2", 199, 211, 204)
    crashed = measured("#1", 100, 105, crashes=True)
    found = decide([default, crashed, other], TTFT)
    assert found.recommended.name == "default"
    alone = decide([default, crashed], TTFT)
    assert (alone.recommended.name, alone.advantage) == ("default", None)
    assert "No other configuration ran on the engine without failing" in alone.sentence
    assert decide([measured("default", 200, crashes=True), crashed], TTFT) is None


def test_a_default_that_failed_once_is_not_kept():
    found = decide([measured("default", 200, 210, crashes=True), measured("#1", 300, 310, 305)], TTFT)
    assert found.recommended.name == "#1"
    assert "The default failed on the engine" in found.sentence


def test_beside_a_default_that_failed_the_best_of_those_that_ran_is_recommended():
    slow, fast = measured("#1", 300, 310, 305), measured("#2", 200, 210, 205)
    for others in ([slow, fast], [fast, slow]):
        found = decide([measured("default", 100, crashes=True), *others], TTFT)
        assert found.recommended.name == "#2"


def test_one_lucky_run_does_not_hide_what_is_proven():
    nan = math.nan
    lucky = measured("#1", nan, nan, 90)
    found = decide([measured("default", 200, 210, 205), lucky, measured("#2", 120, 126, 123)], TTFT)
    assert (found.recommended.name, found.proven) == ("#2", True)
    assert found.sentence.startswith("Measured 40 % better")


def test_what_is_proven_comes_before_what_has_an_interval_and_that_before_a_single_run():
    nan = math.nan
    default, single = measured("default", 200, 200, 200), measured("#1", nan, nan, 20)
    scattered, steady = measured("#2", 60, 110, 190), measured("#3", 160, 161, 159)
    found = decide([default, single, scattered, steady], TTFT)
    assert (found.recommended.name, found.proven) == ("#3", True)
    unproven = decide([default, single, scattered], TTFT)
    assert unproven.recommended.name == "default"
    assert "the best other, #2" in unproven.sentence


def test_a_default_that_answers_too_few_loses_to_the_fastest_that_answers_all():
    default = measured("default", 90, 90, 90, 90, failed=5)
    found = decide([default, measured("#1", 90, 91, 92, 93), measured("#2", 30, 31, 32, 33)], TTFT)
    assert (found.recommended.name, found.proven) == ("#2", True)


def test_none_meeting_for_want_of_answers_has_no_factor():
    found = decide([measured("default", 100, 100, failed=5), measured("#1", 100, 100, failed=4)], TTFT)
    assert found.sentence.endswith("the nearest leaves more requests unanswered than they allow.")


@pytest.mark.parametrize(
    ("ratio", "told"), [(1.234, "+23.4 %"), (0.5, "-50.0 %"), (4.99, "+399.0 %"), (5.0, "x5"), (1234.5, "x1.23e+03")]
)
def test_changes_in_per_cent_and_as_factors(ratio: float, told: str):
    assert percent(ratio) == told


def test_a_default_that_misses_by_chance_is_not_proven_worse():
    twice = decide([measured("default", 90, 90, failed=5), measured("#1", 90, 91)], TTFT)
    assert (twice.recommended.name, twice.proven) == ("#1", False)
    assert "but in 2 paired runs that may be chance; 3 would tell" in twice.sentence


def test_a_percentile_s_target_leaves_requests_out_as_it_says():
    median = Objective(slos=(parse_slo("p50:ttft:500"),))

    def halved(name, *ttft_ms, failed=0):
        one = measured(name, *ttft_ms, failed=failed)
        keys = ("p50_ttft_ms", "p50_ttft_ms_of_all")
        runs = {k: dict(r) | dict.fromkeys(keys, r["p99_ttft_ms"]) for k, r in one.runs.items()}
        return Compared(name, one.settings, None, runs)

    found = decide([halved("default", 600, 610, 605), halved("#1", 200, 205, 202, failed=5)], median)
    assert (found.recommended.name, found.proven) == ("#1", True)


def served(name: str, *runs: dict[str, float], **common: float) -> Compared:
    settings = {} if name == "default" else {"max_num_seqs": 1}
    return Compared(name, settings, None, {r: {**common, **metrics} for r, metrics in enumerate(runs)})


def test_without_goals_nobody_wins_by_serving_less():
    tpot = Objective(slos=(parse_slo("p99:tpot:60"),))
    common = {"completed": 100.0, "failed": 0.0}
    default = served("default", *[{"p99_tpot_ms": v} for v in (40, 41, 42)], request_throughput=7.0, **common)
    strangled = served("#1", *[{"p99_tpot_ms": v} for v in (8, 8.1, 8.2)], request_throughput=2.4, **common)
    found = decide([default, strangled], tpot)
    assert found.recommended.name == "default"
    assert "serves fewer requests" in found.sentence
    median = Objective(slos=(parse_slo("p50:ttft:2500"),))
    fast = [{"p50_ttft_ms": v} for v in (900, 910, 905)]
    turning_away = served("#1", *fast, request_throughput=6.9, completed=135.0, failed=45.0)
    answering = served("default", *[{"p50_ttft_ms": 1500}] * 3, request_throughput=7.0, completed=180.0, failed=0.0)
    assert decide([answering, turning_away], median).recommended.name == "default"


def test_enough_good_requests_on_average_and_not_an_average_of_shortfalls():
    both = Objective(slos=TTFT.slos, goodput={"ttft": 300.0})
    common = {"completed": 100.0, "failed": 0.0, "request_throughput": 10.0, "p99_ttft_ms": 100.0}
    shares = [{"request_goodput": 10 * share} for share in (1.0, 1.0, 0.4)]
    found = decide([served("default", *shares, **common)], both)
    assert not found.meets_targets
    assert found.sentence.endswith("the nearest has 80.0% good requests where 99% are needed.")


def test_runs_without_a_latency_do_not_lower_the_mean_of_those_with_one():
    tpot = Objective(slos=(parse_slo("p99:tpot:30"),))
    common = {"completed": 100.0, "failed": 0.0}
    none, slow = {"p99_tpot_ms": math.nan, "mean_ttft_ms": 9.0}, {"p99_tpot_ms": 80.0}
    assert not decide([served("default", none, none, slow, **common)], tpot).meets_targets
    one_token_answers = served("default", none, none, **common)
    assert decide([one_token_answers], tpot).meets_targets


def test_a_run_that_went_wrong_is_in_the_mean_that_targets_are_held_against():
    assert not decide([measured("default", 100, 100, 5000)], TTFT).meets_targets


def test_what_meeting_the_targets_costs_in_throughput_is_told():
    common = {"completed": 100.0, "failed": 0.0}
    default = served("default", *[{"p99_ttft_ms": v} for v in (510, 511, 512)], request_throughput=10.0, **common)
    slow = served("#1", *[{"p99_ttft_ms": v} for v in (100, 101, 102)], request_throughput=4.0, **common)
    found = decide([default, slow], TTFT)
    assert found.recommended.name == "#1"
    assert found.sentence.endswith("; it serves 60% fewer requests a second.")


def test_a_mean_that_is_the_limit_but_for_rounding_keeps_it_as_a_run_does():
    value = 500 + 3e-7
    assert TTFT.slos[0].is_met({"p99_ttft_ms": value})
    assert decide([measured("default", value, value)], TTFT).meets_targets
