"""One configuration on the real engine: started, warmed up, driven with the trace, ended; its metrics are the result.

The metrics are computed by the code that computes a simulation's, from the times the client saw.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineError, InputError
from ..profiler.devices import gpus, processor
from ..profiler.launch import Launch
from ..profiler.load import Call, LoadResult, replay, send
from ..profiler.model_folder import read_model_folder
from ..profiler.profile import Profile
from ..profiler.prompts import random_tokens
from ..profiler.recording import StepTail
from ..profiler.server import DEATH_S, Server, running_server
from ..simulator.metrics import summarise
from ..simulator.steps import StepRecord
from ..traces.trace import Trace
from .deployment import deployed
from .run_speed import run_speed

WARM_UP_REQUESTS = 4
WARM_UP_OUTPUT_TOKENS = 8
UNKNOWN_VOCABULARY = 32000
"""For a model on a hub, whose config is not at hand: no widely used model has fewer tokens."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run gave, and what is worth keeping beside it."""

    metrics: Mapping[str, float]
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class EngineRun:
    """Everything that all runs of a validation share."""

    launch: Launch
    profile: Profile
    model: str
    """A model folder or a name on a hub."""
    trace: Trace
    goodput: Mapping[str, float]
    percentiles: Sequence[float]
    max_concurrency: int | None = None
    seed: int = 0
    """Of the prompts' tokens; the same in all runs, so that all see the same requests."""

    def __call__(self, settings: Mapping[str, Any], folder: Path) -> Measured:
        """Run the trace on an engine with these settings; its log goes to `folder`.

        Raises EngineError where the engine does not start, dies, or answers nothing, InputError for a folder that is no
        model.
        """
        vocabulary = self._vocabulary()
        deployment = deployed(self.profile, settings)
        with running_server(self.launch, self.model, deployment, folder, record=True) as server:
            self._warm_up(server, vocabulary)
            assert server.steps_path is not None
            steps = StepTail(server.steps_path)
            steps.read()  # those of the warm-up
            result = replay(
                self.trace,
                server.base_url,
                server.model,
                vocabulary=vocabulary,
                seed=self.seed,
                max_concurrency=self.max_concurrency,
            )
            first_error = next(filter(None, result.errors), None)
            server.check(DEATH_S if first_error else 0.0)
        _check_answered(result)
        metrics = measured_metrics(result, self.goodput, self.percentiles)
        details = self._details(server) | self._speed(settings, steps.read()) | {"first_error": first_error}
        return Measured(metrics, details)

    def _speed(self, settings: Mapping[str, Any], records: Sequence[StepRecord]) -> dict[str, Any]:
        speed = run_speed(records, self.profile, settings, self.trace, self.percentiles, self.max_concurrency)
        return speed.as_dict() if speed else {}

    def identity(self) -> dict[str, Any]:
        """What must be the same in all runs that are compared."""
        devices = gpus()
        device = f"{devices[0].name}, driver {devices[0].driver}" if devices else processor()
        return {"model": self.model, "vllm_version": self.launch.version, "device": device}

    def _vocabulary(self) -> int:
        folder = read_model_folder(self.model)
        return folder.vocabulary if folder else UNKNOWN_VOCABULARY

    def _warm_up(self, server: Server, vocabulary: int) -> None:
        """A few requests that are not measured, of tokens that the trace does not have."""
        lengths = self.trace.input_tokens[:WARM_UP_REQUESTS].tolist()
        calls = [
            Call(random_tokens(length, vocabulary, (self.seed, 2, i)).tolist(), WARM_UP_OUTPUT_TOKENS)
            for i, length in enumerate(lengths)
        ]
        _, answers = send(calls, server.base_url, server.model)
        server.check()
        if all(answer.error for answer in answers):
            raise EngineError(f"the engine is up but answers nothing: {answers[0].error}", "no-answer")

    def _details(self, server: Server) -> dict[str, Any]:
        facts = {name: server.facts.get(name) for name in ("num_gpu_blocks", "block_size", "max_model_len", "dtype")}
        load = os.getloadavg()[0]
        return self.identity() | facts | {"engine_start_s": round(server.start_s, 1), "load_average": round(load, 2)}


def _check_answered(result: LoadResult) -> None:
    errors = [error for error in result.errors if error]
    if errors and len(errors) == len(result.errors):
        raise EngineError(f"no request of the trace was answered, the first because: {errors[0]}", "no-answer")


def measured_metrics(
    result: LoadResult, goodput: Mapping[str, float], percentiles: Sequence[float]
) -> dict[str, float]:
    """The metrics of a load run, as a simulation's."""
    return summarise(result.requests, result.gaps, goodput, percentiles)


def model_to_serve(given: str | None, profiled: str | None, profile: str) -> str:
    """The model to start: the given one or the profiled one.

    Raises InputError where neither is known, and for a folder that is no model.
    """
    if model := given or profiled:
        read_model_folder(model)
        return model
    raise InputError(f"profile {profile} does not say which model it was made with; give --model")
