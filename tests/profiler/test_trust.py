"""What a profile says of itself: the error to expect, and which settings its step times know nothing of."""

from dataclasses import replace

import numpy as np
import pytest

from slotune.profiler.profile import ModelPart, Profile, linear_profile
from slotune.profiler.profile_folder import load_profile
from slotune.profiler.profile_page import fact_lines
from slotune.profiler.provenance import CLOSED_FORM, KERNEL_TABLES, MEASURED, STEP_RECORDS
from slotune.profiler.surrogate.model import BEYOND, OVER_TIME, RegimeError
from slotune.profiler.trust import OUTSIDE, SOME_OUTSIDE, TABLES_TPOT_ERROR, later_s, slowed_by, step_time_error
from slotune.profiler.trust_page import extrapolated_text, lines
from slotune.simulator.features import totals_of
from slotune.simulator.step_time import FAR, reach_of
from slotune.simulator.timing import Overhead


def test_all_steps_of_a_run_may_be_off_by_what_one_is_off_by(measured: Profile) -> None:
    assert step_time_error(measured) == 0.02
    assert step_time_error(load_profile("h200-llama-3.1-8b")) == TABLES_TPOT_ERROR == 0.08
    assert step_time_error(linear_profile(4e-3, 4e-5, 1e-4, 2e-7)) is None


@pytest.mark.parametrize(
    ("parts", "tpot_error", "told"),
    [
        ((), 0.08, "that were not overloaded, with plain dense models; more"),
        (
            ("layers of several kinds", "an image encoder"),
            0.08,
            ", none of which used layers of several kinds or an image",
        ),
        (("experts", "layers of several kinds"), 0.1, "with mixtures of experts; more"),
        (("experts", "latent attention"), 0.2, "with mixtures of experts with latent attention; more"),
    ],
)
def test_the_error_of_tables_is_that_of_models_of_the_kind(
    parts: tuple[ModelPart, ...], tpot_error: float, told: str
) -> None:
    profile = replace(load_profile("h200-llama-3.1-8b"), model_parts=parts)
    assert step_time_error(profile) == profile.trust()["expected_error"]["mean_tpot"] == tpot_error
    assert told in lines(profile.trust())[1]


def test_of_tables_in_doubt_no_error_is_told_and_none_is_simulated() -> None:
    doubted = replace(load_profile("h200-llama-3.1-8b"), doubts=("fp8 takes 80 ms, and bfloat16 13",))
    trust = doubted.trust()
    assert trust["doubts"] == ["fp8 takes 80 ms, and bfloat16 13"]
    assert (trust["expected_error"]["mean_ttft"], trust["expected_error"]["mean_tpot"]) == (None, None)
    assert lines(trust)[1].startswith("the expected error is unknown") and "fp8 takes 80 ms" in lines(trust)[1]
    assert step_time_error(doubted) is None
    assert "in doubt: fp8 takes 80 ms, and bfloat16 13" in fact_lines(doubted)


def test_stalls_are_in_the_error_of_all_steps_and_in_no_median(measured: Profile) -> None:
    stalled = replace(measured, step=replace(measured.step, held_out=(RegimeError("all", 9, 0.02, 0.03, 0.08, -0.3),)))
    assert step_time_error(stalled) == 0.3
    assert "within 8.0%), the total of all steps to be 30.0% too short; waiting" in lines(stalled.trust())[1]


def test_a_kind_that_is_too_short_where_another_is_too_long_is_in_no_total_of_all(measured: Profile) -> None:
    few, many = (RegimeError("decode large", count, 0.01, 0.02, 0.05, -0.08) for count in (19, 20))
    mixed = RegimeError("mixed large", 300, 0.01, 0.02, 0.05, 0.03)
    beyond = RegimeError(BEYOND, 300, 0.01, 0.02, 0.05, 0.5)
    for decodes, error, told in (
        (few, 0.03, "the total of all mixed large steps to be 3.0% too long"),
        (many, 0.08, "short"),
    ):
        held_out = (*measured.step.held_out, decodes, mixed, beyond)
        profile = replace(measured, step=replace(measured.step, held_out=held_out))
        assert step_time_error(profile) == error
        assert told in lines(profile.trust())[1]


@pytest.mark.parametrize(("compositions", "error"), [(19, 0.02), (20, 0.07)])
def test_a_kind_that_is_known_less_well_than_the_many_decodes_counts(
    measured: Profile, compositions: int, error: float
) -> None:
    """First tokens come from steps with prefills, of which there are few among all."""
    mixed = RegimeError("mixed small", compositions, 0.07, 0.08, None, 0.0)
    profile = replace(measured, step=replace(measured.step, held_out=(*measured.step.held_out, mixed)))
    assert step_time_error(profile) == error
    told = lines(profile.trust())[1]
    assert ("within 8.0%), mixed small steps by 7.0%; waiting" in told) == (error == 0.07)


@pytest.mark.parametrize(("mean", "error"), [(0.05, 0.05), (0.02, 0.02), (0.01, 0.02)])
def test_a_machine_whose_speed_changed_is_in_the_error_of_the_parts_of_the_recording(
    measured: Profile, mean: float, error: float
) -> None:
    """Their mean counts, and not what is off in the total of them, which is that of all."""
    parts = RegimeError(OVER_TIME, 20, 0.9, mean, 0.9, -0.9)
    profile = replace(measured, step=replace(measured.step, held_out=(*measured.step.held_out, parts)))
    assert step_time_error(profile) == error
    told = "and whole parts of the recording to be off by 5.0% (mean of 20), because the machine's speed changed"
    assert (told in lines(profile.trust())[1]) == (error == 0.05)
    assert ("speed changed" in lines(profile.trust())[1]) == (error == 0.05)


@pytest.mark.parametrize(("median", "slowest", "slowed"), [(0.02, 0.9, 0.9), (0.02, 0.1, 0.0), (0.3, 0.5, 0.0)])
def test_what_slows_the_machine_for_a_while_is_told_where_no_error_of_the_fit_explains_it(
    measured: Profile, median: float, slowest: float, slowed: float
) -> None:
    """Twentieths of the recording average over such spells."""
    errors = (
        RegimeError("all", 100, median, 0.03, 0.08, 0.0),
        RegimeError(OVER_TIME, 20, 0.01, 0.01, 0.01, 0.0, slowest),
    )
    profile = replace(measured, step=replace(measured.step, held_out=errors))
    assert (step_time_error(profile), slowed_by(profile)) == (median, slowed)
    told = "; some stretches of the recording took 90% longer than their rows tell: something else slowed the machine"
    assert (told in lines(profile.trust())[1]) == ("stretches" in lines(profile.trust())[1]) == (slowed > 0)
    assert profile.trust()["step_time_error"][OVER_TIME]["slowest_stretches"] == slowest


@pytest.mark.parametrize(
    ("median", "bias", "share", "error"),
    [
        (0.06, 0.01, 0.051, 0.06),
        (0.06, -0.4, 0.051, 0.4),
        (0.01, 0.01, 0.051, 0.02),  # no less than that of all
        (0.06, -0.4, 0.05, 0.02),
    ],
)
def test_what_is_extrapolated_may_be_off_by_the_larger_of_its_errors(
    measured: Profile, median: float, bias: float, share: float, error: float
) -> None:
    beyond = RegimeError(BEYOND, 30, median, 0.07, 0.15, bias)
    profile = replace(measured, step=replace(measured.step, held_out=(*measured.step.held_out, beyond)))
    assert step_time_error(profile, [{"extrapolated_share": share}]) == error
    assert step_time_error(profile, [{"extrapolated_prefill_share": share}]) == error
    assert step_time_error(profile, [{"extrapolated_share": share, "far_share": 0.01}]) == error
    assert step_time_error(profile, [{"extrapolated_share": share, "far_share": 0.011}]) is None


def test_the_expected_error_is_told_with_every_prediction(measured: Profile) -> None:
    trust = measured.trust(runs=[{"extrapolated_share": 0.05, "extrapolated_prefill_share": 0.05}])
    assert trust["expected_error"]["step_time"] == {"median": 0.02, "within_90": 0.08}
    told = lines(trust)
    assert "2.0% (median on kinds of steps held out; 90 % of single steps within 8.0%)" in told[1]
    assert told[2] == "5.0% of the steps lie outside what the profile was made from: extrapolated, off by more"
    assert len(lines(measured.trust())) == 2


def test_an_error_is_told_to_leave_out_what_the_profile_does_not_hold(measured: Profile) -> None:
    """The warning goes to stderr, and the error stands beside the numbers."""
    of_two = ({"speculative_config": {"method": name}, "dtype": "float16"} for name in ("ngram", "eagle"))
    told = lines(measured.trust(*of_two))
    assert told[2] == "that error leaves out settings whose effect is not in these numbers: speculative_config, dtype"
    too_many = load_profile("h200-llama-3.1-8b").trust({"num_gpu_blocks_override": 200_000})
    assert too_many["not_represented"] and not any("leaves out settings" in line for line in lines(too_many))


@pytest.mark.parametrize("name", ["tables", "measured"])
def test_no_error_is_given_of_steps_that_lie_far_outside(measured: Profile, name: str) -> None:
    profile = measured if name == "measured" else load_profile("h200-llama-3.1-8b")
    runs = [{"far_share": share, "extrapolated_share": 0.04} for share in (0.01, 0.011)]
    near, far = (profile.trust(runs=[run]) for run in runs)
    known = ("mean_ttft", "mean_tpot") if name == "tables" else ("step_time",)
    for key in known:
        assert near["expected_error"][key] and far["expected_error"][key] is None
    assert lines(far)[1] == OUTSIDE and "expect " in lines(near)[1]
    assert lines(far)[-1].startswith("1.1% of the steps") and lines(far)[-1].endswith("their time is unknown")
    several = profile.trust(runs=runs)["expected_error"]
    assert several[known[0]] and several["sentence"] == near["expected_error"]["sentence"] + SOME_OUTSIDE
    assert not near["expected_error"]["sentence"].endswith(SOME_OUTSIDE)
    told = lines(profile.trust({"kv_cache_dtype": "fp8"}, runs=runs[1:]))
    assert told[2] == "settings whose effect is not in these numbers: kv_cache_dtype"


def test_no_error_is_given_of_many_steps_beyond_where_no_larger_ones_were_held_out(measured: Profile) -> None:
    beyond = RegimeError(BEYOND, 30, 0.06, 0.07, 0.15, 0.0)
    known = replace(measured, step=replace(measured.step, held_out=(*measured.step.held_out, beyond)))
    for profile, share, told in ((measured, 0.05, True), (measured, 0.06, False), (known, 0.06, True)):
        error = profile.trust(runs=[{"extrapolated_share": share}])["expected_error"]
        assert (error["step_time"] is not None) == told == (error["sentence"] != OUTSIDE)


def test_an_api_server_that_is_busy_all_the_time_is_told(measured: Profile) -> None:
    runs = [{"api_server_share": 0.4}, None, {"api_server_share": 1.254, "extrapolated_share": 0.0}]
    assert measured.trust(runs=runs)["api_server_share"] == 1.254
    assert "busy about 125% of the time" in lines(measured.trust(runs=runs))[2]
    assert len(lines(measured.trust(runs=runs[:2]))) == 2


def test_requests_that_pile_up_to_the_end_of_a_trace_are_told(measured: Profile) -> None:
    """On a load that goes on they miss every target."""
    assert "18% of the requests pile up" in lines(measured.trust(runs=[{"piled_up_share": 0.18}]))[2]
    assert len(lines(measured.trust(runs=[{"piled_up_share": 0.02}]))) == 2


def test_the_error_of_what_is_extrapolated_is_told_where_it_is_known(measured: Profile) -> None:
    beyond = RegimeError(BEYOND, 30, 0.06, 0.07, 0.15, 0.0)
    profile = replace(measured, step=replace(measured.step, held_out=(*measured.step.held_out, beyond)))
    many = [{"extrapolated_share": 0.25}]
    trust = profile.trust(runs=many)
    assert trust["expected_error"]["step_time_extrapolated"] == {"median": 0.06, "within_90": 0.15}
    assert lines(trust)[2].endswith("and by an unknown amount farther out")
    assert ", by 6.0% (median) up to twice its sizes, as when the larger half" in lines(trust)[2]
    assert (step_time_error(measured, many), step_time_error(profile, many)) == (None, 0.06), "of the one nothing tells"


def test_few_large_prefills_outside_what_was_measured_decide(measured: Profile) -> None:
    """Of a hundred steps one is a prefill, and a first token's time is that of one step."""
    beyond = RegimeError(BEYOND, 30, 0.06, 0.07, 0.15, 0.0)
    profile = replace(measured, step=replace(measured.step, held_out=(*measured.step.held_out, beyond)))
    few = {"extrapolated_share": 0.006, "extrapolated_prefill_share": 0.6}
    assert step_time_error(profile, [few]) == 0.06
    told = lines(profile.trust(runs=[few]))
    assert told[2].startswith("0.6% of the steps, 60.0% of those with a prefill, lie outside")
    assert len(told) == 3


@pytest.mark.parametrize("source", [MEASURED, KERNEL_TABLES])
def test_of_steps_far_outside_no_error_is_told(measured: Profile, source: str) -> None:
    beyond = RegimeError(BEYOND, 30, 0.06, 0.07, 0.15, 0.0)
    held_out = (*measured.step.held_out, beyond)
    profile = replace(measured, source=source, step=replace(measured.step, held_out=held_out))
    few, many = ({"extrapolated_share": 0.5, "far_share": share} for share in (0.009, 0.06))
    assert step_time_error(profile, [few]) is not None
    assert step_time_error(profile, [few, many]) is None
    assert "6.0% of the steps, or of those with a prefill, are more than twice" in lines(profile.trust(runs=[many]))[-1]
    assert "more than twice" not in lines(profile.trust(runs=[few]))[-1]


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ((0.05, 0.05, 0.01), None),
        ((0.06, 0.0, 0.0), "6%"),
        ((0.01, 0.43, 0.01), "43%"),
        ((0.01, 0.43, 0.02), "43%, far"),
        ((0.02, 0.02, 0.02), "2%, far"),
    ],
)
def test_what_bends_one_run_among_others_is_told_in_few_words(shares: tuple[float, ...], told: str | None) -> None:
    names = ("extrapolated_share", "extrapolated_prefill_share", "far_share")
    assert extrapolated_text(dict(zip(names, shares, strict=True))) == told


def test_kinds_of_steps_that_were_never_measured_are_named(measured: Profile) -> None:
    hull = measured.step.hull.copy()
    hull[1] = [np.inf, -np.inf]
    unmeasured = replace(measured, step=replace(measured.step, hull=hull))
    some, few = ({"extrapolated_share": 0.02, "far_share": share} for share in (0.02, 0.01))
    assert lines(unmeasured.trust(runs=[some]))[-1].endswith(
        ", or of a kind that it was made from none of, or too few (prefill): their time is unknown"
    )
    assert "of a kind" not in lines(measured.trust(runs=[some]))[-1]
    assert "unknown" not in lines(unmeasured.trust(runs=[few]))[-1]
    assert "unknown" not in lines(unmeasured.trust())[-1]


def test_a_kind_that_a_run_hardly_has_hides_no_error_of_the_others(measured: Profile) -> None:
    """A loaded engine has no steps of prefills alone: a profile made there is used there."""
    beyond = RegimeError(BEYOND, 30, 0.06, 0.07, 0.15, 0.0)
    hull = measured.step.hull.copy()
    hull[1] = [np.inf, -np.inf]
    profile = replace(measured, step=replace(measured.step, hull=hull, held_out=(*measured.step.held_out, beyond)))
    run = {"extrapolated_share": 0.1, "extrapolated_prefill_share": 0.3, "far_share": 0.002}
    assert step_time_error(profile, [run]) == 0.06
    assert ", by 6.0% (median) up to twice its sizes" in lines(profile.trust(runs=[run]))[-1]


def test_steps_of_one_kind_tell_no_error_of_another(measured: Profile) -> None:
    beyond = RegimeError(BEYOND, 30, 0.0, 0.0, 0.0, 0.0)
    hull = measured.step.hull.copy()
    hull[1:] = [np.inf, -np.inf]
    decodes = replace(measured, step=replace(measured.step, hull=hull, held_out=(*measured.step.held_out, beyond)))
    reach = {reach_of(decodes.timing().step, totals_of(np.array([tokens, 1]), np.array([0, 9]))) for tokens in (1, 64)}
    assert reach == {FAR}, "so no run with prompts has fewer of these than the least share here"
    few = {"extrapolated_share": 0.001, "extrapolated_prefill_share": 1.0, "far_share": 1.0}
    assert step_time_error(decodes, [few]) is None, "a first token's time is that of one step"
    assert step_time_error(decodes, [{"extrapolated_share": 0.02, "far_share": 0.02}]) is None
    told = lines(decodes.trust(runs=[{"extrapolated_share": 0.065, "far_share": 0.065}]))
    assert "too few (prefill, mixed): their time is unknown" in told[-1], "as is told in words"
    assert step_time_error(decodes) == 0.02


@pytest.mark.parametrize(
    ("source", "before_s", "told", "later_ms"),
    [
        (KERNEL_TABLES, 0.006, "every TTFT includes an assumed 6 ms for HTTP, tokeniser and client; on", 16.5),
        (KERNEL_TABLES, 0.03, "every TTFT includes an assumed 30 ms for HTTP, tokeniser and client; on", 0.0),
        (STEP_RECORDS, 0.0, "these TTFTs include no time outside the engine's steps (HTTP, tokeniser", 22.5),
        (MEASURED, 0.004, None, 0.0),
        (CLOSED_FORM, 0.0, None, 0.0),
    ],
)
def test_the_way_to_the_engine_is_told_to_be_doubted_where_it_was_not_measured(
    measured: Profile, source: str, before_s: float, told: str | None, later_ms: float
) -> None:
    profile = replace(measured, source=source, overhead=Overhead(before_s))
    outside = profile.trust()["expected_error"]["outside_steps"]
    assert outside is None if told is None else told in outside
    assert 1e3 * later_s(profile) == pytest.approx(later_ms)


def test_what_prompts_add_to_the_way_is_told(measured: Profile) -> None:
    tables = replace(measured, source=KERNEL_TABLES, overhead=Overhead(0.005, 2.5e-6, 0.001))
    assert tables.trust()["expected_error"]["outside_steps"] == (
        "every TTFT includes an assumed 6 ms for HTTP, tokeniser and client, and 2.5 ms for every 1,000 prompt tokens; "
        "on measured servers, with their load generators, it was 14 to 48 ms in place of the 6, and more in bursts"
    )
    by_tokens = replace(measured, overhead=Overhead(before_token_s=2e-6))
    assert by_tokens.trust()["expected_error"]["outside_steps"] is None and later_s(by_tokens) == 0.0


def test_errors_that_are_told_as_0_are_not_told_twice(measured: Profile) -> None:
    exact = (RegimeError("all", 99, 1e-8, 1e-8, 1e-8, -1e-7), RegimeError("decode small", 50, 1e-7, 1e-7, None, 2e-7))
    over_time = RegimeError(OVER_TIME, 20, 1e-6, 1e-6, 1e-6, 0.0)
    told = replace(measured, step=replace(measured.step, held_out=(*exact, over_time))).trust()["expected_error"]
    assert told["sentence"] == (
        "for traffic like that measured, expect step times to be off by 0.0% (median on kinds of steps held out; 90 % "
        "of single steps within 0.0%); waiting times are off by more near saturation"
    )


def test_the_way_back_is_a_part_of_the_way(measured: Profile) -> None:
    tables = replace(measured, source=KERNEL_TABLES, overhead=Overhead(before_s=0.004, after_s=0.008))
    assert later_s(tables) == pytest.approx(0.0105)
    assert tables.trust()["expected_error"]["outside_steps"].startswith("every TTFT includes an assumed 12 ms")


def test_what_step_records_do_not_hold_is_told(measured: Profile) -> None:
    records = replace(measured, source=STEP_RECORDS, overhead=Overhead())
    assert "these TTFTs include no time" in lines(records.trust())[2]
    known = replace(records, overhead=Overhead(before_s=0.005))
    assert len(lines(known.trust())) == 2


def test_kernel_tables_tell_their_error_on_real_engines_and_not_that_of_their_fit() -> None:
    trust = load_profile("h200-llama-3.1-8b").trust()
    error = trust["expected_error"]
    assert (error["step_time"], error["mean_tpot"], error["mean_ttft"]) == (None, 0.08, 0.33)
    assert f"mean TPOT to be off by about {error['mean_tpot']:.0%}" in lines(trust)[1]
    assert "mean TTFT by 33%, mostly too short: the median" in lines(trust)[1]


def test_first_tokens_of_latent_attention_were_off_to_both_sides(measured: Profile) -> None:
    latent = replace(measured, source=KERNEL_TABLES, model_parts=("experts", "latent attention"))
    assert "mean TTFT by 33%: the median" in lines(latent.trust())[1]


def test_a_formula_s_error_is_not_known() -> None:
    trust = linear_profile(4e-3, 4e-5, 1e-4, 2e-7).trust()
    assert trust["expected_error"]["step_time"] is None and "unknown" in lines(trust)[1]
