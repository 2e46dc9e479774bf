"""The clock of the simulation: whole nanoseconds, told as the seconds nearest to them.

Times are sums of thousands of steps. Were each sum's last digits kept, an arrival and the end of a step that fall on
one moment would come apart by them, and whether a step has the request, which is the time of a step, would be chance.
"""

from typing import TypeVar

import numpy as np

from ..arrays import F64
from .compiled import inner

PER_S = 1e9

Seconds = TypeVar("Seconds", float, F64)


def on_clock(time_s: Seconds) -> Seconds:
    """A time, or an array of them, in seconds: the nearest whole nanosecond."""
    nearest: Seconds = np.rint(time_s * PER_S) / PER_S
    return nearest


tick = inner(on_clock)
"""The same in compiled code."""
