"""What became of every request, a column per attribute, and its CSV."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import F64, I64, Mask
from ..whole_file import whole_file

FINISHED, REJECTED, FAILED = range(3)
NOWHERE = -1
"""In place of a replica: no replica was up when the request came."""
STATUS_NAMES = ("finished", "rejected", "failed")
ROWS_AT_ONCE = 1 << 16
"""Of the CSV, so that it is never as a whole in memory as text."""

COLUMNS = (
    "request_id",
    "arrival_ms",
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
    "first_token_ms",
    "finish_ms",
    "ttft_ms",
    "tpot_ms",
    "e2el_ms",
    "preemptions",
    "replica",
    "status",
)


@dataclass(frozen=True, slots=True, eq=False)
class RequestTable:
    """Requests as the client saw them; every column has one entry per request, times in seconds."""

    arrival_s: F64
    """When the client sent the request: after any wait for a place under --max-concurrency."""
    prompt_tokens: I64
    output_tokens: I64
    """Tokens received."""
    cached_tokens: I64
    """Prompt tokens found in the prefix cache at first admission."""
    first_token_s: F64
    """NaN where no token arrived."""
    finish_s: F64
    """When the last token arrived; NaN where the request did not finish."""
    preemptions: I64
    replica: I64
    status: I64
    """FINISHED, REJECTED or FAILED."""
    request_id: tuple[str, ...] | None = None
    """None means "0", "1", ..."""
    failed_s: F64 | None = None
    """When the client learnt that a request gets no answer (unheeded where it got one); None: as it arrived."""
    lost: Mask | None = None
    """Which have failed because they were lost with their replica, in an outage; None: none."""

    def __len__(self) -> int:
        return len(self.arrival_s)

    def __getitem__(self, rows: slice) -> "RequestTable":
        whole = {column.name: getattr(self, column.name) for column in fields(self)}
        part: dict[str, Any] = {name: None if values is None else values[rows] for name, values in whole.items()}
        return RequestTable(**part)

    @property
    def finished(self) -> Mask:
        """Which requests were answered to the end."""
        return np.equal(self.status, FINISHED)

    @property
    def ttft_s(self) -> F64:
        """Time to first token."""
        return self.first_token_s - self.arrival_s

    @property
    def e2el_s(self) -> F64:
        """End-to-end latency: to the last token."""
        return self.finish_s - self.arrival_s

    @property
    def tpot_s(self) -> F64:
        """Time per output token after the first; NaN for answers of a single token."""
        gaps = np.where(self.output_tokens > 1, self.output_tokens - 1.0, np.nan)
        return (self.finish_s - self.first_token_s) / gaps


def write_requests(table: RequestTable, path: Path) -> None:
    """Write the CSV, a request a line, in order of arrival; an absent value is an empty cell."""
    with whole_file(path) as raw:
        out = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        for start in range(0, len(table), ROWS_AT_ONCE):
            writer.writerows(_rows(table, start, min(start + ROWS_AT_ONCE, len(table))))
        out.flush()
        out.detach()  # the file below is finished by who opened it


def _rows(table: RequestTable, start: int, stop: int) -> Iterator[tuple[object, ...]]:
    part = table[start:stop]
    return zip(
        map(str, range(start, stop)) if part.request_id is None else part.request_id,
        _ms(part.arrival_s),
        part.prompt_tokens.tolist(),
        part.output_tokens.tolist(),
        part.cached_tokens.tolist(),
        _ms(part.first_token_s),
        _ms(part.finish_s),
        _ms(part.ttft_s),
        _ms(part.tpot_s),
        _ms(part.e2el_s),
        part.preemptions.tolist(),
        ["" if replica == NOWHERE else replica for replica in part.replica.tolist()],
        [STATUS_NAMES[status] for status in part.status],
        strict=True,
    )


def _ms(seconds: F64) -> list[object]:
    return ["" if value != value else round(value * 1e3, 6) for value in seconds.tolist()]
