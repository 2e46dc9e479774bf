"""What repeats of a measurement tell: intervals of a mean, and of a paired change against a reference.

The unit is the run. Requests within a run share its queue and its machine, so thousands of them are still one sample of
what the next run will give; an interval over requests would be many times too narrow.

Latencies and throughputs vary by factors (a machine is 10 % slower today, not 10 ms slower), so intervals are Student's
t on logarithms; where a value is zero, on the values themselves. The mean is the arithmetic one: a log-normal's lies so
many times above its median as its spread says, however often it is measured, and its interval is moved by as much.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays import F64

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval; `low` and `high` are NaN where one run alone tells nothing of it."""

    value: float
    low: float
    high: float
    runs: int


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean over runs of something that is not negative; infinite where it is so in any run, and runs without the value
    (NaN) do not count."""
    if any(map(math.isinf, values)):
        return Interval(math.inf, math.nan, math.nan, len(values))
    known = np.array([value for value in values if math.isfinite(value)])
    if len(known) and (known > 0).all():
        with np.errstate(over="ignore"):  # two runs that lie far apart tell nothing
            median, low, high = np.exp(_t_interval(np.log(known), CONFIDENCE))
        mean = float(known.mean())
        return Interval(mean, mean * float(low / median), mean * float(high / median), len(known))
    value, low, high = _t_interval(known, CONFIDENCE)
    return Interval(value, max(low, 0.0), high, len(known))


def paired_ratio(values: Sequence[float], references: Sequence[float], *, comparisons: int = 1) -> Interval:
    """Ratio of values to references, paired by position: what both runs of a round shared cancels.

    With several `comparisons` against the same reference the intervals hold together (Bonferroni). Pairs in
    which either is missing or not positive do not count.
    """
    pairs = [(v, r) for v, r in zip(values, references, strict=True) if _positive(v) and _positive(r)]
    logs = np.array([math.log(v / r) for v, r in pairs])
    with np.errstate(over="ignore"):  # two runs that lie far apart tell nothing
        value, low, high = np.exp(_t_interval(logs, 1 - 2 * _one_sided(comparisons))).tolist()
    return Interval(value, low, high, len(pairs))


def alone_in(wins: int, rounds: int, *, comparisons: int = 1) -> Interval:
    """A ratio of 0: in `wins` of the rounds only the reference has nothing to show, in the others neither is better.

    Without bounds where two that are equal would do so more often than the confidence allows. However often each of
    them has nothing to show in a round, the one has in all and the other in none at most 0.25 ** rounds of the time;
    where some rounds tell nothing, those that do are told by the sign test, 0.5 ** wins.
    """
    chance = (0.25 if wins == rounds else 0.5) ** wins
    bound = 0.0 if chance <= _one_sided(comparisons) else math.nan
    return Interval(0.0, bound, bound, wins)


def rounds_alone(comparisons: int) -> int:
    """Rounds that it takes, if all are such, for `alone_in` to have bounds."""
    return math.ceil(math.log(_one_sided(comparisons)) / math.log(0.25))


def _one_sided(comparisons: int) -> float:
    return (1 - CONFIDENCE) / 2 / max(comparisons, 1)


def spread(values: Sequence[float]) -> float:
    """(Largest - smallest) / mean over runs: how much a sentinel drifted. NaN below two runs."""
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2 or not math.fsum(known):
        return math.nan
    return (max(known) - min(known)) / (math.fsum(known) / len(known))


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _t_interval(sample: F64, confidence: float) -> tuple[float, float, float]:
    """Mean, lower and upper bound by Student's t with n - 1 degrees of freedom."""
    from scipy.stats import t

    if not len(sample):
        return math.nan, math.nan, math.nan
    mean = float(sample.mean())
    if len(sample) < 2:
        return mean, math.nan, math.nan
    half = float(t.ppf((1 + confidence) / 2, len(sample) - 1)) * float(sample.std(ddof=1)) / math.sqrt(len(sample))
    return mean, mean - half, mean + half
