"""What a workload looks like: counts, rates, lengths, burstiness, and how much of the prompts repeats."""

import math
from typing import Any

import numpy as np

from ..arrays import F64, I32
from .arrivals import span_s
from .mooncake import HASH_TOKENS
from .trace import Trace

MINUTE_S = 60.0


def trace_stats(trace: Trace) -> dict[str, Any]:
    """Statistics of `trace`, ready for JSON; None where a figure does not exist (a rate where all arrive at once).

    left_out            requests of the file that are not here: they failed, or `vllm bench serve` would not send them
    duration_s          from the start of the trace, but for an idle time that no load begins with, to the last arrival
    request_rate        requests / duration_s; prompt_token_rate and output_token_rate likewise
    busiest_minute_rate requests per second in the minute that has the most; None of a trace of less than two minutes
    busiest_minute_at_s when that minute begins
    interarrival_cv     standard deviation / mean of the gaps between arrivals: 1 for Poisson, above 1 for bursts
    distinct_arrivals   fewer than requests: the times are quantised, or requests come in groups
    prompt_tokens       {"mean", "p50", "p90", "p99", "max"} per request; output_tokens likewise
    prefix_hit_share    share of all prompt tokens that an earlier prompt starts with too: what an infinite prefix cache
                        would serve, were its blocks single tokens
    prefix_block_hit_share  the same in Mooncake's blocks of 512 tokens, the clipped last one of a prompt included
    """
    duration_s = span_s(trace.arrival_s)
    busiest_at_s, busiest_rate = _busiest_minute(trace.arrival_s) if duration_s >= 2 * MINUTE_S else (None, None)
    return {
        "requests": len(trace),
        "left_out": trace.left_out,
        "duration_s": duration_s,
        "request_rate": _rate(len(trace), duration_s),
        "prompt_token_rate": _rate(trace.input_tokens.sum(), duration_s),
        "output_token_rate": _rate(trace.output_tokens.sum(), duration_s),
        "busiest_minute_rate": busiest_rate,
        "busiest_minute_at_s": busiest_at_s,
        "interarrival_cv": interarrival_cv(trace.arrival_s),
        "distinct_arrivals": len(np.unique(trace.arrival_s)),
        "prompt_tokens": _length_stats(trace.input_tokens),
        "output_tokens": _length_stats(trace.output_tokens),
        **_prefix_hit_shares(trace),
    }


def request_rate(trace: Trace) -> float:
    """Requests per second, as `rescaled` counts them; NaN where all arrive at once."""
    duration_s = span_s(trace.arrival_s)
    return len(trace) / duration_s if duration_s > 0 else math.nan


def busiest_minute_rate(arrival_s: F64) -> float:
    """Requests per second in the minute, begun by a request, that has the most."""
    return _busiest_minute(arrival_s)[1]


def _busiest_minute(arrival_s: F64) -> tuple[float, float]:
    """When it begins, in seconds, and its requests per second."""
    counts = np.searchsorted(arrival_s, arrival_s + MINUTE_S, side="left") - np.arange(len(arrival_s))
    return float(arrival_s[np.argmax(counts)]), float(counts.max()) / MINUTE_S


def interarrival_cv(arrival_s: F64) -> float | None:
    """Coefficient of variation of the gaps between arrivals; None without gaps."""
    gaps_s = np.diff(arrival_s)
    return float(gaps_s.std() / gaps_s.mean()) if gaps_s.any() else None


def _prefix_hit_shares(trace: Trace) -> dict[str, float]:
    if not len(trace.run_name):
        return {"prefix_hit_share": 0.0, "prefix_block_hit_share": 0.0}
    from .content import prefix_hit_tokens  # numba takes longer to load than most traces to describe

    hits = prefix_hit_tokens(trace)
    # The clipped last block is hit where all of the prompt is.
    block_hits = np.where(hits == trace.input_tokens, _blocks(trace.input_tokens), hits // HASH_TOKENS)
    return {
        "prefix_hit_share": float(hits.sum() / trace.input_tokens.sum(dtype=np.int64)),
        "prefix_block_hit_share": float(block_hits.sum() / _blocks(trace.input_tokens).sum(dtype=np.int64)),
    }


def _blocks(tokens: I32) -> I32:
    return -(-tokens // np.int32(HASH_TOKENS))


def _length_stats(tokens: I32) -> dict[str, float]:
    p50, p90, p99 = np.percentile(tokens, [50, 90, 99])
    return {
        "mean": float(tokens.mean()),
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "max": int(tokens.max()),
    }


def _rate(amount: float, duration_s: float) -> float | None:
    return float(amount / duration_s) if duration_s > 0 else None
