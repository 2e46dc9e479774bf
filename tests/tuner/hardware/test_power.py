"""How often a gain is found: as often as `slotune validate --help` says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from slotune.simulator.slo import parse_slo
from slotune.tuner.hardware.verdict import decide
from slotune.tuner.objective import Objective
from slotune.tuner.study.comparison import Compared


def test_the_help_says_what_it_takes_to_find_a_gain_of_a_tenth(slotune: Callable[..., Any]):
    told = " ".join(slotune("validate", "--help").out.split())
    assert "Three of the best three find a gain of 10 % only if runs of one configuration lie within about 2 %" in told
    assert "on a noisier machine take --top 1 or --repeats 5" in told


@pytest.mark.parametrize(
    ("runs_apart", "top", "repeats", "least", "most"),
    [(0.02, 3, 3, 0.8, 1.0), (0.05, 3, 3, 0.0, 0.5), (0.05, 1, 3, 0.5, 1.0), (0.05, 3, 5, 0.8, 1.0)],
)
def test_a_gain_of_a_tenth_is_found_as_often_as_the_help_says(
    runs_apart: float, top: int, repeats: int, least: float, most: float
):
    """`runs_apart`: the span of three runs, which is 1.7 times their standard deviation."""
    rng, wins = np.random.default_rng(0), 0
    for _ in range(200):
        ttft_ms = 100 * np.exp(rng.normal(0, runs_apart / 1.7, (1 + top, repeats)))
        ttft_ms[1] *= 0.9
        found = [
            Compared(
                f"#{number}" if number else "default",
                {"max_num_seqs": 64} if number else {},
                None,
                {r: {"p99_ttft_ms": value, "completed": 100, "failed": 0} for r, value in enumerate(row)},
            )
            for number, row in enumerate(ttft_ms)
        ]
        verdict = decide(found, Objective(slos=(parse_slo("p99:ttft:500"),)))
        wins += verdict is not None and verdict.recommended.name == "#1"
    assert least <= wins / 200 <= most
