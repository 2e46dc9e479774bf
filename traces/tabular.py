"""Foreign traces that are CSV: Azure, BurstGPT, Vidur.

Columns are found by their names in the header, others are passed over unless they tell that a request is not text for
the base model. Every reader raises InputError with source:line and what is wrong there.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import IO

import numpy as np

from ..arrays import F64
from ..errors import InputError
from .beyond_text import check_of_text, telling
from .columns import BadRow, Columns, whole_text
from .trace import Trace

AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BURSTGPT = ("Timestamp", "Request tokens", "Response tokens")
VIDUR = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")
VIDUR_LENGTHS = VIDUR[1:]
CLOCK_CHANGE_S = 3600.0
"""By which clocks are set back where summer time ends."""
OUT_OF_ORDER_S = 600.0
"""By which lines of a log may be earlier than those before: many logs are written when requests end."""


def read_azure(stream: IO[bytes], source: str) -> Trace:
    """Azure LLM inference traces of 2023 and 2024 (github.com/Azure/AzurePublicDataset), times to the microsecond;
    failed requests (0 generated tokens) are left out. Times without a time zone that step back as clocks do are
    doubted."""
    columns = Columns()
    first: list[datetime] = []

    def add(timestamp: str, prompt: str, output: str) -> None:
        try:
            moment = datetime.fromisoformat(timestamp)
            first[:] = first or [moment]
            arrival_s = (moment - first[0]).total_seconds()
        except ValueError:
            raise BadRow(f"TIMESTAMP {timestamp!r} is not like 2023-11-16 18:15:46.680590") from None
        except TypeError:
            raise BadRow(f"TIMESTAMP {timestamp!r} and the first line's: only one of them names a time zone") from None
        prompt_tokens, output_tokens = whole_text(prompt, AZURE[1], 1), _answer_tokens(output, AZURE[2])
        if output_tokens == 0:
            columns.left_out += 1
        else:
            columns.add(arrival_s, prompt_tokens, output_tokens)

    _read(stream, source, AZURE, add)
    local = bool(first) and first[0].tzinfo is None
    doubts = _clock_change(first[0], np.array(columns.arrival_s)) if local else ()
    return columns.trace(source, wall_clock=True, doubts=doubts)


def _clock_change(first: datetime, arrival_s: F64) -> tuple[str, ...]:
    """What is to be told where (requests,) seconds since `first`, in the order of the file, step back by about
    CLOCK_CHANGE_S and by no more than OUT_OF_ORDER_S elsewhere: two hours of a log would be read as one."""
    if len(arrival_s) > 2 and np.median(np.diff(arrival_s)) < 0:  # the newest line comes first
        arrival_s = arrival_s[::-1]
    steps_s = np.diff(arrival_s)
    (back,) = np.nonzero(steps_s < -OUT_OF_ORDER_S)
    if not len(back) or np.abs(steps_s[back] + CLOCK_CHANGE_S).max() > CLOCK_CHANGE_S / 2:
        return ()
    before, after = (first + timedelta(seconds=arrival_s[row]) for row in (back[0], back[0] + 1))
    told = f"times step back from {before:%Y-%m-%d %H:%M:%S} to {after:%Y-%m-%d %H:%M:%S}"
    return (f"{told}: local time where summer time ends? if so, two hours are read as one: give time zones, or UTC",)


def read_burstgpt(stream: IO[bytes], source: str) -> Trace:
    """BurstGPT (arXiv 2401.17644), all models; failed requests (0 response tokens) are left out, as vLLM does."""
    columns = Columns()

    def add(timestamp: str, prompt: str, output: str) -> None:
        output_tokens = _answer_tokens(output, BURSTGPT[2])
        if output_tokens == 0:
            columns.left_out += 1
        else:
            columns.add(_seconds(timestamp, BURSTGPT[0]), whole_text(prompt, BURSTGPT[1], 1), output_tokens)

    _read(stream, source, BURSTGPT, add)
    return columns.trace(source)


def read_vidur(stream: IO[bytes], source: str) -> Trace:
    """Vidur's processed traces (github.com/microsoft/vidur); without an arrived_at column all requests arrive at 0."""
    columns = Columns()

    def add(prompt: str, output: str, arrived_at: str = "0") -> None:
        arrival_s = _seconds(arrived_at, VIDUR[0])
        columns.add(arrival_s, whole_text(prompt, VIDUR[1], 1), whole_text(output, VIDUR[2], 1))

    _read(stream, source, VIDUR_LENGTHS, add, optional=VIDUR[:1])
    return columns.trace(source)


def _answer_tokens(text: str, name: str) -> int:
    """Output tokens; 0 of a failed request. BadRow for none: it may have failed, or nobody counted."""
    if not text.strip():
        raise BadRow(f"{name} is empty: give a failed request 0, and leave out one whose tokens were not counted")
    return whole_text(text, name, 0)


def _seconds(text: str, name: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise BadRow(f"{name} {text!r} is not a number of seconds from 0 up")
    return seconds


def _read(
    stream: IO[bytes], source: str, names: Sequence[str], add: Callable[..., None], optional: Sequence[str] = ()
) -> None:
    """Call `add` with the fields of each line under `names`, then those of `optional` that the header has."""
    rows = csv.reader(io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline=""))
    try:
        header = [name.strip() for name in next(filter(None, rows), [])]
        missing = [name for name in names if name not in header]
        if missing:
            raise BadRow(f"no column {missing[0]!r} in the header")
        index = [header.index(name) for name in (*names, *optional) if name in header]
        of_others = [(name, i) for i, name in enumerate(header) if telling([name])]
        for row in rows:
            if not row:
                continue
            if len(row) <= max(index):
                raise BadRow(f"{len(row)} fields, the header has {len(header)}")
            if not all(map(is_utf8, row)):
                raise BadRow("not CSV text: not UTF-8")
            check_of_text((name, row[i]) for name, i in of_others if i < len(row))
            add(*[row[i] for i in index])
    except BadRow as error:
        raise InputError(f"{source}:{max(rows.line_num, 1)}: {error}") from None
    except csv.Error as error:
        raise InputError(f"{source}:{max(rows.line_num, 1)}: not CSV text: {error}") from None


def is_utf8(text: str) -> bool:
    """Bytes that are not are read as lone surrogates, so that an error has the number of their line."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)
