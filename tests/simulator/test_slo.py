"""Targets: what is read as one, which percentile leaves out how many, and what is said of a latency."""

import math

import pytest

from slotune.errors import InputError
from slotune.simulator.slo import Slo, left_out, milliseconds, parse_goodput, parse_slo, percentile_of


def test_targets_are_read_as_they_are_written() -> None:
    assert parse_slo("p99:ttft:500") == Slo(99.0, "ttft", 500.0)
    assert parse_slo(" P99.9:E2EL:2.5e3ms ") == Slo(99.9, "e2el", 2500.0)
    assert parse_slo("p0.5:itl:0.5") == Slo(0.5, "itl", 0.5)
    assert parse_slo("p100:tpot:1") == Slo(100.0, "tpot", 1.0)
    assert parse_goodput("TTFT:500") == ("ttft", 500.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("99:ttft:500", "expected percentile:metric:milliseconds"),
        ("p99:ttft:-5", "expected percentile:metric:milliseconds"),
        ("p0:ttft:500", "percentile must lie in"),
        ("p100.5:ttft:500", "percentile must lie in"),
        ("p99:latency:500", "unknown metric 'latency'; one of ttft, tpot, itl, e2el"),
        ("p99:ttft:0", "milliseconds above 0"),
        ("p99:ttft:1e999", "milliseconds above 0"),
    ],
)
def test_what_is_no_target_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_slo(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ttft:soon", "expected metric:milliseconds"),
        ("ttft", "expected metric:milliseconds"),
        ("itl:50", "many inter-token latencies"),
        ("latency:50", "unknown metric"),
        ("tpot:0", "milliseconds above 0"),
        ("tpot:inf", "milliseconds above 0"),
        ("tpot:nan", "milliseconds above 0"),
    ],
)
def test_what_a_good_request_cannot_keep_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_goodput(text)


def test_the_percentile_in_the_name_of_a_metric() -> None:
    names = ("p100_ttft_ms", "p0.5_itl_ms", "p0_ttft_ms", "p100.5_ttft_ms", "p99.0_ttft_ms", "mean_ttft_ms")
    assert [percentile_of(name) for name in names] == [100.0, 0.5, None, None, None, None]


@pytest.mark.parametrize(
    ("percentile", "total", "count"),
    [
        (90.0, 11, 1),  # the tenth of eleven, where 0.1 * 10 is a last digit short of 1
        (90.0, 10, 0),  # between the ninth and the tenth
        (99.0, 901, 9),
        (99.0, 900, 8),
        (50.0, 2, 0),
        (50.0, 3, 1),
        (100.0, 1000, 0),
    ],
)
def test_how_many_a_percentile_leaves_out(percentile: float, total: int, count: int) -> None:
    assert left_out(percentile, total) == count


def test_those_without_an_answer_count_among_all() -> None:
    """Of 901 requests nine may lack an answer: the 99th percentile is the 892nd."""
    run = {"completed": 892.0, "failed": 9.0, "p99_ttft_ms": 300.0, "p99_ttft_ms_of_all": 400.0}
    assert Slo(99.0, "ttft", 500.0).value_ms(run) == 400.0
    assert Slo(99.0, "ttft", 500.0).ratio(run) == 0.8
    assert Slo(99.0, "ttft", 500.0).value_ms(run | {"completed": 891.0}) == math.inf


def test_a_latency_that_no_answer_has() -> None:
    none = {"completed": 5.0, "failed": 0.0, "p99_tpot_ms": math.nan, "p99_ttft_ms": math.nan}
    assert Slo(99.0, "tpot", 50.0).ratio(none) == 0.0
    assert Slo(99.0, "ttft", 50.0).ratio(none) == math.inf
    assert Slo(99.0, "tpot", 50.0).ratio(none | {"completed": 0.0}) == math.inf


def test_latencies_in_words() -> None:
    values = (335.4567, math.nan, math.inf)
    assert [milliseconds(value) for value in values] == ["335.5 ms", "no such latency", "too few answers"]
