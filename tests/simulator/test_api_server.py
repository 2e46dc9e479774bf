"""How busy the API server would be."""

from typing import Any

import numpy as np
import pytest

from slotune.simulator.api_server import PIECE_S, PROMPT_TOKEN_S, REQUEST_S, busy_share, cpu_s
from slotune.simulator.engine_config import resolve
from slotune.simulator.metrics import Gaps
from slotune.simulator.outage import Outage
from slotune.simulator.request_table import FINISHED, REJECTED, RequestTable
from slotune.simulator.settings import Settings, parse_settings
from slotune.simulator.simulation import SimulationResult, simulate
from slotune.simulator.step_time import linear_model
from slotune.simulator.timing import Timing
from slotune.traces.generate import plain

TRACE = plain(np.arange(40) / 10, np.full(40, 500, np.int32), np.full(40, 64, np.int32))
READING_S = 40 * (REQUEST_S + 500 * PROMPT_TOKEN_S)
TIMING = Timing(linear_model(1e-3, 1e-6, 0.0, 0.0))


def served(settings: Settings | None = None, **asked: Any) -> SimulationResult:
    return simulate(TRACE, resolve(settings or {}, {}, 9999), TIMING, **asked)


def share_of(result: SimulationResult) -> float:
    return busy_share(result.requests, result.gaps, 10.0)


def test_it_reads_requests_and_writes_every_token() -> None:
    assert share_of(served()) == pytest.approx((READING_S + 40 * 64 * PIECE_S) / 10)


def test_tokens_that_are_sent_together_are_one_piece() -> None:
    # The first token, then 8 at a time, and what is left with the last: 1 + 7 + 1.
    share = share_of(served({"stream_interval": 8}))
    assert share == pytest.approx((READING_S + 40 * 9 * PIECE_S) / 10)


def test_drafts_that_are_accepted_come_with_the_token_before_them() -> None:
    draft = '{"method": "ngram", "num_speculative_tokens": 3}'
    settings = parse_settings((f"speculative_config={draft}",), acceptance="1.0")
    share = share_of(served(settings))
    assert share == pytest.approx((READING_S + 40 * 17 * PIECE_S) / 10)  # 1, then 63 by four


def test_each_replica_has_a_server_and_the_busiest_counts() -> None:
    assert share_of(served(replicas=4)) == pytest.approx(share_of(served()) / 4)
    dead = [Outage(replica, 0.0) for replica in (1, 2, 3)]
    assert share_of(served(replicas=4, outages=dead)) == pytest.approx(share_of(served()))


def test_a_run_of_no_length_keeps_nobody_busy() -> None:
    result = served()
    assert busy_share(result.requests, result.gaps, 0.0) == 0


def test_the_cpu_time_of_a_request_in_seconds() -> None:
    """1.4 ms for it, 1.3 us for each token of its prompt and 76 us for each piece, as measured."""
    assert cpu_s(np.array([0, 1000]), np.array([1, 200])) == pytest.approx([0.001476, 0.0179])


def test_the_replica_with_the_most_to_write_counts_and_what_is_not_answered_costs_nothing() -> None:
    """Two of three answers of ten tokens, each a piece, are replica 1's; the fourth request is rejected."""
    replica, tokens, none = np.array([0, 1, 1, 0]), np.array([10, 10, 10, 0]), np.zeros(4, np.int64)
    answered_s = np.array([1.0, 1.0, 1.0, np.nan])
    status = np.array([FINISHED, FINISHED, FINISHED, REJECTED])
    prompts = np.array([1000, 1000, 1000, 100_000])
    table = RequestTable(np.zeros(4), prompts, tokens, none, answered_s, answered_s, none, replica, status)
    share = busy_share(table, Gaps(np.array([0.01]), np.array([27])), 2.0)
    assert share == pytest.approx(2 * (0.0014 + 0.0013 + 0.00076) / 2)


def test_nobody_is_busy_with_requests_that_are_all_rejected() -> None:
    none, never = np.zeros(2, np.int64), np.full(2, np.nan)
    table = RequestTable(np.zeros(2), none + 9, none, none, never, never, none, none, np.full(2, REJECTED))
    assert busy_share(table, Gaps(np.empty(0), np.empty(0, np.int64)), 2.0) == 0
