"""What `trace stats` says."""

import numpy as np
import pytest

from slotune.traces.content import prefix_hit_tokens
from slotune.traces.generate import plain
from slotune.traces.mooncake import read_mooncake
from slotune.traces.stats import request_rate, trace_stats


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_counts_rates_and_lengths() -> None:
    trace = plain(np.array([0.0, 1.0, 4.0, 4.0]), i32(10, 20, 30, 40), i32(1, 2, 3, 6))
    assert trace_stats(trace) == {
        "requests": 4,
        "left_out": 0,
        "duration_s": 4.0,
        "request_rate": 1.0,
        "prompt_token_rate": 25.0,
        "output_token_rate": 3.0,
        "busiest_minute_rate": None,
        "busiest_minute_at_s": None,
        "interarrival_cv": pytest.approx(np.std([1, 3, 0]) / (4 / 3)),
        "distinct_arrivals": 3,
        "prompt_tokens": {"mean": 25.0, "p50": 25.0, "p90": 37.0, "p99": pytest.approx(39.7), "max": 40},
        "output_tokens": {"mean": 3.0, "p50": 2.5, "p90": pytest.approx(5.1), "p99": pytest.approx(5.91), "max": 6},
        "prefix_hit_share": 0.0,
        "prefix_block_hit_share": 0.0,
    }


@pytest.mark.parametrize("count", [1, 3])
def test_rates_of_requests_that_arrive_at_once_do_not_exist(count: int) -> None:
    stats = trace_stats(plain(np.zeros(count), i32(*[5] * count), i32(*[5] * count)))
    absent = ("request_rate", "prompt_token_rate", "output_token_rate", "interarrival_cv")
    assert [stats[name] for name in absent] == [None] * 4
    assert np.isnan(request_rate(plain(np.zeros(count), i32(*[5] * count), i32(*[5] * count))))


def test_the_rate_of_a_trace_is_that_of_its_statistics() -> None:
    trace = plain(np.array([0.0, 0.1, 0.4, 0.4, 0.5]), i32(*[9] * 5), i32(*[9] * 5))
    assert request_rate(trace) == trace_stats(trace)["request_rate"] == 10.0


def test_prefix_hits_are_what_an_earlier_prompt_started_with() -> None:
    rows = [
        (600, '[["a", 100], ["b", 50]]', 0),
        (600, '[["a", 120]]', 100),  # a is longer here
        (600, '[["a", 100], ["b", 60]]', 150),
        (600, '[["a", 110], ["b", 60]]', 110),  # of the second request; b stands elsewhere
        (600, '[["b", 60]]', 0),
        (600, '[["a", 100], ["b", 55], ["c", 9]]', 155),
        (60, '[["a", 60]]', 60),
    ]
    lines = [f'{{"timestamp": 0, "input_length": {n}, "output_length": 1, "prefix": {p}}}' for n, p, _ in rows]
    trace = read_mooncake([line.encode() for line in lines], "t")
    assert prefix_hit_tokens(trace).tolist() == [hit for _, _, hit in rows]
    assert trace_stats(trace)["prefix_hit_share"] == (100 + 150 + 110 + 155 + 60) / 3660
    assert (
        trace_stats(trace)["prefix_block_hit_share"] == 1 / 13
    )  # all of the last prompt; two blocks for each other one


def test_block_hits_count_whole_hash_ids() -> None:
    rows = [(1024, "[1, 2]"), (1100, "[1, 2, 3]"), (1100, "[1, 2, 3]"), (900, "[1, 9]")]
    lines = [f'{{"timestamp": 0, "input_length": {n}, "output_length": 1, "hash_ids": {h}}}' for n, h in rows]
    stats = trace_stats(read_mooncake([line.encode() for line in lines], "t"))
    assert stats["prefix_block_hit_share"] == (0 + 2 + 3 + 1) / 10
    assert stats["prefix_hit_share"] == (0 + 1024 + 1100 + 512) / (1024 + 1100 + 1100 + 900)


def test_the_busiest_minute_is_told_of_traces_that_have_several() -> None:
    """Ten minutes of one request a second, and 120 more in the fifth."""
    arrivals = np.sort(np.concatenate([np.arange(600.0), 240 + np.arange(120) / 2]))
    lengths = i32(*[9] * len(arrivals))
    stats = trace_stats(plain(arrivals, lengths, lengths))
    assert stats["busiest_minute_rate"] == pytest.approx(3.0, abs=0.05)
    assert stats["busiest_minute_at_s"] == pytest.approx(240, abs=1)
    assert trace_stats(plain(arrivals[:100], lengths[:100], lengths[:100]))["busiest_minute_rate"] is None
