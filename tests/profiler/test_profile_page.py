"""What is told of a profile: errors in per cent, and a warning where they are large."""

from dataclasses import replace

import pytest

from slotune.profiler.kv_capacity import GIB, KvCapacity, KvObservation
from slotune.profiler.profile import Profile
from slotune.profiler.profile_page import error_rows, fact_lines, kv_lines, warnings
from slotune.profiler.provenance import CLOSED_FORM, KERNEL_TABLES, MEASURED, STEP_RECORDS
from slotune.profiler.surrogate.model import OVER_TIME, RegimeError


def test_errors_are_shown_in_per_cent() -> None:
    known, few = RegimeError("all", 100, 0.02, 0.03, 0.08, -0.01), RegimeError("decode small", 5, 0.5, 0.25, None, 1.5)
    assert error_rows((known, few)) == [
        ["all", 100, 2.0, 3.0, 8.0, -1.0],
        ["decode small", 5, 50.0, 25.0, None, 150.0],
    ]


def with_errors(profile: Profile, step: float, over_time: float, source: str = MEASURED) -> Profile:
    """Whose steps are off by `step`, and parts of its recording by `over_time`."""
    errors = (RegimeError("all", 100, step, 0.9, 0.9, 0.9), RegimeError(OVER_TIME, 20, 0.9, over_time, 0.9, 0.9))
    return replace(profile, source=source, step=replace(profile.step, held_out=errors))


@pytest.mark.parametrize(
    ("step", "over_time", "source", "told"),
    [
        (0.1, 0.1, MEASURED, None),
        (0.3, 0.1, MEASURED, "off by 30%: latencies will be off by at least as much; measure longer"),
        (0.1, 0.2, STEP_RECORDS, "off by 20%: latencies will be off by at least as much; record longer"),
        (0.3, 0.3, KERNEL_TABLES, None),
    ],
)
def test_a_fit_that_is_far_off_is_warned_of(
    measured: Profile, step: float, over_time: float, source: str, told: str | None
) -> None:
    lines = warnings(with_errors(measured, step, over_time, source))
    assert len(lines) == (told is not None) and all(str(told) in line for line in lines)


def test_what_was_not_fitted_is_not_far_off(measured: Profile) -> None:
    assert warnings(replace(measured, source=CLOSED_FORM, step=replace(measured.step, held_out=()))) == []


def test_the_settings_that_a_profile_was_made_with_are_shown_if_there_are_some(measured: Profile) -> None:
    chosen = replace(measured, defaults={"max_num_seqs": 64, "block_size": 32})
    assert "defaults: max_num_seqs=64, block_size=32" in fact_lines(chosen)
    assert not any(line.startswith("defaults") for line in fact_lines(replace(measured, defaults={})))


def test_what_predictions_are_off_by_is_shown_or_what_is_in_doubt(measured: Profile) -> None:
    (told,) = [line for line in fact_lines(measured) if line.startswith("predictions: ")]
    assert told.startswith("predictions: for traffic like that measured, expect step times to be off by 2.0%")
    doubted = fact_lines(replace(measured, doubts=("half of it",)))
    assert "in doubt: half of it" in doubted and not any(line.startswith("predictions") for line in doubted)


def test_where_the_size_of_the_cache_comes_from_is_shown(measured: Profile) -> None:
    limits = {"max_num_batched_tokens": 2048, "max_num_seqs": 256, "block_size": 16, "gpu_memory_utilization": 0.9}
    formula = KvCapacity(131072.0, total_bytes=80 * GIB, fixed_bytes=20 * GIB)
    blocks = formula.num_gpu_blocks(limits)
    seen = replace(formula, observations=(KvObservation(limits, blocks), KvObservation(limits, round(blocks / 1.25))))

    def last(kv: KvCapacity, source: str) -> str:
        blocks_line, line = kv_lines(replace(measured, kv=kv, source=source, defaults=limits))
        assert blocks_line.startswith(f"{blocks} blocks of 16 tokens") or kv is seen
        return line

    assert last(formula, KERNEL_TABLES) == "from the memory formula alone: no start of the engine was observed"
    assert last(formula, MEASURED) == "as observed in one start of the engine"
    assert last(seen, MEASURED) == "formula refined by 2 start(s) of the engine, off by at most 25 % there"
