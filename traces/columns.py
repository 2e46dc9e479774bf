"""A trace under construction: columns that grow by a row a request, then are checked as a whole, sorted and frozen."""

from array import array
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from .arrivals import LONGEST_S, idle_s
from .trace import NAMED, UNANSWERED, Trace

MAX_TOKENS = 2**31 - 1
LATEST_S = 1e11
"""Beyond any clock, seconds since 1970 among them; floats still tell microseconds apart."""
LATE_S = 60.0
"""A file that begins with a longer idle time than any load (`idle_s`) and than this is a piece of a longer one."""


class BadRow(ValueError):
    """What is wrong with a row; the reader adds the file and the line."""


def whole(value: object, name: str, low: int) -> int:
    """`value` if it is a whole number in [low, MAX_TOKENS]; BadRow says which column it is not."""
    if type(value) is not int:
        raise BadRow(f"{name} {value!r} is not a whole number")
    if not low <= value <= MAX_TOKENS:
        raise BadRow(f"{name} {value} is {f'below {low}' if value < low else f'above {MAX_TOKENS}'}")
    return value


def whole_text(text: str, name: str, low: int) -> int:
    """The same for a number that is written as text, as in CSV, where pandas writes 50.0 beside missing values."""
    try:
        number = int(text.removesuffix(".0"))
    except ValueError:
        raise BadRow(f"{name} {text!r} is not a whole number") from None
    return whole(number, name, low)


@dataclass(slots=True)
class Columns:
    """Growing columns; see `Trace` for what they hold."""

    arrival_s: "array[float]" = field(default_factory=lambda: array("d"))
    input_tokens: "array[int]" = field(default_factory=lambda: array("i"))
    output_tokens: "array[int]" = field(default_factory=lambda: array("i"))
    priority: "array[int]" = field(default_factory=lambda: array("i"))
    run_offsets: "array[int]" = field(default_factory=lambda: array("q", [0]))
    run_name: "array[int]" = field(default_factory=lambda: array("q"))
    run_tokens: "array[int]" = field(default_factory=lambda: array("i"))
    interned: dict[str, int] = field(default_factory=dict)
    row_of_id: dict[str, int] = field(default_factory=dict)
    left_out: int = 0
    """Rows that were passed over."""
    left_out_why: str = UNANSWERED

    def add(self, arrival_s: float, input_tokens: int, output_tokens: int, priority: int = 0) -> None:
        """A request with the runs that were added since the last one. BadRow for a time that no clock shows."""
        if arrival_s > LATEST_S:
            raise BadRow(f"arrives at {arrival_s:g} s; the latest that is read is {LATEST_S:.0e}")
        self.arrival_s.append(arrival_s)
        self.input_tokens.append(input_tokens)
        self.output_tokens.append(output_tokens)
        self.priority.append(priority)
        self.run_offsets.append(len(self.run_name))

    def name_row(self, request_id: str) -> None:
        """Name the row that is added next; BadRow if an earlier row has the name."""
        row = self.row_of_id.setdefault(request_id, len(self.arrival_s))
        if row != len(self.arrival_s):
            raise BadRow(f"id {request_id!r} was used before, for request {row} (the first is 0)")

    def intern(self, prefix: str) -> int:
        """The run name of a named prefix."""
        return NAMED - self.interned.setdefault(prefix, len(self.interned))

    def trace(self, source: str, *, wall_clock: bool = False, doubts: tuple[str, ...] = ()) -> Trace:
        """The requests in order of arrival, with the `doubts` of their reader; equal arrivals keep their order in the
        file.

        The first request arrives at 0 if the times are `wall_clock` or if it would arrive so late that the file must be
        a piece of a longer one; otherwise the file's own zero is kept. Raises InputError, naming `source`, if there is
        no request.
        """
        if not self.arrival_s:
            which = f" that counts: {self.left_out} {self.left_out_why}" if self.left_out else ""
            raise InputError(f"{source}: no request in it{which}")
        arrival_s = np.frombuffer(self.arrival_s, np.float64)
        start_s = arrival_s.min()
        cut_out = start_s > LATE_S and idle_s(arrival_s) > 0
        shifted_s = arrival_s - start_s if wall_clock or cut_out else arrival_s
        if shifted_s.max() > LONGEST_S:
            raise InputError(f"{source}: its requests arrive over {shifted_s.max():g} s; the most is {LONGEST_S:.0e}")
        trace = Trace(
            arrival_s=shifted_s,
            input_tokens=np.frombuffer(self.input_tokens, np.int32),
            output_tokens=np.frombuffer(self.output_tokens, np.int32),
            priority=np.frombuffer(self.priority, np.int32),
            run_offsets=np.frombuffer(self.run_offsets, np.int64),
            run_name=np.frombuffer(self.run_name, np.int64) if self.run_name else np.empty(0, np.int64),
            run_tokens=np.frombuffer(self.run_tokens, np.int32) if self.run_tokens else np.empty(0, np.int32),
            request_id=self._ids(source),
            prefix_name=tuple(self.interned),
            left_out=self.left_out,
            left_out_why=self.left_out_why,
            doubts=doubts,
        )
        in_order = bool((arrival_s[1:] >= arrival_s[:-1]).all())
        return trace if in_order else trace.taken(np.argsort(arrival_s, kind="stable"))

    def _ids(self, source: str) -> tuple[str, ...] | None:
        """Names by row; a row without one, among others that have one, is named by its number."""
        if not self.row_of_id:
            return None
        named = {row: request_id for request_id, row in self.row_of_id.items()}
        ids = tuple(named.get(row, str(row)) for row in range(len(self.arrival_s)))
        if len(set(ids)) < len(ids):
            raise InputError(f"{source}: an id is the number of a request that has none: give every request an id")
        return ids
