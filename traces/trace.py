"""A workload: what arrives and when, a column per attribute.

Prompts carry no text. What two prompts share is told by *runs*: leading stretches of a prompt, each with a name.
Two prompts have the same tokens for as long as their runs agree by name, from the first token on; what lies behind
the last run is unique to the request. A Mooncake hash id is a run of 512 tokens.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..arrays import F64, I32, I64, Mask

NAMED = -2  # run_name of prefix_name[0], then downwards; hash ids are never negative and -1 is the outputs' own name
UNANSWERED = "without an answer"
"""Why requests of most files are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests in order of arrival; every column has one entry per request unless said otherwise."""

    arrival_s: F64
    """Seconds since the start of the trace, never decreasing."""
    input_tokens: I32
    """Prompt tokens, at least 1."""
    output_tokens: I32
    """Tokens to generate, at least 1."""
    priority: I32
    """vLLM's priority: lower is served earlier."""
    run_offsets: I64
    """(n + 1,): the runs of request i are run_*[run_offsets[i]:run_offsets[i + 1]]."""
    run_name: I64
    """(runs,): interned name of each run: a hash id itself (never negative), or NAMED - k for prefix_name[k]."""
    run_tokens: I32
    """(runs,): length of each run; the runs of a request are never longer than its prompt."""
    request_id: tuple[str, ...] | None = None
    """Names of the requests; None means "0", "1", ..."""
    prefix_name: tuple[str, ...] = ()
    """The names of named prefixes, for writing them down again."""
    left_out: int = 0
    """Requests of the file that are not here: they got no answer, or `vllm bench serve` would not send them."""
    left_out_why: str = UNANSWERED
    """Which of the two."""
    doubts: tuple[str, ...] = ()
    """What in the file may not be what it seems to be."""

    def __len__(self) -> int:
        return len(self.arrival_s)

    def id_of(self, index: int) -> str:
        """Name of the request at `index`."""
        return str(index) if self.request_id is None else self.request_id[index]

    @property
    def run_owner(self) -> I64:
        """(runs,): which request each run is of."""
        return np.repeat(np.arange(len(self)), np.diff(self.run_offsets))

    @property
    def wholly_named(self) -> Mask:
        """(n,): whether the runs of each request cover its whole prompt."""
        ends: I64 = np.concatenate(([0], np.cumsum(self.run_tokens, dtype=np.int64)))[self.run_offsets]
        covered: Mask = np.diff(ends) == self.input_tokens
        return covered

    def taken(self, index: I64) -> "Trace":
        """The requests at `index`, in that order (a simulation takes that of arrival); arrivals and names stay
        with their requests."""
        runs = np.diff(self.run_offsets)[index]
        offsets = np.concatenate(([0], np.cumsum(runs)))
        # Where each run kept lies now: its request's first run, plus how far behind the first it is.
        source = np.repeat(self.run_offsets[index] - offsets[:-1], runs) + np.arange(offsets[-1])
        return replace(
            self,
            arrival_s=self.arrival_s[index],
            input_tokens=self.input_tokens[index],
            output_tokens=self.output_tokens[index],
            priority=self.priority[index],
            run_offsets=offsets,
            run_name=self.run_name[source],
            run_tokens=self.run_tokens[source],
            request_id=None if self.request_id is None else tuple(self.request_id[i] for i in index),
        )
