"""Shared prefixes that outlast a trace, such as system prompts, told from those that end in it, as conversations do.

A trace that is repeated stands for more of the same service: its system prompts stay, its conversations are new ones.
"""

from functools import lru_cache

import numpy as np

from ..arrays import I64, Mask
from .trace import Trace

LONGEST_ABSENCE = 0.5
"""Of the trace's requests: a prefix that none of so many in a row has comes and goes."""
LEAST_CONTINUATIONS = 4
"""A turn of a conversation is continued by the next, and once more where an answer is asked for again."""
LITTLE = 0.01
"""Of the prompts' tokens: finding fewer in the prefix cache moves a rate by less than it is known."""


@lru_cache(maxsize=1)  # of a million requests it takes seconds, and every load of a plan asks
def lasting(trace: Trace) -> Mask:
    """(names,): of the sorted distinct names in `trace.run_name`, which are in use all the time and begin prompts that
    go on in different ways; with those that stand before them, as the blocks of a system prompt do."""
    if not len(trace.run_name):
        return np.zeros(0, np.bool_)
    owner = trace.run_owner
    name = np.unique(trace.run_name, return_inverse=True)[1]
    present = _longest_absence(name, owner, len(trace)) <= LONGEST_ABSENCE * len(trace)
    lasts: Mask = present & (_continuations(trace, name, owner) >= LEAST_CONTINUATIONS)
    place, last = np.arange(len(name)), np.full(len(trace), -1)
    np.maximum.at(last, owner[lasts[name]], place[lasts[name]])
    lasts[name[place <= last[owner]]] = True
    return lasts & present


@lru_cache(maxsize=1)
def lasting_prompts(trace: Trace) -> int:
    """How many different lasting prefixes its requests begin with, each counted by the name it ends in."""
    if not lasting(trace).any():
        return 0
    owner = trace.run_owner
    name = np.unique(trace.run_name, return_inverse=True)[1]
    last = np.full(len(trace), -1)
    lasts = lasting(trace)[name]
    last[owner[lasts]] = name[lasts]  # the last of a request's wins
    return len(np.unique(last[last >= 0]))


@lru_cache(maxsize=1)
def passing_on(trace: Trace) -> bool:
    """Whether requests share much beyond lasting prefixes, so that it matters in which order they come: a single
    request that was sent twice is no conversation."""
    owner = trace.run_owner
    names, name = np.unique(trace.run_name, return_inverse=True)
    users = np.bincount(np.unique(name * len(trace) + owner) // len(trace), minlength=len(names))
    shared = (users > 1) & ~lasting(trace)
    tokens = trace.run_tokens[shared[name]].sum(dtype=np.int64)
    return bool(tokens > LITTLE * trace.input_tokens.sum(dtype=np.int64))


def _longest_absence(name: I64, owner: I64, requests: int) -> I64:
    """(names,): most requests in a row without the name, before its first use and after its last among them."""
    order = np.lexsort((owner, name))
    named, used = name[order], owner[order]
    starts = np.flatnonzero(np.diff(named, prepend=-1))
    since = np.diff(used, prepend=0) - 1
    since[starts] = used[starts]
    left = requests - 1 - used[np.append(starts[1:], len(used)) - 1]
    longest: I64 = np.maximum(np.maximum.reduceat(since, starts), left)
    return longest


def _continuations(trace: Trace, name: I64, owner: I64) -> I64:
    """(names,): in how many ways prompts go on after the same number of the name's tokens: by other names, each
    request's own tail being one. A conversation under one name grows with every turn."""
    goes_on = np.append(owner[1:] == owner[:-1], False)
    following = np.where(goes_on, np.roll(name, -1), name.max() + 1 + owner)
    order = np.lexsort((following, trace.run_tokens, name))
    name, tokens, following = name[order], trace.run_tokens[order], following[order]
    begins = np.append(True, (np.diff(name) != 0) | (np.diff(tokens) != 0))
    differs = begins | np.append(True, np.diff(following) != 0)
    starts = np.flatnonzero(begins)
    most = np.zeros(name[-1] + 1, np.int64)
    np.maximum.at(most, name[starts], np.add.reduceat(differs, starts, dtype=np.int64))
    return most
