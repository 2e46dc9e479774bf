"""Latency targets, as people write them: p99:ttft:500 (percentile, metric, milliseconds)."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import InputError
from ..figures import digits, figure

METRICS = ("ttft", "tpot", "itl", "e2el")
BETWEEN_TOKENS = ("tpot", "itl")
ROUNDING = 1e-9
"""Of shares of requests."""
ROUNDING_MS = 5e-7
"""Of latencies, which are differences of moments: half of the last digit with which one is written."""
OF_ALL = "_of_all"
"""Ends the key of a percentile over all requests, those that were not answered included."""


def percentile_key(percentile: float, metric: str) -> str:
    """A percentile's key in `summarise`'s result, vLLM's spelling: p99_ttft_ms."""
    return f"p{digits(percentile)}_{metric}_ms"


def percentile_of(key: str) -> float | None:
    """The percentile whose key this is: 99.9 of p99.9_ttft_ms; None of any other metric."""
    match = re.fullmatch(rf"p(\d+(?:\.\d+)?)_({'|'.join(METRICS)})_ms", key)
    percentile = float(match[1]) if match else 0.0
    return percentile if match and 0 < percentile <= 100 and percentile_key(percentile, match[2]) == key else None


def left_out(percentile: float, total: int) -> int:
    """How many of `total` values may be anything without a percentile of them, interpolated as numpy does, moving."""
    return math.floor((1 - percentile / 100) * (total - 1) + ROUNDING)


@dataclass(frozen=True, slots=True)
class Slo:
    """A percentile of a latency must not exceed a limit."""

    percentile: float
    metric: str
    limit_ms: float

    @property
    def key(self) -> str:
        """The metric's key in `summarise`'s result, vLLM's spelling: p99_ttft_ms."""
        return percentile_key(self.percentile, self.metric)

    def value_ms(self, metrics: Mapping[str, float]) -> float:
        """The latency that the limit is for: of all requests where some were not answered, infinite where these are
        more than the percentile leaves out; NaN where there is none."""
        if self._lacks_answers(metrics):
            return math.inf
        answered = metrics.get(self.key, math.nan)
        if math.isnan(answered) or not metrics.get("failed"):
            return answered
        # Where the percentile falls on a request without an answer, there is none over all (metrics.py).
        return metrics.get(self.key + OF_ALL, math.inf)

    def ratio(self, metrics: Mapping[str, float]) -> float:
        """The latency over its limit; infinite where more requests failed than the percentile leaves out."""
        value_ms = self.value_ms(metrics)
        if not math.isnan(value_ms):
            return self.ratio_of(value_ms)
        # Answers of a single token have no second one to wait for.
        return 0.0 if metrics.get("completed") and self.metric in BETWEEN_TOKENS else math.inf

    def ratio_of(self, value_ms: float) -> float:
        """A latency over the limit."""
        ratio = value_ms / self.limit_ms
        return min(ratio, 1.0) if value_ms <= self.limit_ms + ROUNDING_MS else ratio

    def is_met(self, metrics: Mapping[str, float]) -> bool:
        """Whether the limit is kept."""
        return self.ratio(metrics) <= 1

    def _lacks_answers(self, metrics: Mapping[str, float]) -> bool:
        failed = metrics.get("failed", 0.0)
        return failed > 0 and failed > left_out(self.percentile, round(failed + metrics.get("completed", 0.0)))

    def __str__(self) -> str:
        return f"p{digits(self.percentile)}:{self.metric}:{digits(self.limit_ms)}"


def milliseconds(value_ms: float) -> str:
    """A latency in words: infinite where more requests are not answered than the percentile leaves out, NaN where no
    answer has it, as answers of one token have no time between tokens."""
    if math.isnan(value_ms):
        return "no such latency"
    if math.isinf(value_ms):
        return "too few answers"
    return f"{figure(value_ms)} ms"


def parse_slo(text: str) -> Slo:
    """Parse `p99:ttft:500`. Raises InputError."""
    match = re.fullmatch(r"p(\d+(?:\.\d+)?):(\w+):(\d+(?:\.\d+)?(?:e\d+)?)(?:ms)?", text.strip(), re.IGNORECASE)
    if not match:
        raise InputError(f"--slo {text!r}: expected percentile:metric:milliseconds, for example p99:ttft:500")
    percentile, limit_ms = float(match[1]), float(match[3])
    if not 0 < percentile <= 100:
        raise InputError(f"--slo {text!r}: the percentile must lie in (0, 100]")
    return Slo(percentile, _metric(match[2], f"--slo {text!r}"), _limit(limit_ms, f"--slo {text!r}"))


def parse_goodput(text: str) -> tuple[str, float]:
    """Parse one of vLLM's goodput targets, `ttft:500`: (metric, milliseconds). Raises InputError."""
    metric, _, limit = text.strip().partition(":")
    try:
        limit_ms = float(limit)
    except ValueError as error:
        raise InputError(f"--goodput {text!r}: expected metric:milliseconds, for example ttft:500") from error
    if metric == "itl":
        raise InputError(f"--goodput {text!r}: a request has many inter-token latencies; use ttft, tpot or e2el")
    return _metric(metric, f"--goodput {text!r}"), _limit(limit_ms, f"--goodput {text!r}")


def _metric(name: str, where: str) -> str:
    if name.lower() not in METRICS:
        raise InputError(f"{where}: unknown metric {name!r}; one of {', '.join(METRICS)}")
    return name.lower()


def _limit(limit_ms: float, where: str) -> float:
    if not 0 < limit_ms < float("inf"):
        raise InputError(f"{where}: the limit must be a number of milliseconds above 0")
    return limit_ms
