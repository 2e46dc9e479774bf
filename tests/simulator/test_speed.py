"""The simulator does not grow slow: it stays so many times faster than a fixed pure-Python loop, in the same run.

A ratio, because both loops are slowed alike by whatever else runs on the machine; CPU time, the least of several
rounds in turns; and measured once more before it fails.
"""

import pytest

from slotune.benchmarks import speed_ratio

TIMES_FASTER = {"all on": 10.5, "all off": 15.0}
"""Measured with benchmarks/speed.py reference, the lowest of several runs; raise it when the simulator gets faster."""
MAY_FALL_BY = 0.3
ROUNDS = 4
ATTEMPTS = 2


def slow_ones(ratios: dict[str, float]) -> dict[str, float]:
    """Those that have fallen too far."""
    return {name: times for name, times in ratios.items() if times < TIMES_FASTER[name] * (1 - MAY_FALL_BY)}


def test_the_ratio_to_the_reference_loop_has_not_fallen() -> None:
    for _ in range(ATTEMPTS):
        ratios = speed_ratio.measure("chat", ROUNDS)
        assert ratios[1].steps == ratios[1].reference_steps  # both do the same work
        slow = slow_ones({ratio.name: ratio.times for ratio in ratios})
        if not slow:
            return
    pytest.fail(f"slower than it was: {slow}, committed {TIMES_FASTER} times the reference loop's speed")


def test_a_slower_simulator_would_fail() -> None:
    assert slow_ones(TIMES_FASTER) == {}
    assert slow_ones({"all on": TIMES_FASTER["all on"] * 0.69, "all off": TIMES_FASTER["all off"]}).keys() == {"all on"}
