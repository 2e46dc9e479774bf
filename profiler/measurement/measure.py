"""`slotune profile measure`: a profile from a real engine, within a time budget.

The engine is started with the recorder in it (recorder.py), warmed up, and driven with staircases of requests
(design.py, chooser.py); in between the sentinel comes back (drift.py). Every so often the model is fitted anew, to know
how long a staircase will take. At the end, or when Ctrl-C or the budget cuts it short, what is known becomes a profile
that says what is missing.

Beside the profile's folder P lies P.measure while a measurement goes on: logs and steps. It stays if the process is
killed, and the next call for the same engine and model begins with the steps in it.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import EngineError, InputError, SlotuneError
from ...simulator.speculation import drafts_of
from ...whole_file import UNFINISHED, whole_file
from ..engine.devices import device_name
from ..engine.launch import Launch
from ..engine.server import Server, running_server
from ..engine.silence import SILENCE_S
from ..fitted_profile import refuse_stages
from ..folder_lock import hold
from ..model_folder import read_model_folder, vocabulary_of
from ..profile import Profile, refuse_unsimulated
from ..profile_folder import check_target, write_profile
from ..surrogate.model import FittedStepTime
from ..surrogate.surrogate import are_enough, fit
from .chooser import Chooser
from .design import Staircase
from .kv_starts import expected_s, observe_starts
from .measured_profile import measured_profile
from .recording import StepTail
from .session import Collected, Sitting

FIRST = (
    Staircase(((256,),), 64, 1),
    Staircase(((32,), (48,), (64, 32)), 0, 4),
    Staircase(((24, 24, 24, 24),), 0, 4),
)
"""Cheap, of every regime: what the first fit is made of."""
SENTINEL_EVERY_S = 10.0
REFIT_EVERY_S = 30.0
FIT_SHARE = 0.1
"""Of the time, at most, that fits in between may take."""
OUTGROWN = 4
"""Times as many steps as the last fit knew: it is made again before the errors are asked for."""
STAIRCASE_SHARE = 0.1
"""Of the budget, at most, that one staircase may take."""
STARTS_SHARE = 0.4
"""Of the budget, at most, that is kept for starts with other batch limits; where they take longer there are none."""
RESERVE_S = 10.0
"""For the last fit and the end of the engine."""
LEAST_PATIENCE_S = 120.0
"""With an engine that is silent, when the budget allows no more: it compiles kernels in its first requests."""

Report = Callable[[float, str], None]
"""Told the seconds gone and a few words on what goes on."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What to measure."""

    model: str
    settings: Mapping[str, Any]
    """vLLM's arguments; they become the profile's defaults."""
    out: Path
    budget_s: float
    seed: int = 0


def measure(asked: Measurement, launch: Launch, report: Report, clock: Callable[[], float] = time.monotonic) -> Profile:
    """Measure, fit and save a profile.

    Raises InputError for a folder that holds something else or a model that is none; EngineError for an engine that
    does not start, or dies before it made enough steps for a fit; SlotuneError where there was no time for them.
    """
    check_target(asked.out)
    refuse_stages(asked.settings)
    refuse_unsimulated(asked.settings)
    read_model_folder(asked.model)
    folder = asked.out.parent / f"{asked.out.name}.measure"
    with _held(folder):
        profile = _measured(asked, launch, folder, report, clock)
        write_profile(profile, asked.out)
        shutil.rmtree(folder)
    return profile


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the folder for this process: a second measurement in it would take the first one's steps for earlier ones,
    and the first that ends removes them."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = hold(folder, "another slotune measures there; wait for it, or give another --out")
    try:
        yield
    finally:
        os.close(descriptor)


def _measured(asked: Measurement, launch: Launch, folder: Path, report: Report, clock: Callable[[], float]) -> Profile:
    identity = _identity(asked, launch)
    collected, number = _earlier(folder, identity)
    with whole_file(folder / "measure.json") as out:
        out.write(json.dumps(identity, indent=1).encode())
    begin = clock()
    report(0.0, "starting the engine")
    run = folder / f"run-{number}"
    with running_server(launch, asked.model, asked.settings, run, record=True, control=True) as server:
        work = _Work(asked, server, collected, number, begin, clock, report)
        ended = work.until_the_end()
    _check_enough(collected)
    starts = []
    if ended is None and work.starts_s > 0:
        report(clock() - begin, "starting with other batch limits, for the KV capacity")
        starts = observe_starts(launch, asked.model, asked.settings, server, run)
    report(clock() - begin, "fitting")
    name, seed = asked.out.name, asked.seed
    return measured_profile(asked.model, asked.settings, launch, server, collected, starts, ended, name, seed)


def _check_enough(collected: Collected) -> None:
    """Raise SlotuneError where the steps are too few: unlike a file of them, time brings more."""
    if not are_enough(collected.samples()):
        raise SlotuneError(
            "too few different steps for a fit: give a longer --budget; the same command continues from here"
        )


def _identity(asked: Measurement, launch: Launch) -> dict[str, Any]:
    """What must be equal for steps of an earlier call to count."""
    return {
        "model": asked.model,
        "config": read_model_folder(asked.model),
        "settings": dict(asked.settings),
        "vllm": launch.version,
        "device": device_name(),
        "environment": launch.recorded_environment(),
    }


def _earlier(folder: Path, identity: Mapping[str, Any]) -> tuple[Collected, int]:
    """Steps of calls that were killed, and the number of the next run. Raises InputError where they are steps of other
    engines or machines."""
    collected = Collected(drafts_of(identity["settings"]))
    try:
        known = json.loads((folder / "measure.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if known is None and not all(path.name.startswith(UNFINISHED) for path in folder.iterdir()):
        raise InputError(f"{folder}: holds something that is no measurement; remove it")
    numbers = sorted(int(run.name.removeprefix("run-")) for run in folder.glob("run-*"))
    differing = [name for name in identity if known and known.get(name) != identity[name]]
    if differing and any(path.stat().st_size for path in folder.glob("run-*/steps.jsonl*")):
        raise InputError(
            f"{folder}: holds steps of a measurement that was not ended, with another {' and '.join(differing)}; "
            "remove it, or give another --out"
        )
    for number in numbers:
        collected.add(StepTail(folder / f"run-{number}" / "steps.jsonl").read(), number)
    return collected, max(numbers, default=0) + 1


class _Work:
    """The loop of choosing and running."""

    def __init__(
        self,
        asked: Measurement,
        server: Server,
        collected: Collected,
        number: int,
        begin: float,
        clock: Callable[[], float],
        report: Report,
    ) -> None:
        self._asked, self._collected, self._clock = asked, collected, clock
        self._sitting = Sitting(server, vocabulary_of(asked.model), asked.seed, number, collected, self._patience_s)
        self._begin, self._report = begin, report
        self._model: FittedStepTime | None = None
        self._fit_s, self._fitted_steps = 0.0, 0
        self._chooser = Chooser(self._sitting.space, asked.seed + number - 1)  # going on, not what was sent before
        starts_s = expected_s(server)
        self.starts_s = starts_s if starts_s < STARTS_SHARE * asked.budget_s else 0.0
        """Kept for starts with other batch limits."""

    def until_the_end(self) -> str | None:
        """Measure until the budget is used. Returns why it ended before, or None."""
        try:
            self._first()
            if self._left_s() <= 0:
                return "the engine took so long to start that only the first requests were sent; give a longer --budget"
            while self._left_s() > 0 and (staircase := self._choose()) is not None:
                self._run(staircase)
        except KeyboardInterrupt:
            return "by the user"
        except EngineError as error:
            if not are_enough(self._collected.samples()):
                raise
            return f"the engine failed: {error}"
        return None

    def _left_s(self) -> float:
        last_fits_s = 2 * self._fit_s * len(self._collected) / max(1, self._fitted_steps)
        reserved_s = RESERVE_S + last_fits_s + self.starts_s
        return self._asked.budget_s - reserved_s - (self._clock() - self._begin)

    def _limit_s(self) -> float:
        return min(self._left_s(), max(1.0, STAIRCASE_SHARE * self._asked.budget_s))

    def _patience_s(self) -> float:
        """How long the engine may be silent: no longer than the budget allows."""
        return min(SILENCE_S, max(LEAST_PATIENCE_S, self._left_s()))

    def _say(self, what: str) -> None:
        self._report(self._clock() - self._begin, f"{what}, {len(self._collected)} steps")

    def _first(self) -> None:
        """What is measured in any case."""
        self._say("warming up")
        self._sitting.warm_up()
        self._visit_sentinel()
        for staircase in FIRST:
            self._sitting.staircase(staircase)
        self._visit_sentinel()
        _check_enough(self._collected)
        self._refit()

    def _run(self, staircase: Staircase) -> None:
        self._say(_described(staircase))
        self._sitting.staircase(staircase)
        now = self._clock()
        if now - self._sentinel_at > SENTINEL_EVERY_S:
            self._visit_sentinel()
        if now - self._fitted_at > max(REFIT_EVERY_S, self._fit_s / FIT_SHARE) or self._outgrown():
            self._refit()

    def _visit_sentinel(self) -> None:
        self._sitting.sentinel()
        self._sentinel_at = self._clock()

    def _refit(self) -> None:
        self._say("fitting")
        begin = self._clock()
        self._model = fit(self._collected.samples(), seed=self._asked.seed, in_order=True)
        self._fitted_at = self._clock()
        self._fit_s, self._fitted_steps = self._fitted_at - begin, len(self._collected)

    def _outgrown(self) -> bool:
        """Whether the last fit knew a fraction of the steps only: neither its errors nor its time say much now."""
        return len(self._collected) > OUTGROWN * self._fitted_steps

    def _choose(self) -> Staircase | None:
        assert self._model is not None
        return self._chooser.next(self._model, self._limit_s())


def _described(staircase: Staircase) -> str:
    prompts = staircase.prompts
    return f"{len(prompts)} prompts of about {int(np.median(prompts))} tokens"
