"""Runs on the engine, one after the other, each kept in the study the moment it ends."""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...errors import EngineError
from ...simulator.settings import Settings
from ..study.blame import NOT_A_CONFIGURATIONS_FAULT, at_fault, excusable
from ..study.comparison import DEFAULT
from ..study.study import Study, Trial, settings_key
from .engine_run import Measured

LEAST_FREE_BYTES = 1 << 20
"""On the study's disk: with less an engine can write neither its log nor what it is asked for."""
RUNS = "engine"
"""Folder in the study with a folder of logs for each run."""


class Run(Protocol):
    """Runs settings on the engine, leaving its log in a folder; raises EngineError."""

    def __call__(self, settings: Mapping[str, Any], folder: Path) -> Measured: ...

    def identity(self) -> dict[str, Any]:
        """What must be the same in all runs that are compared."""


@dataclass(frozen=True, slots=True)
class Progressed:
    """A step of a validation, for a person to see."""

    done: int
    total: int
    trial: Trial | None
    """The run that has just ended; None when one begins."""
    text: str


@dataclass(frozen=True, slots=True)
class Round:
    """A round of runs: they follow one another on the same machine, and are compared with each other."""

    number: int
    batch: int
    """0: the best as predicted; from 1 on what the corrected model promises."""
    members: int
    """How many runs it is to have."""


Watch = Callable[[Progressed], None]


class Campaign:
    """Runs on the engine, each put in the study when it ends; what is there already is not run again."""

    def __init__(self, study: Study, run: Run, watch: Watch) -> None:
        self._study = study
        self._run = run
        self._watch = watch
        self._total = 0
        self._done = 0
        self._known = {(t.key, t.repeat): t for t in study.trials("hardware")}
        self._before = frozenset(self._known)
        self._default = settings_key(study.asked.engine)

    def next_round(self, batch: int, members: Sequence[Settings]) -> Round:
        """The last round, where it is one of this batch that was stopped before all of its own had run and some of
        `members` have not; else a new one."""
        last = max((number for _, number in self._known), default=-1)
        runs = [trial for (_, number), trial in self._known.items() if number == last]
        was_stopped = any(t.details.get("batch") == batch and len(runs) < t.details["round_members"] for t in runs)
        is_open = was_stopped and any((settings_key(one), last) not in self._known for one in members)
        return Round(last if is_open else last + 1, batch, len(members))

    def first_round(self, batch: int) -> int:
        """The first round of a batch or of a later one; beyond all where there is none yet."""
        later = [number for (_, number), trial in self._known.items() if trial.details.get("batch", 0) >= batch]
        return min(later, default=max((number for _, number in self._known), default=-1) + 1)

    def compared(self, settings: Settings, default: Settings) -> int:
        """In how many rounds `settings` ran beside the default, or at all where the default is barred."""
        mine, theirs = self._rounds(settings), self._rounds(default)
        return len(mine if self.is_barred(default) else mine & theirs)

    def _rounds(self, settings: Settings) -> set[int]:
        key = settings_key(settings)
        return {number for (known, number), trial in self._known.items() if known == key and trial.metrics is not None}

    def measure(self, settings: Settings, in_round: Round) -> bool:
        """Whether `settings` ran in a round, now or before; what is barred is not tried."""
        if self.is_barred(settings):
            return False
        number = in_round.number
        key = (settings_key(settings), number)
        if key in self._known:
            self._done += 1
        else:
            self._watch(Progressed(self._done, self._total, None, f"round {number + 1}: {_shown(settings)}"))
            trial = self._ran(settings, in_round)
            self._study.add(trial)
            self._known[key] = trial
            self._done += 1
            self._watch(Progressed(self._done, self._total, trial, _shown(settings)))
        return self._known[key].metrics is not None

    def expect(self, runs: int) -> None:
        """So many more runs are to come, as far as is known."""
        self._total = self._done + runs

    def spent_s(self) -> float:
        """How long the engine has run for this study, starts and failures included."""
        return sum(trial.duration_s for trial in self._known.values())

    def is_barred(self, settings: Settings) -> bool:
        """Whether failures of these settings are held against them, so that they are not tried again.

        What may be nobody's fault bars the default from this validation only: the next one cannot compare without it.
        """
        return at_fault(self._held_against(settings_key(settings)))

    @property
    def lacks_default(self) -> bool:
        """Whether the default is given up for what may be nobody's fault: more runs would be compared with nothing."""
        failures = self._held_against(self._default)
        return at_fault(failures) and all(map(excusable, failures))

    def _held_against(self, key: str) -> list[Trial]:
        failures = {run: trial for run, trial in self._known.items() if run[0] == key and trial.metrics is None}
        old = self._before if key == self._default else frozenset()
        return [trial for run, trial in failures.items() if run not in old or not excusable(trial)]

    def _ran(self, settings: Settings, in_round: Round) -> Trial:
        digest = hashlib.sha256(settings_key(settings).encode()).hexdigest()[:8]
        folder = self._study.folder / RUNS / f"round-{in_round.number + 1}-{digest}"
        start_s = time.monotonic()
        failure = message = None
        try:
            measured = self._run(settings, folder)
        except EngineError as error:
            if error.reason in NOT_A_CONFIGURATIONS_FAULT:
                raise
            if shutil.disk_usage(self._study.folder).free < LEAST_FREE_BYTES:
                raise EngineError(f"{folder}: the disk is full; the engine failed: {error}", "disk-full") from error
            measured, failure, message = None, error.reason, str(error)
        place = {
            "order": len(self._known),
            "batch": in_round.batch,
            "round_members": in_round.members,
            "folder": str(folder.relative_to(self._study.folder)),
        }
        return Trial(
            settings,
            measured.metrics if measured else None,
            failure,
            message,
            where="hardware",
            repeat=in_round.number,
            origin="validate",
            duration_s=time.monotonic() - start_s,
            details={**(measured.details if measured else self._run.identity()), **place},
        )


def _shown(settings: Settings) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items()) or DEFAULT
