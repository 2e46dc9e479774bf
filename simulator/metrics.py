"""Metrics of a run under the names and definitions of `vllm bench serve` 0.32 (vllm/benchmarks/serve.py).

Latencies are over the requests that finished, as there; a failed or rejected request counts as a miss in
request_goodput, which is over all requests here and there alike. Where there are any, percentiles over all requests
stand beside those, as `p99_ttft_ms_of_all`: targets are held against them. Of inter-token latencies a request that
did not finish is taken to miss as many as one that did has.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..arrays import F64, I64
from ..errors import InputError
from .percentiles import at_percentiles
from .request_table import RequestTable
from .slo import METRICS, OF_ALL, ROUNDING_MS, left_out, percentile_key

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
GOODPUT_METRICS = ("ttft", "tpot", "e2el")
"""What one request has one of."""
UNITS = {
    "duration": "s",
    "request_throughput": "requests/s",
    "request_goodput": "requests/s",
    "output_throughput": "tokens/s",
    "total_token_throughput": "tokens/s",
}
"""Of the metrics whose names do not say it."""


@dataclass(frozen=True, slots=True, eq=False)
class Gaps:
    """Inter-token latencies, pooled over the requests that finished: each value with how often it occurred."""

    gap_s: F64
    count: I64


def summarise(
    requests: RequestTable,
    gaps: Gaps,
    goodput: Mapping[str, float] | None = None,
    percentiles: Iterable[float] = (),
) -> dict[str, float]:
    """The metrics of a run: rates per second, latencies in milliseconds; NaN where there is nothing to measure.

    The run lasts from the trace's time zero until every request is answered or is known to get no answer, as a replay
    of `vllm bench serve` does.
    `goodput` gives milliseconds by metric (ttft, tpot, e2el), all of which a good request keeps. PERCENTILES are
    always reported, `percentiles` names further ones. Raises InputError for another metric, and for a percentile that
    does not lie in (0, 100].
    """
    wanted = sorted({*PERCENTILES, *percentiles})
    _check_asked(goodput or {}, wanted)
    done = requests.finished
    unanswered_s = requests.arrival_s if requests.failed_s is None else requests.failed_s
    duration_s = float(np.max(np.where(done, requests.finish_s, unanswered_s), initial=0.0))
    metrics = _throughput(requests, done, duration_s)
    if goodput:
        metrics["request_goodput"] = _per_second(_good(requests, goodput).sum(), duration_s)
    missing = int((~done).sum())
    for name in METRICS:
        if name == "itl":
            values_s, count = gaps.gap_s, gaps.count
            lacking = missing * int(count.sum()) // max(int(done.sum()), 1)
        else:
            values_s = getattr(requests, f"{name}_s")[done]
            values_s = values_s[~np.isnan(values_s)]
            count, lacking = np.ones(len(values_s), np.int64), missing
        metrics |= _distribution(name, values_s * 1e3, count, wanted)
        metrics |= _of_all(name, values_s * 1e3, count, lacking, wanted)
    return metrics


def _check_asked(goodput: Iterable[str], percentiles: list[float]) -> None:
    for metric in goodput:
        if metric not in GOODPUT_METRICS:
            raise InputError(f"goodput {metric!r}: one of {', '.join(GOODPUT_METRICS)}")
    for percentile in (percentiles[0], percentiles[-1]):
        if not 0 < percentile <= 100:
            raise InputError(f"percentile {percentile}: must lie in (0, 100]")


def _of_all(name: str, values_ms: F64, count: I64, missing: int, wanted: list[float]) -> dict[str, float]:
    """Percentiles over all values, `missing` of which never come. Nothing where none is missing; one that falls on such
    a value, or between one that came and such a one, is left out."""
    total = int(count.sum()) + missing
    told = [percentile for percentile in wanted if left_out(percentile, total) >= missing > 0]
    values_at = zip(told, at_percentiles(values_ms, count, told, total), strict=True)
    return {percentile_key(percentile, name) + OF_ALL: float(value_ms) for percentile, value_ms in values_at}


def _throughput(requests: RequestTable, done: npt.NDArray[np.bool_], duration_s: float) -> dict[str, float]:
    prompt, output = requests.prompt_tokens[done].sum(), requests.output_tokens[done].sum()
    return {
        "duration": duration_s,
        "completed": int(done.sum()),
        "failed": int((~done).sum()),
        "total_input_tokens": int(prompt),
        "total_output_tokens": int(output),
        "request_throughput": _per_second(done.sum(), duration_s),
        "output_throughput": _per_second(output, duration_s),
        "total_token_throughput": _per_second(prompt + output, duration_s),
    }


def _per_second(amount: float, duration_s: float) -> float:
    return float(amount) / duration_s if duration_s > 0 else float("nan")


def _good(requests: RequestTable, goodput: Mapping[str, float]) -> npt.NDArray[np.bool_]:
    """Requests that keep every target; an answer of one token has a TPOT of 0, as in vLLM."""
    good = requests.finished.copy()
    for name, limit_ms in goodput.items():
        latency_s = getattr(requests, f"{name}_s")
        if name == "tpot":
            latency_s = np.where(requests.output_tokens > 1, latency_s, 0.0)
        good &= latency_s * 1e3 <= limit_ms + ROUNDING_MS
    return good


def _distribution(name: str, values_ms: F64, count: I64, wanted: list[float]) -> dict[str, float]:
    total = int(count.sum())
    if total == 0:
        mean = std = float("nan")
    else:
        mean = float((values_ms * count).sum() / total)
        std = float(np.sqrt((count * (values_ms - mean) ** 2).sum() / total))
    median, *others = at_percentiles(values_ms, count, [50.0, *wanted], total)
    return {
        f"mean_{name}_ms": mean,
        f"median_{name}_ms": float(median),
        f"std_{name}_ms": std,
        **{percentile_key(each, name): float(value) for each, value in zip(wanted, others, strict=True)},
    }
