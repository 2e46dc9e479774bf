"""What a study works on, loaded: from the words that were asked to a profile, a trace, an objective and a space."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, SlotuneError
from ...profiler.profile import KERNEL_BLOCK, WHATEVER_MEMORY, Profile
from ...profiler.profile_folder import PARTS, load_profile, profile_folder
from ...release import own_version
from ...simulator.engine_config import EngineConfig
from ...simulator.policy_names import disobeyed
from ...simulator.settings import Settings
from ...simulator.slo import Slo, parse_slo
from ...traces.read import read_trace, trace_file
from ...traces.trace import Trace
from ...traces.transform import at_rate
from ..evaluate import SimulatedRun
from ..objective import Objective, parse_goal
from .space import SearchSpace, build_space
from .study import Asked, Versions


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Everything a search or a validation needs."""

    asked: Asked
    profile: Profile
    trace: Trace
    """At the asked rate."""
    objective: Objective
    default: EngineConfig
    """What the fixed settings resolve to; its num_gpu_blocks is not the engine's where the engine would not start."""
    space: SearchSpace

    @property
    def model(self) -> str | None:
        """What is deployed: the model that was asked for or the profile's; None where neither is named."""
        return self.asked.model or self.profile.engine.model

    @property
    def speculative_config(self) -> Mapping[str, Any] | None:
        """What drafts under all settings that are tried, be it the profile's own; None where nothing does."""
        config: Mapping[str, Any] | None = {**self.profile.defaults, **self.asked.engine}.get("speculative_config")
        return config

    def simulated(self) -> SimulatedRun:
        """Runs settings on this task's trace in the simulator."""
        return SimulatedRun(
            self.profile,
            self.trace,
            self.asked.goodput,
            self.asked.policy,
            self.asked.max_concurrency,
            seed=self.asked.seed,
            percentiles=self.objective.percentiles,
        )

    def resolved(self, settings: Mapping[str, Any]) -> Settings:
        """The settings with what the engine takes for every knob that they do not name, given the others.

        For settings that it refuses, the default's.
        """
        knobs = {knob.name: knob.default for knob in self.space.knobs}
        engine = self.profile.engine_or_none(settings)
        return {name: getattr(engine, name, default) for name, default in knobs.items()} | dict(settings)

    def refuses(self, settings: Mapping[str, Any]) -> bool:
        """Whether the profile knows that the engine would not start with these settings."""
        return self.profile.engine_or_none(settings) is None


def ask(
    profile: str, trace: str, *, slos: Sequence[Slo] = (), engine: Mapping[str, Any] | None = None, **others: Any
) -> Asked:
    """What a study is asked, with the digests of what it reads. Raises InputError for anything that cannot be read.

    `others` are further fields of Asked. A model in `engine` is no setting that is simulated: it is kept apart.
    """
    settings = dict(engine or {})
    model = settings.pop("model", None)
    load_profile(profile)
    return Asked(
        profile=_absolute(profile, profile_folder(profile)),
        profile_digest=profile_digest(profile),
        trace=_absolute(trace, trace_file(trace)),
        trace_digest=trace_digest(read_trace(trace)),
        engine=settings,
        model=model,
        slos=tuple(str(slo) for slo in slos),
        versions=Versions(slotune=own_version(), smac=version("smac"), python=platform.python_version()),
        **others,
    )


def profile_of(asked: Asked) -> Profile:
    """Load the profile that was asked for. Raises InputError for one that is gone or changed."""
    if profile_folder(asked.profile) is None:
        raise InputError(
            f"{asked.profile}: the study's profile is not there any more: move it back, or tell the study its new "
            "place by `slotune tune` with the new --profile and all else as it was"
        )
    profile = load_profile(asked.profile)
    if profile_digest(asked.profile) != asked.profile_digest:
        raise InputError(f"{asked.profile}: the profile changed since this study was made; tune again in a new folder")
    return profile


def load_task(asked: Asked) -> Task:
    """Load what was asked. Raises InputError for targets without sense, and for a profile or trace that changed."""
    profile, trace = profile_of(asked), read_trace(asked.trace)
    if trace_digest(trace) != asked.trace_digest:
        raise InputError(f"{asked.trace}: the trace changed since this study was made; tune again in a new folder")
    default = profile.engine_config(WHATEVER_MEMORY | asked.engine)
    return Task(
        asked,
        profile,
        at_rate(trace, asked.rate, asked.seed),
        objective_of(asked),
        default,
        build_space(
            default,
            asked.engine,
            made_with=profile.defaults,
            fixed_cache=profile.kv is None or profile.kv.total_bytes is None,
            without_effect=disobeyed(asked.policy) | _kept(profile),
            reach=(profile.step.most("tokens"), profile.step.most("decode_rows")),
        ),
    )


def _kept(profile: Profile) -> set[str]:
    """Of an engine on a GPU that has larger blocks than vLLM's default, their size: its attention kernels may read no
    smaller ones."""
    return {"block_size"} if profile.on_gpu and profile.defaults.get("block_size", 0) > KERNEL_BLOCK else set()


def objective_of(asked: Asked) -> Objective:
    """Targets and goals as they were asked."""
    goals = [parse_goal(name, maximize=True) for name in asked.maximize]
    goals += [parse_goal(name, maximize=False) for name in asked.minimize]
    return Objective(tuple(parse_slo(text) for text in asked.slos), tuple(dict.fromkeys(goals)), dict(asked.goodput))


def trace_digest(trace: Trace) -> str:
    """SHA-256 over the trace's columns."""
    digest = hashlib.sha256()
    for name in ("arrival_s", "input_tokens", "output_tokens", "priority", "run_offsets", "run_name", "run_tokens"):
        digest.update(np.ascontiguousarray(getattr(trace, name)).tobytes())
    return digest.hexdigest()


def profile_digest(name_or_path: str) -> str:
    """SHA-256 over the files of a profile that was loaded before; what else lies in its folder does not matter."""
    folder = profile_folder(name_or_path)
    assert folder is not None
    digest = hashlib.sha256()
    try:
        for file in sorted(path for path in folder.iterdir() if path.name in PARTS):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    except OSError as error:
        raise SlotuneError(f"{folder}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _absolute(name_or_path: str, found: Path | None) -> str:
    """A path that holds from any working directory, where that is what was `found`; a bundled thing's name as it is."""
    path = Path(name_or_path)
    return str(path.resolve()) if found == path else name_or_path
