"""The speed of a run's own steps, and what is predicted at that speed."""

import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from slotune.profiler.kv_capacity import GIB, KvCapacity
from slotune.profiler.profile import Profile
from slotune.simulator.metrics import summarise
from slotune.simulator.simulation import simulate
from slotune.simulator.step_writer import StepWriter
from slotune.simulator.steps import StepRecord, parse_step
from slotune.simulator.timing import Pace
from slotune.traces.trace import Trace
from slotune.tuner.evaluate import SimulatedRun
from slotune.tuner.hardware.run_speed import run_speed
from slotune.tuner.study.comparison import Compared, Quantity

SETTINGS = {"max_num_seqs": 8, "async_scheduling": False}
KV = KvCapacity(kv_bytes_per_token=131072, kv_cache_memory_bytes=GIB)
TTFT = Quantity("mean TTFT", "ms", "mean_ttft_ms")


def on_a_slower_machine(profile: Profile, trace: Trace, factor: float) -> tuple[list[StepRecord], dict[str, float]]:
    """Steps and metrics of a machine on which every step takes `factor` times as long as the profile says."""
    out = io.BytesIO()
    timing = profile.timing(SETTINGS)
    engine = profile.engine_config(SETTINGS)
    result = simulate(trace, engine, timing.at(Pace(factor)), steps_out=StepWriter(out, trace, 1))
    return [parse_step(line, "steps") for line in out.getvalue().decode().splitlines()], summarise(
        result.requests, result.gaps
    )


def test_a_slower_machine_is_told_from_a_wrong_schedule(
    small_profile: Profile, small_trace: Callable[..., Trace]
) -> None:
    trace = small_trace(80, rate=12.0)
    records, measured = on_a_slower_machine(small_profile, trace, 1.3)
    speed = run_speed(records, SimulatedRun(small_profile, trace), SETTINGS)
    assert speed is not None
    assert speed.step_time_ratio == pytest.approx(1.3, rel=1e-3)
    assert speed.steps == len(records)
    assert speed.predicted["mean_ttft_ms"] == pytest.approx(measured["mean_ttft_ms"], rel=0.01)
    as_profiled, _ = on_a_slower_machine(small_profile, trace, 1.0)
    predicted = run_speed(as_profiled, SimulatedRun(small_profile, trace), SETTINGS)
    assert predicted is not None
    one = Compared("#1", SETTINGS, predicted.predicted, {0: measured}, (), {0: speed.predicted}, {0: 1.3})
    assert one.prediction_error(TTFT) < -0.2
    assert one.error_at_speed(TTFT) == pytest.approx(0, abs=0.01)


def test_the_prediction_at_a_run_s_speed_is_the_study_s_own_run(
    small_profile: Profile, small_trace: Callable[..., Trace]
) -> None:
    trace = small_trace(40, rate=12.0)
    records, _ = on_a_slower_machine(small_profile, trace, 1.0)
    asked = SimulatedRun(small_profile, trace, {"ttft": 200.0}, policy="sarathi", max_concurrency=4)
    speed = run_speed(records, asked, SETTINGS)
    assert speed is not None
    told = asked(SETTINGS).metrics
    assert told is not None
    assert told["mean_ttft_ms"] != pytest.approx(SimulatedRun(small_profile, trace)(SETTINGS).metrics["mean_ttft_ms"])
    assert speed.predicted["mean_ttft_ms"] == pytest.approx(told["mean_ttft_ms"], rel=1e-6)
    assert speed.predicted["request_goodput"] == pytest.approx(told["request_goodput"], rel=1e-6)


def test_a_run_without_recorded_steps_has_no_speed(small_profile: Profile, small_trace: Callable[..., Trace]) -> None:
    assert run_speed([], SimulatedRun(small_profile, small_trace()), SETTINGS) is None


def test_what_the_profile_holds_for_impossible_has_no_speed(
    small_profile: Profile, small_trace: Callable[..., Trace]
) -> None:
    trace = small_trace(20, rate=12.0)
    records, _ = on_a_slower_machine(small_profile, trace, 1.0)
    impossible = SETTINGS | {"max_model_len": 4096, "num_gpu_blocks_override": 3}
    assert run_speed(records, SimulatedRun(replace(small_profile, kv=KV), trace), impossible) is None
