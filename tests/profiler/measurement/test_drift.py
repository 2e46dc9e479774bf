"""The sentinel tells the machine's slowness."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from slotune.profiler.engine.launch import Launch
from slotune.profiler.engine.server import Server
from slotune.profiler.measurement.drift import drift_of
from slotune.profiler.measurement.measured_profile import NOTHING_OUTSIDE, drift_note, measured_profile
from slotune.profiler.measurement.overhead import Passages
from slotune.profiler.measurement.session import Collected
from slotune.simulator.steps import StepRecord


def visit(at_s: float, slowness: float, stall_s: float = 0.0) -> list[StepRecord]:
    """A prefill of 20 ms and three decodes of 10 ms, on a machine that slow; a stall in the last."""
    records, now = [], at_s
    for index, (tokens, context, usual_s) in enumerate([(8, 0, 0.02), (1, 8, 0.01), (1, 9, 0.01), (1, 10, 0.01)]):
        end = now + usual_s * slowness + (stall_s if index == 3 else 0.0)
        records.append(StepRecord(index, now, end, (("sentinel.0", tokens, context),)))
        now = end
    return records


def visits(*each: list[StepRecord], sitting: int = 1) -> dict[tuple[int, str], list[StepRecord]]:
    return {(sitting, f"sentinel{number}"): records for number, records in enumerate(each)}


def test_a_machine_that_slows_down() -> None:
    drift = drift_of(visits(visit(0.0, 1.0), visit(10.0, 1.1), visit(20.0, 1.2)))
    assert drift.slowness == pytest.approx([1 / 1.1, 1.0, 1.2 / 1.1])
    assert drift.at(np.ones(3), np.array([-5.0, 15.0, 99.0])) == pytest.approx([1 / 1.1, 1.15 / 1.1, 1.2 / 1.1])
    assert drift.spread == pytest.approx(0.8 * 0.2 / 1.1)


def test_each_sitting_has_a_clock_of_its_own() -> None:
    """The machine was booted anew in between: the clock of the second sitting shows less."""
    collected = Collected()
    for sitting, (begin_s, slowness) in enumerate([(90_000.0, 2.0), (100.0, 1.0)], 1):
        for number in range(3):
            records = visit(begin_s + 10 * number, slowness)
            named = [replace(record, rows=((f"sentinel{number}.0", *record.rows[0][1:]),)) for record in records]
            collected.add(named, sitting)
    drift = collected.drift()
    moments_s = np.array([90_005.0, 90_025.0, 105.0, 125.0])
    assert drift.at(np.array([1, 1, 2, 2]), moments_s) == pytest.approx([4 / 3, 4 / 3, 2 / 3, 2 / 3])
    steadied_s = collected.samples(steadied=True).duration_s
    assert steadied_s == pytest.approx([0.03, 0.015, 0.015, 0.015] * 6)


def test_a_sitting_without_the_sentinel_is_taken_as_it_is() -> None:
    drift = drift_of(visits(visit(0.0, 1.0), visit(10.0, 1.2), sitting=2))
    assert drift.at(np.array([1]), np.array([5.0])).tolist() == [1.0]


def test_one_stall_is_no_drift() -> None:
    drift = drift_of(visits(visit(0.0, 1.0), visit(10.0, 1.0, stall_s=0.5), visit(20.0, 1.0)))
    assert drift.slowness == pytest.approx([1.0, 1.0, 1.0])


def test_too_few_visits_say_nothing() -> None:
    assert drift_of({}).at(np.ones(2), np.array([1.0, 2.0])).tolist() == [1.0, 1.0]
    spread = drift_of(visits(visit(0.0, 1.0), [])).spread
    assert spread is None
    assert "not known" in drift_note(spread, steadied=False)
    assert "drifted by 12%" in drift_note(0.12, steadied=False)


def measured(
    machine: Callable[[float], float], sentinel: Callable[[float], float], ended: str | None, token_s: float = 0.0
) -> list[str]:
    """The notes of a profile of 100 visits of the sentinel, 2 s apart, each behind decodes of other batches, to which
    prompts came `token_s` a token after they were sent."""
    collected, rng = Collected(), np.random.default_rng(1)
    collected.ways = [Passages([(tokens, token_s * tokens) for tokens in (10, 1000, 8000)], [])]
    for number, at_s in enumerate(np.arange(0.0, 200.0, 2.0).tolist()):
        seen = [replace(r, rows=((f"sentinel{number}.0", *r.rows[0][1:]),)) for r in visit(at_s, sentinel(at_s))]
        now, records = at_s + 1.0, list(seen)
        for batch in rng.integers(1, 65, 8).tolist():
            rows = tuple((f"s{number}.{i}", 1, 100) for i in range(batch))
            records.append(StepRecord(len(records), now, now + (0.01 + 0.001 * batch) * machine(at_s), rows))
            now = records[-1].end_s
        collected.add(records, 1)
    server = Server("", "m", {"kv_cache_groups": []}, Path(), None, 1.0, cast(Any, None))
    return list(measured_profile("m", {}, Launch((), None, True), server, collected, [], ended, "p", 0).notes)


def test_drift_is_taken_out_where_the_sentinel_knows_it_and_left_where_it_only_scatters() -> None:
    def slowing(at_s: float) -> float:
        return 1.0 + 0.5 * float(np.sin(at_s / 20))

    def scattering(at_s: float) -> float:
        return 1.0 + 0.5 * float(np.sin(at_s * 1e4))

    known = measured(slowing, slowing, None)
    assert any("which was taken out of the step times" in note for note in known)
    assert not any("cut short" in note for note in known)
    unknown = measured(lambda at_s: 1.0, scattering, "the engine died")
    assert any("drifted by" in note for note in unknown) and not any("taken out" in note for note in unknown)
    assert unknown[0] == "cut short: the engine died"
    assert NOTHING_OUTSIDE in unknown and NOTHING_OUTSIDE not in measured(slowing, slowing, None, token_s=1e-5)
