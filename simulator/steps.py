"""Step records: one engine step, as rows of (request, tokens computed now, context computed before). JSON lines.

The profiler records the real engine's steps in this form, the simulator writes its own, the surrogate is fitted on
them.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..traces.read import GZIP_MAGIC

MOST_WHOLE = 2**53
"""Up to which a float64, as the totals of a step are summed in, holds every whole number."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step; times in seconds."""

    step: int
    start_s: float
    end_s: float
    rows: tuple[tuple[str, int, int], ...]
    """(request id, tokens computed in the step, context computed before), in the order the scheduler took them."""
    preempted: tuple[str, ...] = ()
    free_blocks: int = -1
    """KV blocks free after scheduling; -1 if not recorded."""
    replica: int = 0


def read_steps(path: Path) -> Iterator[StepRecord]:
    """The records of a file, one a line. Raises InputError with file and line for anything that is not a step.

    Blank lines, those that hold an object without "step" (a trailer, such as the reference schedules have) and, after
    others, a last one that was cut off (by a kill, a full disk, a copy of what is being written), or whose place a loss
    of power left full of zeros, are passed over.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.isspace() or (number > 1 and _is_cut_off(line)):
                    continue
                document = _parse(line, f"{path}:{number}")
                if "step" in document:
                    yield _record(document, f"{path}:{number}")
    except UnicodeDecodeError as error:
        if error.object.startswith(GZIP_MAGIC):
            raise InputError(f"{path}: is compressed with gzip; unpack it first") from error
        raise InputError(f"{path}: cannot be read as step records: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read as step records: {error}") from error


def _is_cut_off(line: str) -> bool:
    """Whether a line, the last one of its file, ends within an object; or holds but the zeros that a loss of power left
    where lines were."""
    ends_within = line.startswith("{") and not line.endswith("\n") and not line.rstrip().endswith("}")
    return ends_within or not line.strip("\0\n ")


def parse_step(line: str, where: str) -> StepRecord:
    """The record in one line; `where` names the line in the InputError that anything else raises."""
    return _record(_parse(line, where), where)


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        document = json.loads(line.rstrip())  # its end would be another line to the parser
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{where}: expected an object, found {type(document).__name__}")
    return document


def _record(document: dict[str, Any], where: str) -> StepRecord:
    try:
        record = StepRecord(
            step=_whole(document["step"]),
            start_s=_number(document["start_ms"]) / 1e3,
            end_s=_number(document["end_ms"]) / 1e3,
            rows=tuple((str(row), _whole(tokens), _whole(context)) for row, tokens, context in document["rows"]),
            preempted=tuple(str(request) for request in document.get("preempted", ())),
            free_blocks=_whole(document.get("free_blocks", -1)),
            replica=_whole(document.get("replica", 0)),
        )
    except KeyError as error:
        raise InputError(f"{where}: a step needs {error.args[0]}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: not a step record: {error}") from error
    if not (math.isfinite(record.start_s) and math.isfinite(record.end_s)):
        raise InputError(f"{where}: start_ms {document['start_ms']} or end_ms {document['end_ms']} is no time")
    if record.end_s < record.start_s:
        raise InputError(f"{where}: end_ms {document['end_ms']} lies before start_ms {document['start_ms']}")
    if any(tokens < 1 or context < 0 for _, tokens, context in record.rows):
        raise InputError(f"{where}: a row needs tokens >= 1 and context >= 0")
    return record


def _number(value: Any) -> float:
    """Raises ValueError for anything else that `float` would make one of: texts, true."""
    if type(value) is not int and type(value) is not float:
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _whole(value: Any) -> int:
    is_whole = type(value) is int or (type(value) is float and value.is_integer())  # true is an int too
    if not is_whole or abs(value) > MOST_WHOLE:
        raise ValueError(f"{value!r} is not a whole number up to 2**53")
    return int(value)
