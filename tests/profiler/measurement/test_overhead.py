"""The time outside the engine's steps, from two clocks that are one."""

import pytest

from slotune.profiler.engine.load import Answer, Call
from slotune.profiler.measurement.overhead import Passages, fit_overhead, passages, ways_out_note
from slotune.simulator.steps import StepRecord


def answer(sent: float, chunks: list[float]) -> Answer:
    return Answer(sent=sent, chunks=chunks, output_tokens=len(chunks))


def test_the_way_in_is_measured_on_requests_that_found_the_engine_idle() -> None:
    calls = [Call([1] * 4, 2, name="a"), Call([1] * 4, 1, name="b")]
    answers = [answer(1.000, [1.023, 1.033]), answer(1.012, [1.033])]
    records = [
        StepRecord(1, 1.005, 1.020, (("a", 4, 0),)),
        StepRecord(2, 1.020, 1.030, (("a", 1, 4), ("b", 4, 0))),
    ]
    ways = passages(calls, answers, records)
    assert ways.before == [(4, pytest.approx(0.005))]  # b came while the engine was at a's prompt
    assert ways.after == pytest.approx([0.003, 0.003, 0.003])


def test_chunks_of_several_tokens_tell_nothing_of_the_way_out() -> None:
    records = [StepRecord(1, 1.005, 1.020, (("a", 4, 0),)), StepRecord(2, 1.020, 1.030, (("a", 1, 4),))]
    ways = passages([Call([1] * 4, 2, name="a")], [answer(1.000, [1.033])], records)
    assert (len(ways.before), ways.after) == (1, [])


def test_a_prompt_in_chunks_makes_its_first_token_in_the_last_of_them() -> None:
    chunks = (("a", 4, 0),), (("a", 4, 4),), (("a", 1, 8),)
    records = [StepRecord(n, 1.0 + n / 100, 1.01 + n / 100, rows) for n, rows in enumerate(chunks, 1)]
    ways = passages([Call([1] * 8, 2, name="a")], [answer(1.002, [1.034, 1.045])], records)
    assert ways.before == [(8, pytest.approx(0.008))]
    assert ways.after == pytest.approx([0.004, 0.005])


def test_what_broke_off_tells_nothing_and_hides_nothing() -> None:
    """The first request failed after its token; the second was sent, says its clock, when its step had begun."""
    calls = [Call([1] * 4, 1, name="a"), Call([1] * 4, 1, name="b"), Call([1] * 4, 1, name="c")]
    records = [StepRecord(n, float(n), n + 0.02, ((name, 4, 0),)) for n, name in enumerate("abc", 1)]
    broken = Answer(sent=0.99, chunks=[1.03], output_tokens=1, error="reset")
    ways = passages(calls, [broken, answer(2.001, [2.025]), answer(2.99, [3.026])], records)
    assert ways.before == [(4, pytest.approx(0.01))]
    assert ways.after == pytest.approx([0.005, 0.006])


def test_failed_requests_and_unrecorded_ones_tell_nothing() -> None:
    failed = Answer(sent=1.0, error="no")
    assert passages([Call([1], 1, name="a")], [failed], []) == Passages([], [])
    assert passages([Call([1], 1, name="a")], [answer(1.0, [1.1])], []) == Passages([], [])


def test_the_fit_finds_what_a_request_and_what_a_token_costs_in_spite_of_stalls() -> None:
    before = [(tokens, 0.003 + 2e-6 * tokens) for tokens in range(10, 2000, 50)] + [(100, 0.5)]
    overhead = fit_overhead([Passages(before, [0.001, 0.002, 0.9])])
    assert overhead.before_s == pytest.approx(0.003, rel=1e-3)
    assert overhead.before_token_s == pytest.approx(2e-6, rel=1e-3)
    assert overhead.after_s == pytest.approx(0.002)


def test_the_backlog_of_a_busy_front_end_is_not_the_way_of_a_token() -> None:
    """Two crowded staircases have most of the tokens, each of which waited for those before it."""
    quiet, crowded = [Passages([], [0.003] * 50)] * 5, [Passages([], [0.7] * 4000)] * 2
    assert fit_overhead([*quiet, *crowded, Passages([], [])]).after_s == pytest.approx(0.003)


def test_nothing_known_is_nothing_added() -> None:
    overhead = fit_overhead([])
    assert (overhead.before_s, overhead.before_token_s, overhead.after_s) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("staircases", "told"),
    [
        (9, None),
        (10, "took 4.5 ms from the end of its step to the client, 0.9 to 8.1 in 8 of 10 staircases"),
        (11, "took 5 ms from the end of its step to the client, 1 to 9 in 8 of 10 staircases"),
    ],
)
def test_how_far_ways_out_lie_apart_is_told(staircases: int, told: str | None) -> None:
    """Eleven staircases of 0 to 10 ms, and those without a token, which tell nothing."""
    note = ways_out_note([Passages([], []), *(Passages([], [1e-3 * ms] * 3) for ms in range(staircases))])
    assert note is None if told is None else told in str(note)
