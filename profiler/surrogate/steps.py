"""Step records turned into samples: which time belongs to which step."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import InputError
from ...simulator.features import TOTALS
from ...simulator.steps import StepRecord, read_steps
from .samples import StepSamples, join, totals_of_step

MOST_STAGES = 16
"""Of a pipeline: so many steps may lie between two of a request."""
MOST_APART = 0.2
"""Of one engine's steps hardly any overlap without sharing a request; of two pipeline stages nearly all do."""


def samples_of_files(
    paths: Iterable[Path], drafts: int = 0, on_record: Callable[[StepRecord], None] = lambda record: None
) -> StepSamples:
    """Samples of step records in files (JSON lines), each file a recording of its own, of an engine that verifies so
    many drafts a decode; `on_record` hears of each.

    Raises InputError for a file that is unreadable or holds no step, for records that are not in the order in which
    their steps ended, for those of pipeline stages or of several engines that are not told apart, and where no step has
    the one before it in the file.
    """
    parts = []
    for path in paths:
        part = samples_of(_in_order(_heard(read_steps(path), on_record), path), drafts)
        if not len(part):
            raise InputError(f"{path}: holds no step with rows and a duration")
        parts.append(part)
    return join(parts)


def _heard(records: Iterable[StepRecord], on_record: Callable[[StepRecord], None]) -> Iterator[StepRecord]:
    for record in records:
        on_record(record)
        yield record


def _in_order(records: Iterable[StepRecord], path: Path) -> Iterator[StepRecord]:
    last: dict[int, StepRecord] = {}
    succession = _Succession(path)
    for record in records:
        before = last.get(record.replica, record)
        if record.end_s < before.end_s:
            raise InputError(
                f"{path}: step {record.step} ends before the step that comes before it; give each recording a file of "
                'its own, and each engine in one its "replica"'
            )
        succession.add(before, record)
        last[record.replica] = record
        yield record
    succession.check()


class _Succession:
    """What the succession of one file's steps tells of where they come from."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._steps = self._apart = self._alternating = self._following = self._missing = 0
        self._numbered = False
        self._recent: dict[int, deque[dict[str, int]]] = defaultdict(lambda: deque(maxlen=MOST_STAGES))
        """Of each replica, what the requests of its last steps had computed."""
        self._again: StepRecord | None = None
        """The first whose number does not follow that of the one before it, which it overlaps."""

    def add(self, before: StepRecord, record: StepRecord) -> None:
        """Take in a step and the one before it on its replica."""
        self._steps += 1
        self._following += record.step == before.step + 1
        self._missing += record.step > before.step + 1
        self._numbered |= record.step != before.step
        self._alternating += self._takes_turns(before, record)
        self._recent[record.replica].append({request: context + tokens for request, tokens, context in record.rows})
        if record == before or record.start_s >= before.end_s:  # a line that is there twice tells nothing
            return
        self._apart += not {row[0] for row in record.rows} & {row[0] for row in before.rows}
        if self._again is None and record.step <= before.step:
            self._again = record

    def _takes_turns(self, before: StepRecord, record: StepRecord) -> bool:
        """Whether a step shares no request with the one before it, and one of its requests goes on from where it was a
        few steps ago: stages work on several steps at once, also where the recorder has cut what overlaps."""
        if {row[0] for row in record.rows} & {row[0] for row in before.rows}:
            return False
        recent = self._recent[record.replica]
        return any(reached.get(request) == context for request, _, context in record.rows for reached in recent)

    def check(self) -> None:
        """Raise InputError for pipeline stages, engines that are not told apart, and where every n-th step is kept."""
        if self._apart > MOST_APART * self._steps:
            raise InputError(
                f"{self._path}: of {self._steps} steps {self._apart} overlap the one before them and share no request "
                "with it: these are pipeline stages, and records do not say how long a step is in them, or several "
                'engines that no "replica" tells apart'
            )
        if self._alternating > MOST_APART * self._steps:
            raise InputError(
                f"{self._path}: in {self._alternating} of {self._steps} steps requests go on that were not in the step "
                "before, and none that was: these are pipeline stages, and records do not say how long a step is in "
                "them"
            )
        if self._again is not None and self._numbered:
            raise InputError(
                f"{self._path}: step {self._again.step} overlaps the one before it, and its number does not follow: "
                'these are several engines; give each its "replica", or a file of its own'
            )
        if self._missing and not self._following:
            raise InputError(
                f"{self._path}: by their numbers no two steps follow each other, as if only every n-th was kept: an "
                "engine may start a step before the last one ends, and nothing tells when; keep consecutive steps"
            )


class _Last(NamedTuple):
    """The last step of a replica."""

    step: int
    end_s: float
    rows: dict[str, tuple[int, int]]
    """Of each request, its context before the step and after it."""

    def goes_on_in(self, record: StepRecord, drafts: int) -> bool:
        """Whether one of the step's requests goes on in `record` from where it was, short of refused drafts; another
        request may bear the same name."""
        rows = ((self.rows.get(request, (context, context)), context) for request, _, context in record.rows)
        return any(max(before, after - drafts - 1) < context <= after for (before, after), context in rows)


def samples_of(records: Iterable[StepRecord], drafts: int = 0) -> StepSamples:
    """Samples of one recording, of an engine that verifies so many drafts a decode; its replicas are timed apart.

    While the engine has work, a step costs the time from the end of the step before it to its own end: so the gap in
    which the engine schedules counts, and steps that overlap, as under async scheduling, are not counted twice. A step
    in which no request of the one before it goes on may have followed an idle time, and costs its own duration: a name
    that comes again may be of another request, since clients choose names. So does one before which the numbers tell
    that steps are missing, unless steps of the recording overlap: it would then have waited for the missing one, how
    long nothing tells.
    """
    totals, durations, replicas, after_missing, overlapping = [], [], [], [], False
    last: dict[int, _Last] = {}
    for record in records:
        before = last.get(record.replica, _Last(record.step - 1, record.start_s, {}))
        reached = {request: (context, context + tokens) for request, tokens, context in record.rows}
        last[record.replica] = _Last(record.step, record.end_s, reached)
        overlaps, missing = record.start_s < before.end_s, record.step > before.step + 1
        overlapping |= overlaps
        busy = not missing and (overlaps or before.goes_on_in(record, drafts))
        duration_s = record.end_s - (before.end_s if busy else record.start_s)
        if record.rows and duration_s > 0:
            totals.append(totals_of_step(record, drafts))
            durations.append(duration_s)
            replicas.append(record.replica)
            after_missing.append(missing)
    order = np.argsort(replicas, kind="stable")  # one after the other, so that they show as parts of the recording
    kept = order[~(np.array(after_missing, bool)[order] & overlapping)]
    return StepSamples(np.array(totals).reshape(-1, TOTALS)[kept], np.array(durations)[kept])
