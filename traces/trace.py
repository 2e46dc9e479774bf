"""A workload: what arrives and when, a column per attribute.

Prompts carry no text. What two prompts share is told by *runs*: leading stretches of a prompt, each with a name.
Two prompts have the same tokens for as long as their runs agree by name, from the first token on; what lies behind
the last run is unique to the request. A Mooncake hash id is a run of 512 tokens.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]


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
    """(runs,): interned name of each run."""
    run_tokens: I32
    """(runs,): length of each run; the runs of a request are never longer than its prompt."""
    request_id: tuple[str, ...] | None = None
    """Names of the requests; None means "0", "1", ..."""

    def __len__(self) -> int:
        return len(self.arrival_s)

    def id_of(self, index: int) -> str:
        """Name of the request at `index`."""
        return str(index) if self.request_id is None else self.request_id[index]
