"""Shared prefixes that outlast a trace, such as system prompts, told from those that end in it, as conversations do.

A trace that is repeated stands for more of the same service: its system prompts stay, its conversations are new ones.
"""

import numpy as np
import numpy.typing as npt

from ..traces.trace import I64, Trace

LONGEST_ABSENCE = 0.5
"""Of the trace's requests: a prefix that none of so many in a row has comes and goes."""
LEAST_CONTINUATIONS = 4
"""A turn of a conversation is continued by the next, and once more where an answer is asked for again."""


def lasting(trace: Trace) -> npt.NDArray[np.bool_]:
    """(names,): of the sorted distinct names in `trace.run_name`, which are in use all the time and begin prompts that
    go on in different ways."""
    if not len(trace.run_name):
        return np.zeros(0, np.bool_)
    owner = np.repeat(np.arange(len(trace)), np.diff(trace.run_offsets))
    name = np.unique(trace.run_name, return_inverse=True)[1]
    absent = _longest_absence(name, owner, len(trace)) <= LONGEST_ABSENCE * len(trace)
    return absent & (_continuations(trace, name, owner) >= LEAST_CONTINUATIONS)


def _longest_absence(name: I64, owner: I64, requests: int) -> I64:
    """(names,): most requests in a row without the name, before its first use and after its last among them."""
    order = np.lexsort((owner, name))
    named, used = name[order], owner[order]
    starts = np.flatnonzero(np.diff(named, prepend=-1))
    since = np.diff(used, prepend=0)
    since[starts] = used[starts]
    left = requests - 1 - used[np.append(starts[1:], len(used)) - 1]
    longest: I64 = np.maximum(np.maximum.reduceat(since, starts), left)
    return longest


def _continuations(trace: Trace, name: I64, owner: I64) -> I64:
    """(names,): in how many ways prompts go on after the same number of the name's tokens: by other names, each
    request's own tail being one. A conversation under one name grows with every turn."""
    goes_on = np.append(owner[1:] == owner[:-1], False)
    following = np.where(goes_on, np.roll(name, -1), name.max() + 1 + owner)
    ways = np.unique(np.stack([name, trace.run_tokens, following]), axis=1)
    places, counts = np.unique(ways[:2], axis=1, return_counts=True)
    most = np.zeros(name.max() + 1, np.int64)
    np.maximum.at(most, places[0], counts)
    return most
