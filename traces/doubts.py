"""What a reader doubts in a file that it could read: rounded times, and turns that may not be whole prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..arrays import F64
from .trace import Trace

FEW = 100
"""Requests, of which some may come in the same second by chance."""
MOST_REPEATED = 0.05
"""Of the requests, that may be repeated prompts without a word: retries, and the same question by chance."""
DISTINCT = 0.9
"""Of the requests of a load whose times are not rounded, at least so many come at times of their own."""


def whole_seconds(arrival_s: F64) -> str | None:
    """What is to be told of (requests,) arrivals that were rounded to seconds, as BurstGPT's are: they come in bursts
    that no service saw. None of others."""
    if len(arrival_s) < FEW or not (np.rint(arrival_s) == arrival_s).all():
        return None
    times = len(np.unique(arrival_s))
    if not 1 < times < DISTINCT * len(arrival_s):
        return None
    told = f"all times are whole seconds, and {len(arrival_s):,} requests come at {times:,} of them, which makes bursts"
    return f"{told}: `slotune trace convert FILE --spread --out T.jsonl` spreads them over what they are rounded to"


def repeated_prompts(trace: Trace) -> str | None:
    """What is to be told where prompts come again whole: their answers are taken to be the same (content.py). None of
    traces in which few do."""
    if trace.wholly_named.sum() <= MOST_REPEATED * len(trace):
        return None
    from .content import prefix_hit_tokens  # numba takes longer to load than most traces to read

    repeated = int((prefix_hit_tokens(trace) >= trace.input_tokens).sum())
    if repeated <= MOST_REPEATED * len(trace):
        return None
    return (
        f"{repeated:,} requests have the whole prompt of an earlier one and are taken to get its answer, as with "
        "greedy sampling: preempted ones find more in the prefix cache than where tokens are sampled at random"
    )


UNTOLD = object()
"""Where the first turn does not tell how the next would begin."""


@dataclass(slots=True)
class Sessions:
    """Lines that share a `session_id`: turns of a conversation in AIPerf's files, where a line without hash ids, or
    with ids of its own, holds what the turn adds and not the whole prompt (AIPerf, conversation-context-mode)."""

    first_run: dict[str, Any] = field(default_factory=dict)
    """By session, the hash id or the name with which its first prompt begins."""
    later: int = 0
    apart: int = 0
    """Of the later turns, those that do not begin as the first one did."""

    def add(self, session: object, row: Mapping[str, Any]) -> None:
        """A line that was read without fault."""
        runs = row.get("hash_ids") or row.get("prefix") or [None]
        run = runs[0][0] if isinstance(runs[0], list) else runs[0]
        name = repr(session)
        if name not in self.first_run:
            # A block that the prompt does not fill has another id than the full one in the next turn.
            self.first_run[name] = UNTOLD if row.get("hash_ids") and len(runs) == 1 else run
        elif self.first_run[name] is not UNTOLD:
            self.later += 1
            self.apart += run is None or run != self.first_run[name]

    def doubts(self) -> tuple[str, ...]:
        """What is to be told where most turns share nothing with the first of their session."""
        if 2 * self.apart <= self.later:
            return ()
        return (
            f"{self.apart:,} lines go on with the session_id of an earlier one and share no text with it: input_length "
            "is read as the whole prompt; if it is what a turn adds, as in AIPerf's files, prompts are far longer: "
            "give whole prompts, and in prefix or hash_ids what they share",
        )
