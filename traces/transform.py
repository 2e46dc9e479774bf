"""One trace from another: fewer requests, other arrivals. Nothing is changed in place."""

import math
from dataclasses import replace

import numpy as np

from ..errors import InputError
from .arrivals import LONGEST_S, arrival_times, idle_s, span_s
from .copies import in_copies
from .lasting_prefixes import lasting, passing_on
from .limits import MOST_REQUESTS
from .trace import Trace

APART_S = 30.0
"""Within which the copies of `superposed` begin: users do not act in the same second, but in the same minute."""
APART_GAPS = 50.0
"""Of the trace, on average, within which they begin where that is more: each of its requests would be a burst else."""
LEAST_SHARE = 0.05
"""Of a trace's length, within which they begin where that is less: its busiest tenth is to stay one."""
SMALLEST = 0.01
"""Share of the gaps between rounded times that stray ones may make smaller than what they are rounded to."""


def rescaled(trace: Trace, rate: float) -> Trace:
    """The same arrivals, stretched so that the last one comes at requests / `rate` (per second).

    An idle time before the first that no load has (`idle_s`) is left out. Raises InputError if all requests arrive at
    once: there is nothing to stretch, see `at_rate`.
    """
    duration_s = span_s(trace.arrival_s)
    if duration_s == 0:
        raise InputError("the trace has no arrival times to rescale: give it some with `slotune trace convert --rate`")
    if len(trace) / rate > LONGEST_S:
        raise InputError(f"{len(trace)} requests at {rate:g} per second take longer than {LONGEST_S:.0e} s")
    return replace(trace, arrival_s=(trace.arrival_s - idle_s(trace.arrival_s)) * (len(trace) / rate / duration_s))


def with_arrivals(trace: Trace, rate: float, cv: float, rng: np.random.Generator) -> Trace:
    """The same requests in the same order, `rate` a second, gaps from a gamma distribution (`cv` 1: Poisson)."""
    return replace(trace, arrival_s=arrival_times(len(trace), rate, cv, rng))


def at_rate(trace: Trace, rate: float | None, seed: int) -> Trace:
    """The trace at `rate` requests a second: its arrivals rescaled, or Poisson ones where all come at once; as it is
    where no rate is asked."""
    if not rate:
        return trace
    if span_s(trace.arrival_s) > 0:
        return rescaled(trace, rate)
    return with_arrivals(trace, rate, 1.0, np.random.default_rng(seed))


def superposed(trace: Trace, rate: float, rng: np.random.Generator) -> Trace:
    """The trace at `rate` requests a second as more users make it: copies of it at once, and time as it was.

    Each copy begins elsewhere within APART_S, APART_GAPS or LEAST_SHARE, and what runs out at the end comes at the
    beginning, so that whatever lasts longer than that stays as long, at more requests a second, while shorter bursts of
    the copies fall where they may. The last copy has as many requests at random as make up the rate; where requests
    hold each other's text (`passing_on`) copies are whole, and time is stretched or squeezed by the rest. Fewer than
    one copy is made by `rescaled`. Raises InputError where that does, and where there would be more than MOST_REQUESTS.
    """
    duration_s, wanted = span_s(trace.arrival_s), copies_for(trace, rate)
    wanted = wanted if wanted < 1 or not passing_on(trace) else float(round(wanted))
    if wanted <= 1:
        return rescaled(trace, rate)
    if wanted * len(trace) > MOST_REQUESTS:
        raise InputError(f"at {rate:g} requests per second for {duration_s:g} s there are more than {MOST_REQUESTS:,}")
    copies = math.ceil(wanted)
    apart_s = min(max(APART_S, APART_GAPS * duration_s / len(trace)), LEAST_SHARE * duration_s)
    begin_s = apart_s * rng.uniform(-0.5, 0.5, copies)
    begin_s[0] = 0.0
    arrival_s = (trace.arrival_s - idle_s(trace.arrival_s) + begin_s[:, None]) % duration_s
    kept = np.ones(arrival_s.shape, np.bool_)
    kept[-1, rng.choice(len(trace), round((copies - wanted) * len(trace)), replace=False)] = False
    order = np.argsort(arrival_s, axis=None, kind="stable")
    order = order[kept.ravel()[order]]
    copy, row = np.divmod(order, len(trace))
    return rescaled(in_copies(trace, row, copy, arrival_s.ravel()[order], lasting(trace)), rate)


def copies_for(trace: Trace, rate: float) -> float:
    """How many copies of the trace make `rate` requests a second, up to a number that nobody has; 0 where all of them
    arrive at once."""
    return min(rate * span_s(trace.arrival_s) / len(trace), 1e18)


def head(trace: Trace, count: int) -> Trace:
    """The first `count` requests, or all if there are fewer."""
    return trace.taken(np.arange(min(count, len(trace))))


def first(trace: Trace, duration_s: float) -> Trace:
    """The requests that arrive in the first `duration_s` seconds. Raises InputError if none does."""
    count = int(np.searchsorted(trace.arrival_s, duration_s))
    if count == 0:
        raise InputError(f"no request arrives in the first {duration_s:g} s; the first one at {trace.arrival_s[0]:g} s")
    return head(trace, count)


def spread(trace: Trace, rng: np.random.Generator) -> Trace:
    """Requests of one arrival time, spread at random over what the times are rounded to: the smallest gap between them
    but for SMALLEST of all, one at least, which stray times may make smaller.

    For traces whose times are quantised (Mooncake's to about 3 s, BurstGPT's to 1 s), where every bin would be a burst.
    Order is kept.
    """
    start_s, group = np.unique(trace.arrival_s, return_inverse=True)
    if len(start_s) == 1:
        raise InputError("all requests have one arrival time, so there is no gap to spread them over; give a rate")
    gaps_s = np.diff(start_s)
    stray = min(len(gaps_s) - 1, math.ceil(SMALLEST * len(gaps_s)))
    bin_s = np.partition(gaps_s, stray)[stray]
    width_s = np.append(np.minimum(gaps_s, bin_s), bin_s)
    return replace(trace, arrival_s=np.sort(start_s[group] + rng.random(len(trace)) * width_s[group]))


def converted(
    trace: Trace,
    seed: int,
    *,
    requests: int | None = None,
    duration_s: float | None = None,
    spread_bins: bool = False,
    rate: float | None = None,
    cv: float | None = None,
    superpose: bool = False,
    from_s: float | None = None,
) -> Trace:
    """What is asked for, one after the other: `since`, `head`, `first`, `spread`, then `at_rate` or, given a `cv`,
    new arrivals, or `superposed`.

    Raises InputError where one of them does.
    """
    rng = np.random.default_rng(seed)
    if from_s is not None:
        trace = since(trace, from_s)
    if requests is not None:
        trace = head(trace, requests)
    if duration_s is not None:
        trace = first(trace, duration_s)
    if spread_bins:
        trace = spread(trace, rng)
    if rate is not None and superpose:
        return superposed(trace, rate, rng)
    if rate is not None and cv is not None:
        return with_arrivals(trace, rate, cv, rng)
    return at_rate(trace, rate, seed)


def since(trace: Trace, from_s: float) -> Trace:
    """The requests that arrive `from_s` seconds after the trace begins, or later; that moment is their 0. Raises
    InputError if none does."""
    begin = int(np.searchsorted(trace.arrival_s, from_s))
    if begin == len(trace):
        raise InputError(f"no request arrives after the first {from_s:g} s; the last one at {trace.arrival_s[-1]:g} s")
    later = trace.taken(np.arange(begin, len(trace)))
    # To the nanosecond, as files have them: 0.3 - 0.1 is less than 0.2, and would be in the first 0.2 s.
    return replace(later, arrival_s=np.round(later.arrival_s - from_s, 9))
