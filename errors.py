"""Every error slotune raises on purpose, each with the exit code it ends as.

SlotuneError            1  something failed
├── InputError          2  a bad value, line or file from the user
├── EngineError         1  the real engine did not start, died or hung
└── InfeasibleError     3  no configuration meets the targets
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

MOST_LISTED = 30
"""Names in a message: beyond that nobody reads them."""


class SlotuneError(Exception):
    """Base of the tree. The message is one line for the user: what, where, and the mend."""

    exit_code = 1


class InputError(SlotuneError):
    """Bad input: names the file, line or value, and how to mend it."""

    exit_code = 2


class EngineError(SlotuneError):
    """The real engine failed. `reason` is a short stable word, as in a study's failure column."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class InfeasibleError(SlotuneError):
    """No configuration meets the targets."""

    exit_code = 3


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> InputError:
    """An InputError for a name that does not exist, with the nearest one that does."""
    valid = sorted({known for known in valid if not known.startswith("_")})
    near = get_close_matches(name, valid, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "valid: " + ", ".join(valid)
    if not near and len(valid) > MOST_LISTED:
        hint = f"none of the {len(valid)} that exist is like it"
    return InputError(f"unknown {kind} {name!r}: {hint}")


def one_line(error: Exception) -> str:
    """What a library says of an error, whose texts may be of several lines."""
    return " ".join(str(error).split())


def first_fault(error: "ValidationError") -> str:
    """Of what pydantic found wrong in a document, the first: where it stands, and what it is."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "content"
    return f"{where}: {first['msg']}"
