"""Requests that come again in copies of a trace: they share lasting prefixes with the others and nothing else."""

from dataclasses import replace

import numpy as np

from ..arrays import F64, I64, Mask
from .trace import NAMED, Trace


def in_copies(trace: Trace, rows: I64, copy: I64, arrival_s: F64, lasts: Mask) -> Trace:
    """Requests `rows` of the trace, each one of copy `copy`, at `arrival_s`; all three (requests,).

    `lasts` are the prefixes that all copies share, such as system prompts, as `lasting` finds them. Conversations go on
    within a copy only.
    """
    taken = trace.taken(rows)
    names = np.unique(trace.run_name)
    name = np.searchsorted(names, taken.run_name)
    copies = np.repeat(copy, np.diff(taken.run_offsets))
    number = name + len(names) * np.where(lasts[name], 0, copies)
    kept = lasts[name] & (taken.run_name <= NAMED)  # a prefix that somebody named is told by that name
    run_name = np.where(kept, taken.run_name, number)
    return replace(taken, arrival_s=arrival_s, run_name=run_name, request_id=None)
