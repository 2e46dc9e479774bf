"""A study on disk: a folder that holds everything that was asked and everything that was learned.

    study.json      what was asked: profile, trace, targets, fixed settings, seed, versions
    trials.sqlite   every trial the moment it ends
    best.yaml       the recommendation, as `vllm serve --config` reads it

A study is created once and then continued: asking for the same thing again goes on from what is there, asking for
something else in the same folder is an error. One process writes at a time.
"""

import json
import math
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from ...errors import InputError, SlotuneError, first_fault
from ...profiler.folder_lock import hold
from ...simulator.policy_names import DEFAULT_POLICY
from ...traces.tabular import is_utf8
from ...whole_file import UNFINISHED, write_text

if TYPE_CHECKING:
    from ..evaluate import Outcome

FORMAT_VERSION: Final = 1
ASKED_FILE = "study.json"
TRIALS_FILE = "trials.sqlite"
BEST_FILE = "best.yaml"
STUDY_FILES = (ASKED_FILE, TRIALS_FILE, f"{TRIALS_FILE}-wal", f"{TRIALS_FILE}-shm", BEST_FILE)
WRITTEN = "another slotune is writing this study; wait for it or stop it"

Where = Literal["simulation", "other orders", "longer load", "other step times", "hardware"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS trials (
    number     INTEGER PRIMARY KEY,
    ran_on     TEXT NOT NULL,
    settings   TEXT NOT NULL,
    repeat     INTEGER NOT NULL,
    origin     TEXT NOT NULL,
    metrics    TEXT,
    failure    TEXT,
    message    TEXT,
    duration_s REAL NOT NULL,
    details    TEXT NOT NULL,
    UNIQUE (ran_on, settings, repeat)
)
"""


class Versions(BaseModel):
    """What the study was made with. Another slotune may simulate otherwise: its `tune` does not continue the study."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slotune: str
    smac: str
    python: str


class Asked(BaseModel):
    """Everything that decides what a study finds. `trials` may grow when the study is continued."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = FORMAT_VERSION
    profile: str
    profile_digest: str
    trace: str
    trace_digest: str
    rate: float | None = None
    max_concurrency: int | None = None
    policy: str = DEFAULT_POLICY
    engine: dict[str, Any] = {}
    model: str | None = None
    """What is to be served where the settings name another model than the profile: not simulated, but deployed."""
    of_the_server: tuple[str, ...] = ()
    """What the file of settings says of the server alone, such as its port, by name: not simulated, nor recommended."""
    slos: tuple[str, ...] = ()
    goodput: dict[str, float] = {}
    maximize: tuple[str, ...] = ()
    minimize: tuple[str, ...] = ()
    optimizer: str = "smac"
    seed: int = 0
    trials: int = 64
    versions: Versions

    def with_model(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with the model, where one was asked for: the profile may be of another."""
        return {**settings, **({"model": self.model} if self.model else {})}


MAY_DIFFER = frozenset({"trials", "versions", "profile", "trace", "model", "of_the_server"})
"""Of profile and trace the digests count, not the paths they were read from."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration that was run, and what came of it: metrics, or a failure with its reason."""

    settings: Mapping[str, Any]
    """vLLM's names; only what differs from the engine's defaults."""
    metrics: Mapping[str, float] | None
    failure: str | None = None
    """A short stable word (EngineError.reason, or "refused"), None for a trial that ran."""
    message: str | None = None
    where: Where = "simulation"
    repeat: int = 0
    """Tells runs of the same settings apart: the round on hardware, the number of the order on other orders, how many
    times as long the longer load is, 0 for faster and 1 for slower steps."""
    origin: str = ""
    """Who proposed it: default, sarathi, largest budget, budget, sobol, smac, random, simpler, neighbour, plain, other
    order, longer load, other step time, validate."""
    duration_s: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else is worth keeping, as JSON: what a run on the engine tells of itself (hardware/),
    or the pace of a variation."""
    number: int | None = None
    """Place in the study, given when it is added."""

    @property
    def key(self) -> str:
        """Alike for trials of the same settings."""
        return settings_key(self.settings)


def trial_of(settings: Mapping[str, Any], outcome: "Outcome", **place: Any) -> Trial:
    """The trial that came to `outcome`; `place` has its where, repeat, origin and details."""
    failure, message, duration_s = outcome.failure, outcome.message, outcome.duration_s
    return Trial(settings, outcome.metrics, failure, message, duration_s=duration_s, **place)


class Study:
    """An open study. Close it (or use it as a context manager) so that another process can write."""

    def __init__(self, folder: Path, asked: Asked, lock: int | None) -> None:
        self.folder = folder
        self.asked = asked
        self._lock = lock
        try:
            with _disk_errors(folder):
                self._db = sqlite3.connect(_address(folder, lock), uri=True, isolation_level=None)
                if lock is not None:
                    self._db.execute("PRAGMA journal_mode=WAL")
                    self._db.execute(SCHEMA)
        except SlotuneError:
            self._unlock()
            raise

    @classmethod
    def open(cls, folder: Path, *, writable: bool = False) -> Self:
        """An existing study. Raises InputError where `folder` is none, or where another process writes it."""
        asked = read_asked(folder)
        return cls(folder, asked, hold(folder, WRITTEN) if writable else None)

    @classmethod
    def create(cls, folder: Path, asked: Asked) -> Self:
        """A new study in an absent or empty folder, or the one that is there if it asked for the same.

        Raises InputError as `check_place` does.
        """
        check_place(folder, asked)
        with _disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = hold(folder, WRITTEN)
            write_text(folder / ASKED_FILE, asked.model_dump_json(indent=2) + "\n")
        return cls(folder, asked, lock)

    def trials(self, where: Where | None = None) -> list[Trial]:
        """Trials in the order in which they were added; with `where`, only those that ran there."""
        if not (self.folder / TRIALS_FILE).stat().st_size:
            return []
        query = "SELECT * FROM trials" + (" WHERE ran_on = ?" if where else "") + " ORDER BY number"
        with _disk_errors(self.folder):
            rows = self._db.execute(query, (where,) if where else ()).fetchall()
            return [_from_row(row) for row in rows]

    def add(self, trial: Trial) -> None:
        """Put a trial on disk; one of the same settings, place and repeat is replaced."""
        values = (
            trial.where,
            trial.key,
            trial.repeat,
            trial.origin,
            None if trial.metrics is None else _to_json(trial.metrics),
            trial.failure,
            trial.message,
            trial.duration_s,
            _to_json(trial.details),
        )
        columns = "ran_on, settings, repeat, origin, metrics, failure, message, duration_s, details"
        with _disk_errors(self.folder):
            self._db.execute(f"INSERT OR REPLACE INTO trials ({columns}) VALUES (?,?,?,?,?,?,?,?,?)", values)

    def write_best(self, text: str) -> Path:
        """Write best.yaml, whole or not at all; returns its path."""
        path = self.folder / BEST_FILE
        with _disk_errors(self.folder):
            write_text(path, text)
        return path

    def close(self) -> None:
        """Let go of the files."""
        self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def settings_key(settings: Mapping[str, Any]) -> str:
    """Settings as text, equal for equal settings."""
    return json.dumps(dict(settings), sort_keys=True, separators=(",", ":"))


def read_asked(folder: Path) -> Asked:
    """What the study in `folder` was asked. Raises InputError where there is none, or one of another version."""
    path = folder / ASKED_FILE
    try:
        return Asked.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{folder}: not a study, {ASKED_FILE} is missing; `slotune tune --out` makes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        raise InputError(f"{path}: {first_fault(error)}; it is damaged or of another slotune version") from error


def _shown(value: Any) -> str:
    """A field of Asked as people would write it."""
    words = [f"{name}={inner}" for name, inner in value.items()] if isinstance(value, dict) else value
    text = " ".join(map(str, words)) if isinstance(words, (list, tuple)) else str(value)
    return "none" if value is None else text or "none"


def check_place(folder: Path, asked: Asked) -> None:
    """Raise InputError where the folder holds something else than a study, or a study that asked for something else."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder to --out")
    for name in filter(None, (asked.trace, asked.profile)):
        if not is_utf8(name):
            raise InputError(f"{name!r}: a study cannot hold a name that is not UTF-8: rename it")
    if (folder / ASKED_FILE).exists():
        _check_same(folder, read_asked(folder), asked)
    elif folder.exists() and not all(path.name.startswith(UNFINISHED) for path in folder.iterdir()):
        raise InputError(f"{folder}: holds something that is not a study; give an empty or new folder to --out")


def _check_same(folder: Path, old: Asked, new: Asked) -> None:
    if differs := other_version(old, new.versions.slotune):
        raise InputError(f"{folder}: {differs}; give another folder to --out")
    before, now = ({**asked.model_dump(), "slos": tuple(sorted(set(asked.slos)))} for asked in (old, new))
    for name in before:
        if name not in MAY_DIFFER and before[name] != now[name]:
            then, asked = (_shown(values[name]) for values in (before, now))
            detail = "its content changed" if name.endswith("_digest") else f"then {then}, now {asked}"
            shown = "slo" if name == "slos" else name.removesuffix("_digest")
            raise InputError(f"{folder}: this study asked for another {shown} ({detail}); give another folder to --out")


def other_version(asked: Asked, version: str) -> str | None:
    """That the study was made with another slotune than `version`; None where it was not."""
    made = asked.versions.slotune
    return None if made == version else f"made with slotune {made}, and this is {version}, whose numbers may be others"


def check_apart(folder: Path, out: Path | None) -> None:
    """Raise InputError where `out` is one of the files that the study in `folder` consists of."""
    if out and out.resolve() in {(folder / name).resolve() for name in STUDY_FILES}:
        raise InputError(f"--out {out}: is a part of the study itself; name another file")


def _address(folder: Path, lock: int | None) -> str:
    """SQLite's name of the trials (sqlite.org/uri.html). It cannot read even a database that nobody writes where it may
    not put files beside it, unless it is told that nothing changes."""
    address = f"file:{quote(os.fsencode((folder / TRIALS_FILE).resolve()))}"
    kept = folder / f"{TRIALS_FILE}-wal"
    fixed = lock is None and not os.access(folder, os.W_OK) and not kept.exists()
    return f"{address}?mode=ro&immutable=1" if fixed else address


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        begun = "; mend it and run again to go on" if (folder / ASKED_FILE).exists() else ""
        raise SlotuneError(f"{folder}: the study cannot be kept: {reason}{begun}") from error
    except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
        raise SlotuneError(
            f"{folder / TRIALS_FILE}: damaged ({error}): put a copy back, or tune again in a new folder"
        ) from error


def _to_json(values: Mapping[str, Any]) -> str:
    """JSON, with None for a number that has no value (JSON has no NaN)."""
    return json.dumps(_without_nan(values), allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """What `_to_json` wrote, with NaN again for a number that has no value."""
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def _from_row(row: tuple[Any, ...]) -> Trial:
    number, where, settings, repeat, origin, metrics, failure, message, duration_s, details = row
    known, kept = _object(settings, number), _object(details, number)
    numbers = None if metrics is None else with_nan(_object(metrics, number))
    if numbers is not None and not all(isinstance(value, (int, float)) for value in numbers.values()):
        raise sqlite3.DatabaseError(f"trial {number} has metrics that are no numbers")
    return Trial(known, numbers, failure, message, where, repeat, origin, duration_s, kept, number)


def _object(text: str, number: int) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise sqlite3.DatabaseError(f"trial {number} holds {text[:40]} where names and values belong")
    return value
