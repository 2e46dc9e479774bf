"""A run has the metrics that are asked for, and one that cannot be is a result."""

from dataclasses import replace

import numpy as np
import pytest

from slotune.profiler.kv_capacity import KvCapacity
from slotune.simulator.simulation import simulate
from slotune.traces.transform import at_rate
from slotune.tuner import evaluate
from slotune.tuner.evaluate import SimulatedRun, extrapolated


@pytest.fixture
def run(small_profile, small_trace):
    return SimulatedRun(small_profile, small_trace(), percentiles=(97.5,))


def test_a_run_gives_the_metrics_that_targets_name(run):
    outcome = run({"max_num_seqs": 16})
    assert outcome.failure is None
    assert outcome.metrics["completed"] == 60
    assert 0 < outcome.metrics["p97.5_ttft_ms"] <= outcome.metrics["p99_ttft_ms"]
    assert outcome.metrics["extrapolated_share"] == outcome.metrics["far_share"] == 0


def test_few_extrapolated_steps_may_be_most_of_the_prefills():
    shares = extrapolated(np.array([[980, 0, 0], [4, 6, 10]]))
    assert shares == pytest.approx({"extrapolated_share": 0.016, "extrapolated_prefill_share": 0.8, "far_share": 0.5})
    decodes = extrapolated(np.array([[5, 0, 15], [0, 0, 0]]))
    assert decodes == pytest.approx({"extrapolated_share": 0.75, "extrapolated_prefill_share": 0.0, "far_share": 0.75})


def test_an_engine_that_does_not_keep_up_is_noted_though_the_trace_ends_before_it_shows(run, small_trace):
    calm, busy = (replace(run, trace=at_rate(small_trace(400), rate, 0))({}).metrics for rate in (1.0, 4000.0))
    assert calm["piled_up_share"] < 0.05 < busy["piled_up_share"] <= 1


def test_no_more_requests_pile_up_than_arrive(run, small_trace):
    """An engine that answers hardly any, and more arrivals in the middle than the rate has: 101 % were told."""
    slow = replace(run, trace=at_rate(small_trace(400), 1e6, 0))
    assert 0.9 < slow({"max_num_seqs": 1}).metrics["piled_up_share"] <= 1


def test_what_the_engine_refuses_is_a_result(run):
    outcome = run({"max_num_batched_tokens": 8, "max_num_seqs": 16})
    assert (outcome.metrics, outcome.failure) == (None, "refused")
    assert outcome.message.startswith("max_num_batched_tokens=8: must be at least max_num_seqs=16")


def test_the_step_loop_is_compiled_also_where_the_profile_s_defaults_do_not_fit(run, monkeypatch):
    """Otherwise every worker would compile it for itself, now and in all later runs on the machine."""
    tight = replace(run.profile, kv=KvCapacity(1.0, kv_cache_memory_bytes=160.0), defaults={"max_model_len": 2048})
    simulated = []

    def noted(trace, *rest, **more):
        simulated.append(len(trace))
        return simulate(trace, *rest, **more)

    monkeypatch.setattr(evaluate, "simulate", noted)
    replace(run, profile=tight).compile()
    assert simulated == [2]
