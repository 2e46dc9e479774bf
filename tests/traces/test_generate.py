"""Workloads from figures: the figures hold, and what is shared is what was asked to be."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotune.errors import InputError
from slotune.traces.arrivals import arrival_times
from slotune.traces.content import prefix_hit_tokens
from slotune.traces.generate import make_trace, parse_lengths
from slotune.traces.lengths import constant, lognormal
from slotune.traces.stats import trace_stats

CHAT = (parse_lengths("1155/1020/4142"), parse_lengths("211/129/601"))


@pytest.mark.parametrize("figures", [(1155, 1020, 4142), (211, 129, 601), (12035, 6909, 85401), (343, 350, 1120)])
@pytest.mark.parametrize("count", [500, 501, 2000])
def test_mean_median_and_99th_percentile_hold_for_a_short_trace(figures: tuple[int, int, int], count: int) -> None:
    tokens = parse_lengths("/".join(map(str, figures))).sample(count, np.random.default_rng(7))
    measured = (tokens.mean(), *np.percentile(tokens, [50, 99]))
    assert measured == pytest.approx(figures, rel=0.01)
    assert tokens.min() >= 1


def test_the_other_kinds_of_lengths() -> None:
    rng = np.random.default_rng(0)
    assert set(parse_lengths("512").sample(9, rng)) == {512}
    assert np.bincount(parse_lengths("3-5").sample(300, rng)).tolist() == [0, 0, 0, 100, 100, 100]
    tokens = parse_lengths("100/800").sample(4000, rng)
    assert np.percentile(tokens, [50, 99]) == pytest.approx([100, 800], rel=0.01)
    assert np.log(tokens).mean() == pytest.approx(np.log(100), rel=0.01)


def test_one_request_has_the_median() -> None:
    assert parse_lengths("1").sample(2, np.random.default_rng(0)).tolist() == [1, 1]
    for text in ("100", "100/800", "150/100/800"):
        assert parse_lengths(text).sample(1, np.random.default_rng(0)).tolist() == [100]


def test_below_the_median_one_deviation_is_a_factor_of_e() -> None:
    tokens = parse_lengths("1155/1020/4142").sample(10_001, np.random.default_rng(0))
    assert np.percentile(tokens, 15.8655) == pytest.approx(1020 / np.e, rel=0.005)
    assert np.percentile(tokens, 2.27501) == pytest.approx(1020 / np.e**2, rel=0.01)
    # Behind the 99th percentile, at z = 2.32635, the straight line goes on: 99.9 in a hundred lie below z = 3.09023.
    assert np.percentile(tokens, 99.9) == pytest.approx(1020 * (4142 / 1020) ** (3.09023 / 2.32635), rel=0.01)


def test_a_tail_beyond_what_a_trace_can_hold_is_refused() -> None:
    with pytest.raises(InputError, match=r"lengths up to 2\..*e\+09 tokens; the most is"):
        parse_lengths("1000000000/2000000000").sample(1000, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("many", "write N, LOW-HIGH, P50/P99 or MEAN/P50/P99"),
        ("1/2/3/4", "write N, LOW-HIGH"),
        ("-5", "write N, LOW-HIGH"),
        ("0", "figures start at 1 and grow"),
        ("0-10", "figures start at 1 and grow"),
        ("100/0/800", "figures start at 1 and grow"),
        ("9-5", "figures start at 1 and grow"),
        ("900/800", "figures start at 1 and grow"),
        ("100/100", "figures start at 1 and grow"),
        (f"1/{10**400}", "the most is 2,147,483,647"),
        ("9" * 5000, "write N, LOW-HIGH"),
        ("5000/100/800", "no lengths with median 100 and 99th percentile 800 have the mean 5000: it can be"),
        ("10/100/800", "have the mean 10: it can be"),
    ],
)
def test_figures_that_make_no_sense_are_refused(text: str, wrong: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_lengths(text)
    assert wrong in str(caught.value)


@given(
    st.integers(1, 300), st.floats(0.01, 1000), st.sampled_from([0, 0.5, 1, 1.09, 4]), st.integers(1, 7), st.integers(0)
)
def test_arrivals_end_at_requests_over_rate(count: int, rate: float, cv: float, group: int, seed: int) -> None:
    times = arrival_times(count, rate, cv, np.random.default_rng(seed), group)
    assert len(times) == count
    assert times[-1] == pytest.approx(count / rate, abs=1e-6)
    assert times[0] >= 0
    assert (np.diff(times) >= 0).all()
    assert all(len(set(times[k : k + group])) == 1 for k in range(0, count, group))


@pytest.mark.parametrize("cv", [0, 0.4, 1, 3])
def test_gaps_have_the_asked_coefficient_of_variation(cv: float) -> None:
    gaps = np.diff(arrival_times(20_000, 5, cv, np.random.default_rng(0)))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05, abs=1e-4)


def test_the_same_seed_makes_the_same_trace_and_another_one_another() -> None:
    a, b, c = (make_trace(50, 2, CHAT, seed=seed, cv=2) for seed in (1, 1, 2))
    assert a.arrival_s.tolist() == b.arrival_s.tolist()
    assert a.input_tokens.tolist() == b.input_tokens.tolist()
    assert a.arrival_s.tolist() != c.arrival_s.tolist()
    assert a.input_tokens.tolist() != c.input_tokens.tolist()
    assert sorted(a.input_tokens) == sorted(c.input_tokens)


def test_lengths_like_another_trace_come_in_its_pairs() -> None:
    model = make_trace(20, 1, CHAT, seed=0)
    pairs = set(zip(model.input_tokens.tolist(), model.output_tokens.tolist(), strict=True))
    made = make_trace(400, 1, model, seed=1)
    drawn = set(zip(made.input_tokens.tolist(), made.output_tokens.tolist(), strict=True))
    assert drawn == pairs


def test_system_prompts_stand_before_the_prompts() -> None:
    trace = make_trace(
        300, 1, (parse_lengths("100"), parse_lengths("10")), seed=0, system_prompts=3, system_prompt_tokens=64
    )
    assert set(trace.input_tokens) == {164}
    assert set(trace.run_tokens) == {64}
    assert trace.prefix_name == ("system 0", "system 1", "system 2")
    assert sorted(set(trace.run_name)) == [-4, -3, -2]
    assert prefix_hit_tokens(trace).sum() == 297 * 64


def test_a_conversation_grows_by_prompt_and_answer_and_ends_after_its_turns() -> None:
    lengths = (parse_lengths("10"), parse_lengths("5"))
    trace = make_trace(8, 1, lengths, seed=0, turns=3, users=1)
    assert trace.input_tokens.tolist() == [10, 25, 40, 10, 25, 40, 10, 25]
    assert [trace.prefix_name[-2 - name] for name in trace.run_name] == (
        ["conversation 0"] * 3 + ["conversation 1"] * 3 + ["conversation 2"] * 2
    )
    assert prefix_hit_tokens(trace).tolist() == [0, 10, 25, 0, 10, 25, 0, 10]


def test_conversations_under_one_system_prompt_share_it_first() -> None:
    lengths = (parse_lengths("10"), parse_lengths("5"))
    trace = make_trace(40, 1, lengths, seed=0, turns=4, users=5, system_prompts=1, system_prompt_tokens=100)
    assert (trace.run_name[::2] == trace.run_name[0]).all()
    assert trace.run_tokens[::2].tolist() == [100] * 40
    assert (trace.run_tokens[1::2] + 100 == trace.input_tokens).all()
    assert len({trace.prefix_name[-2 - name] for name in trace.run_name}) == len(trace.prefix_name)
    assert 0.5 < trace_stats(trace)["prefix_hit_share"] < 1


def test_a_conversation_keeps_its_system_prompt():
    made = make_trace(
        400, 5.0, (lognormal(100, 300), lognormal(50, 90)), seed=0, turns=5, users=9, system_prompts=4,
        system_prompt_tokens=64,
    )  # fmt: skip
    systems, conversations = made.run_name[::2], made.run_name[1::2]
    of = {conversation: set(systems[conversations == conversation]) for conversation in set(conversations)}
    assert {len(system) for system in of.values()} == {1}
    assert len(set(systems)) == 4


@pytest.mark.parametrize(
    "more",
    [
        {"system_prompts": 1, "system_prompt_tokens": 2**31 - 1},
        {"system_prompts": 1, "system_prompt_tokens": 99_999_999_999},
        {"turns": 20, "users": 1, "lengths": (constant(2e8), constant(2e8))},
        {"lengths": (constant(1e20), constant(1))},
    ],
)
def test_more_tokens_than_a_trace_can_hold_are_refused(more: dict[str, Any]) -> None:
    words: dict[str, Any] = {"lengths": (constant(10), constant(10))} | more
    with pytest.raises(InputError, match="the most is"):
        make_trace(30, 5.0, **words, seed=0)
