"""A load that is long enough to judge a rate by.

A queue that grows all the time still looks fine on a trace that ends soon. So a trace is repeated until it lasts many
times as long as a request stays under that load (whether the engine keeps up with it: growth.py).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ...arrays import F64, I64
from ...errors import InputError
from ...traces.arrivals import idle_s, span_s
from ...traces.copies import in_copies
from ...traces.lasting_prefixes import lasting, passing_on
from ...traces.stats import interarrival_cv
from ...traces.trace import Trace
from ...traces.transform import at_rate, with_arrivals

MOST_TOKENS = 1 << 30
MOST_LOAD_REQUESTS = 50_000
"""For one replica; above this a limit of hours does not make the load longer: a queue that grows shows all the same."""
GOLDEN = 0.5 * (5**0.5 - 1)
"""Multiples of it lie far from each other within 0 to 1."""
BURST_GAP = 0.01
"""Of the mean gap: requests that follow each other sooner are one burst. Were only long gaps chosen to begin blocks,
loads would swing less than the trace does."""
BURSTY = 2.0
"""Standard deviation over mean of the gaps between requests: 1 is Poisson, and what is above comes in bursts."""
SPANS = 10
"""Of a trace, whose rates are held against each other."""
DRIFT = 2.0
"""Times the spread that their rates have by chance."""


def in_bursts(trace: Trace) -> bool:
    """Whether its requests come in bursts, of which a trace holds few."""
    return (interarrival_cv(trace.arrival_s) or 0.0) > BURSTY


def drifts(trace: Trace) -> bool:
    """Whether its rate changes on the whole, as over a morning: pieces in another order are other traffic then."""
    return varies(trace, SPANS)


def varies(trace: Trace, spans: int) -> bool:
    """Whether its rates in so many equal spans differ by more than gaps that are independent of each other would have
    it."""
    arrival_s = trace.arrival_s - trace.arrival_s[0]
    if len(trace) < spans or arrival_s[-1] == 0:
        return False
    counts = np.histogram(arrival_s, spans)[0]
    one_request = spans / len(trace)  # which may fall into this span or the next
    by_chance = math.hypot((interarrival_cv(trace.arrival_s) or 0.0) * one_request**0.5, one_request)
    return bool(counts.std() / counts.mean() > DRIFT * by_chance)


def lasting_seed(trace: Trace) -> int:
    """The seed of the load on which single configurations are looked at (`ordered`); `plan` has several.

    Bursts follow each other, and blocks of a few requests do not hold what piles up meanwhile: first tokens would come
    far sooner than on the trace. They keep their order.
    """
    return 0 if drifts(trace) or in_bursts(trace) else 1


def ordered(trace: Trace, requests: int, rate: float, seed: int, replicas: int = 1) -> Trace:
    """At least `requests` requests of `trace` at `rate` a second, or all at once where that is NaN, as a client that
    waits for answers has them ready; seed 0 keeps its order, others have another.

    Blocks of about sqrt(n) consecutive requests are drawn with the gaps between them, so bursts stay together, and with
    replacement (the block bootstrap): were each in every copy once, a load would never be heavier for longer than a
    copy lasts, and a rate just above what the engine serves would pass. No block begins within a burst, which would
    join another and be longer than any of the trace. Where requests share much beyond lasting prefixes, as the turns of
    a conversation do, the trace begins elsewhere instead: turns in another order would find less in the prefix cache. A
    repeated request is a new one: it shares lasting prefixes with the one before and nothing else.

    Where requests go to `replicas` in turn, each is to get all of them: were the same ones to come to it in every copy,
    one that got many long ones would be overloaded for ever.
    """
    paced = trace if math.isnan(rate) else at_rate(trace, rate, seed)
    rng = np.random.default_rng(seed)
    copies = max(1, -(-requests // len(trace)))
    gaps = _gaps_s(paced)
    whole = seed == 0 or len(trace) == 1 or passing_on(trace)
    if whole:
        # A copy ends where the trace does, not where the load began: all conversations would find nothing at once.
        copy, rows = np.divmod(_going_on(len(trace), copies, seed, replicas), len(trace))
    else:
        blocks = np.split(np.arange(len(trace)), _block_starts(gaps))
        rows = np.concatenate([_drawn(blocks, len(trace), rng) for _ in range(copies)])
        copy = np.arange(len(rows))
    repeated = in_copies(paced, rows, copy, np.cumsum(gaps[rows]), lasting(trace))
    if math.isnan(rate):
        return replace(repeated, arrival_s=np.zeros(len(rows)))
    if span_s(trace.arrival_s) == 0:  # Poisson arrivals of one copy are few, and come again in the next
        return with_arrivals(repeated, rate, 1.0, rng)
    return at_rate(repeated, rate, seed)


def lasting_rate(trace: Trace) -> float:
    """Requests per second if the trace went on as it is, with the gap before its first burst that `ordered` gives it;
    NaN where all arrive at once. Of few requests `request_rate` is more, as it counts a burst more than gaps."""
    duration_s, begins_s = span_s(trace.arrival_s), idle_s(trace.arrival_s)
    if duration_s == 0:
        return math.nan
    begun = replace(trace, arrival_s=trace.arrival_s - begins_s)
    return len(trace) / (duration_s + float(_gaps_s(begun)[0] - begun.arrival_s[0]))


def _gaps_s(paced: Trace) -> F64:
    """(n,): the time before each request; before a first one that comes at once, that between two bursts."""
    gaps_s = np.diff(paced.arrival_s, prepend=0.0)
    if not _between_bursts(gaps_s)[0]:
        gaps_s[0] = gaps_s[_between_bursts(gaps_s)].mean()
    return gaps_s


def _between_bursts(gaps_s: F64) -> npt.NDArray[np.bool_]:
    return np.greater_equal(gaps_s, BURST_GAP * float(gaps_s.mean()))


def _going_on(requests: int, copies: int, seed: int, replicas: int) -> I64:
    """(copies * requests,): places in the trace and, from its length on, in its next copies, begun where `seed` says.

    After each copy so many places are skipped that a request comes to another replica in the next one.
    """
    begin = round(requests * (seed * GOLDEN % 1)) % requests
    left_out = next(skip for skip in range(requests) if math.gcd(requests - skip, replicas) == 1)
    row = np.arange(copies * requests)
    going_on: I64 = begin + row + row // requests * left_out
    return going_on


def _drawn(blocks: Sequence[I64], requests: int, rng: np.random.Generator) -> I64:
    """(requests,): blocks at random, with replacement, as many as it takes; the last may be cut."""
    drawn = np.empty(0, np.int64)
    while len(drawn) < requests:
        drawn = np.concatenate([drawn, *(blocks[i] for i in rng.integers(0, len(blocks), len(blocks)))])
    return drawn[:requests]


def _block_starts(gaps_s: F64) -> I64:
    """Where blocks of about sqrt(n) requests begin, but for the first: none within a burst, which is to stay whole.

    Blocks that are all of one length would bring the same requests to a replica each time."""
    blocks = max(1, round(len(gaps_s) ** 0.5))
    blocks += len(gaps_s) > 1 and len(gaps_s) % blocks == 0
    wanted = [block[0] for block in np.array_split(np.arange(len(gaps_s)), blocks)]
    between = np.flatnonzero(_between_bursts(gaps_s))
    starts: I64 = np.unique(between[np.searchsorted(between, wanted) % len(between)])
    return starts[starts > 0]


def scaled_lengths(trace: Trace, *, inputs: float = 1.0, outputs: float = 1.0) -> Trace:
    """The same requests with prompts (and the parts they share) and outputs longer or shorter by a factor.

    Raises InputError where a request would have more than MOST_TOKENS tokens.
    """
    longest = max(float(trace.input_tokens.max() * inputs), float(trace.output_tokens.max() * outputs))
    if longest > MOST_TOKENS:
        raise InputError(f"lengths times {max(inputs, outputs):g}: no request can have {longest:.3g} tokens")
    return replace(
        trace,
        input_tokens=np.maximum(1, np.rint(trace.input_tokens * inputs)).astype(np.int32),
        output_tokens=np.maximum(1, np.rint(trace.output_tokens * outputs)).astype(np.int32),
        run_tokens=np.floor(trace.run_tokens * inputs).astype(np.int32),
    )
