"""Configurations with the runs that a test says they had."""

import math

from slotune.simulator.slo import parse_slo
from slotune.tuner.objective import Objective
from slotune.tuner.study.comparison import Compared
from slotune.tuner.study.study import Trial

TTFT = Objective(slos=(parse_slo("p99:ttft:500"),))


def measured(
    name: str, *ttft_ms: float, throughput: float = 1000.0, failed: int = 0, crashes: bool = False
) -> Compared:
    """A configuration with a run for each p99 TTFT; NaN: that round has none. `failed` of 100 requests unanswered."""
    settings = {} if name == "default" else {"max_num_seqs": 64}
    runs = {
        number: {
            "p99_ttft_ms": value,
            "output_throughput": throughput * (1 + number / 100),
            "completed": 100 - failed,
            "failed": failed,
        }
        for number, value in enumerate(ttft_ms)
        if not math.isnan(value)
    }
    failures = [Trial(settings, None, "out-of-memory", where="hardware", repeat=len(ttft_ms))] if crashes else []
    return Compared(name, settings, None, runs, failures)


def good(name: str, *request_goodput: float) -> Compared:
    """A configuration with a run for each goodput."""
    settings = {} if name == "default" else {"max_num_seqs": 64}
    numbers = {"completed": 100, "failed": 0, "request_throughput": 20}
    return Compared(name, settings, None, {r: numbers | {"request_goodput": g} for r, g in enumerate(request_goodput)})
