"""How busy the API server would be."""

import pytest

from slotune.simulator.api_server import CHUNK_S, PROMPT_TOKEN_S, REQUEST_S, busy_share

METRICS = {"duration": 10.0, "completed": 1000, "total_input_tokens": 500_000, "total_output_tokens": 64_000}
READING_S = 1000 * REQUEST_S + 500_000 * PROMPT_TOKEN_S


def test_it_reads_requests_and_writes_every_token() -> None:
    assert busy_share(METRICS) == pytest.approx((READING_S + 64_000 * CHUNK_S) / 10)


def test_tokens_that_are_sent_together_are_one_piece_and_each_replica_has_a_server() -> None:
    assert busy_share(METRICS, stream_interval=8) == pytest.approx((READING_S + 8_000 * CHUNK_S) / 10)
    assert busy_share(METRICS, replicas=4) == pytest.approx(busy_share(METRICS) / 4)


def test_a_run_of_no_length_keeps_nobody_busy() -> None:
    assert busy_share(METRICS | {"duration": 0.0}) == 0
