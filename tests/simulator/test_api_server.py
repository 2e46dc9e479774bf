"""How busy the API server would be."""

from typing import Any

import numpy as np
import pytest

from slotune.simulator.api_server import PIECE_S, PROMPT_TOKEN_S, REQUEST_S, busy_share
from slotune.simulator.engine_config import resolve
from slotune.simulator.outage import Outage
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
