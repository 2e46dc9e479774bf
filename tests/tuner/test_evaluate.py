"""A run has the metrics that are asked for, and one that cannot be is a result."""

import pytest

from slotune.tuner.evaluate import SimulatedRun


@pytest.fixture
def run(small_profile, small_trace):
    return SimulatedRun(small_profile, small_trace(), percentiles=(97.5,))


def test_a_run_gives_the_metrics_that_targets_name(run):
    outcome = run({"max_num_seqs": 16})
    assert outcome.failure is None
    assert outcome.metrics["completed"] == 60
    assert 0 < outcome.metrics["p97.5_ttft_ms"] <= outcome.metrics["p99_ttft_ms"]
    assert outcome.metrics["extrapolated_share"] == 0


def test_what_the_engine_refuses_is_a_result(run):
    outcome = run({"max_num_batched_tokens": 8, "max_num_seqs": 16})
    assert (outcome.metrics, outcome.failure) == (None, "refused")
    assert outcome.message.startswith("max_num_batched_tokens=8: must be at least max_num_seqs=16")
