"""The proof: the best configurations of a study and the default on the real engine, interleaved and repeated.

A machine drifts, so every round runs every configuration once, in an order that rotates from round to round, and
configurations are compared within rounds. Each run is put in the study when it ends; a validation that was killed goes
on where it was. A configuration that fails is kept with its reason, and the next best takes its place.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from ..errors import EngineError, InfeasibleError, InputError, SlotuneError
from ..profiler.launch import find_vllm
from ..simulator.engine_config import Settings
from .comparison import DEFAULT, Compared, Quantity, compared, default_metrics, quantities
from .deployment import deployed
from .engine_run import EngineRun, Measured, model_to_serve
from .export import vllm_yaml
from .intervals import spread
from .objective import Objective
from .ranking import ranked, recommended
from .study import Study, Trial, settings_key
from .task import Task, load_task
from .verdict import Verdict, decide

ALIKE = 0.005
"""Predictions within half a percent of each other: the engine would not tell such configurations apart either."""
NOT_A_CONFIGURATIONS_FAULT = frozenset({"no-vllm", "port", "model"})
"""Reasons for which no configuration would start."""
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


Watch = Callable[[Progressed], None]


@dataclass(frozen=True, slots=True)
class Validation:
    """What a validation found."""

    folder: Path
    task: Task
    found: tuple[Compared, ...]
    """The default first."""
    verdict: Verdict | None
    """None where no run succeeded."""

    @property
    def quantities(self) -> list[Quantity]:
        return quantities(self.task.objective)

    def drift(self, quantity: Quantity) -> float:
        """How far the default's runs lie apart: the machine's doing, as nothing else changed. NaN below two runs."""
        return spread([quantity.of(metrics) for metrics in self.found[0].runs.values()])


def validate(
    folder: Path,
    *,
    top: int = 3,
    repeats: int = 3,
    vllm_python: str | None = None,
    model: str | None = None,
    watch: Watch = lambda progressed: None,
) -> Validation:
    """Measure the best `top` configurations of the study in `folder` and its default, each `repeats` times.

    Rewrites best.yaml with what the measurements recommend. Raises InputError for a folder that is no study, or one
    whose runs are of another model or vLLM; EngineError where there is no engine to start.
    """
    with Study.open(folder, writable=True) as study:
        task = load_task(study.asked)
        run = EngineRun(
            find_vllm(vllm_python),
            task.profile,
            model_to_serve(model, task.profile.engine.model, study.asked.profile),
            task.trace,
            study.asked.goodput,
            [slo.percentile for slo in task.objective.limits],
            study.asked.max_concurrency,
            study.asked.seed,
        )
        return validated(study, task, run, top=top, repeats=repeats, watch=watch)


def validated(
    study: Study, task: Task, run: Run, *, top: int, repeats: int, watch: Watch = lambda progressed: None
) -> Validation:
    """`validate` on an open study with `run` as the engine."""
    _check_identity(study, run)
    candidates = iter(candidates_of(study, task))
    default = dict(study.asked.engine)
    chosen = [default, *islice(candidates, top)]
    campaign = Campaign(study, run, watch, total=len(chosen) * repeats)
    for number in range(repeats):
        for settings in rotated(chosen, number):
            campaign.measure(settings, number)
        failed = [settings for settings in chosen if campaign.failed(settings)]
        for settings in failed:
            chosen.remove(settings)
            if settings != default:
                chosen += _replacement(campaign, candidates, number)
        if not chosen:
            break
    return _concluded(study, task)


def _replacement(campaign: "Campaign", candidates: Iterator[Settings], number: int) -> list[Settings]:
    """The next candidate that runs, measured in every round so far; empty where none is left."""
    for settings in candidates:
        if all(campaign.measure(settings, earlier) for earlier in range(number + 1)):
            return [settings]
    return []


def rotated(configurations: Sequence[Settings], number: int) -> list[Settings]:
    """The order of round `number`: A B C, then C A B, then B C A, so that none always comes first."""
    shift = -number % len(configurations)
    return [*configurations[shift:], *configurations[:shift]]


def candidates_of(study: Study, task: Task) -> list[Settings]:
    """What is worth measuring, best first: the recommendation, then the rest as ranked in simulation.

    Left out: the default, what failed on the engine, and whatever is predicted to behave as one before it.
    """
    trials = study.trials("simulation")
    if not trials:
        raise SlotuneError(f"{study.folder}: no trial in it yet; run `slotune tune` first")
    reference = default_metrics(study)
    order = ranked(trials, task.objective, task.space, reference)
    best = recommended(trials, task.objective, task.space, reference)
    taken = [Trial(study.asked.engine, reference or None)]
    chosen: list[Trial] = []
    for trial in [best, *order] if best else order:
        if not any(_alike(trial, other, task.objective) for other in taken):
            taken.append(trial)
            chosen.append(trial)
    return [dict(trial.settings) for trial in chosen]


def _alike(one: Trial, other: Trial, objective: Objective) -> bool:
    """Whether they are the same, or predicted to be within ALIKE of each other in everything shown."""
    if settings_key(one.settings) == settings_key(other.settings):
        return True
    if one.metrics is None or other.metrics is None:
        return False
    pairs = [(quantity.of(one.metrics), quantity.of(other.metrics)) for quantity in quantities(objective)]
    return all(abs(a - b) <= ALIKE * abs(b) for a, b in pairs)


class Campaign:
    """Runs on the engine, each put in the study when it ends; what is there already is not run again."""

    def __init__(self, study: Study, run: Run, watch: Watch, total: int) -> None:
        self._study = study
        self._run = run
        self._watch = watch
        self._total = total
        self._known = {(settings_key(t.settings), t.repeat): t for t in study.trials("hardware")}

    def measure(self, settings: Settings, number: int) -> bool:
        """Whether `settings` ran in round `number`, now or before; one that failed in any round is not tried again."""
        if self.failed(settings):
            return False
        key = (settings_key(settings), number)
        if key not in self._known:
            self._watch(Progressed(len(self._known), self._total, None, f"round {number + 1}: {_shown(settings)}"))
            trial = self._ran(settings, number)
            self._study.add(trial)
            self._known[key] = trial
            self._watch(Progressed(len(self._known), self._total, trial, _shown(settings)))
        return self._known[key].metrics is not None

    def failed(self, settings: Settings) -> bool:
        """Whether a run of these settings failed."""
        key = settings_key(settings)
        return any(trial.metrics is None for (known, _), trial in self._known.items() if known == key)

    def _ran(self, settings: Settings, number: int) -> Trial:
        digest = hashlib.sha256(settings_key(settings).encode()).hexdigest()[:8]
        folder = self._study.folder / RUNS / f"round-{number + 1}-{digest}"
        start_s = time.monotonic()
        try:
            measured = self._run(settings, folder)
        except EngineError as error:
            if error.reason in NOT_A_CONFIGURATIONS_FAULT:
                raise
            details: Mapping[str, Any] = self._run.identity()
            return self._trial(settings, number, folder, start_s, None, details, error.reason, str(error))
        return self._trial(settings, number, folder, start_s, measured.metrics, measured.details)

    def _trial(
        self,
        settings: Settings,
        number: int,
        folder: Path,
        start_s: float,
        metrics: Mapping[str, float] | None,
        details: Mapping[str, Any],
        failure: str | None = None,
        message: str | None = None,
    ) -> Trial:
        return Trial(
            settings,
            metrics,
            failure,
            message,
            "hardware",
            number,
            "validate",
            time.monotonic() - start_s,
            {**details, "order": len(self._known), "folder": str(folder.relative_to(self._study.folder))},
        )


def _shown(settings: Settings) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items()) or DEFAULT


def _check_identity(study: Study, run: Run) -> None:
    """Runs of another model or vLLM cannot be compared with new ones."""
    for trial in study.trials("hardware"):
        for name, value in run.identity().items():
            if trial.details.get(name) != value:
                raise InputError(
                    f"{study.folder}: measured with {name} {trial.details.get(name)}, now it is {value}; validate with "
                    "the same, or tune again in a new folder"
                )


def concluded_from(study: Study, task: Task) -> Validation:
    """What the runs that are in the study say."""
    found = compared(study)
    return Validation(study.folder, task, tuple(found), decide(found, task.objective))


def _concluded(study: Study, task: Task) -> Validation:
    validation = concluded_from(study, task)
    if validation.verdict:
        study.write_best(_best_yaml(validation, validation.verdict))
    return validation


def _best_yaml(validation: Validation, verdict: Verdict) -> str:
    asked, one = validation.task.asked, verdict.recommended
    comments = [
        f"recommended by slotune {asked.versions.slotune} after {len(one.runs)} runs on the engine",
        verdict.sentence,
        f"trace {asked.trace}" + (f" at {asked.rate:g} requests/s" if asked.rate else ""),
    ]
    return vllm_yaml(deployed(validation.task.profile, one.settings), validation.task.profile.engine.model, comments)


def require_targets(validation: Validation) -> None:
    """Raise EngineError where nothing ran, InfeasibleError where no measured configuration meets the targets."""
    if validation.verdict is None:
        first = next(trial for one in validation.found for trial in one.failures)
        raise EngineError(
            f"no configuration ran on the engine; the first failed, {first.failure}: {first.message}", "none"
        )
    if not validation.verdict.meets_targets:
        raise InfeasibleError(f"{validation.verdict.sentence} Allow more, lower --rate, or plan for more replicas.")
