"""One configuration on the real engine: started, warmed up, driven with the trace, ended; its metrics are the result.

The metrics are computed by the code that computes a simulation's, from the times the client saw.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EngineError, InputError
from ...profiler.engine.devices import gpus, processor
from ...profiler.engine.launch import Launch
from ...profiler.engine.load import Call, replay, send
from ...profiler.engine.prompts import random_tokens
from ...profiler.engine.server import DEATH_S, Server, running_server
from ...profiler.measurement.recording import StepTail
from ...profiler.model_folder import lasting_name, read_model_folder, vocabulary_of
from ...simulator.metrics import summarise
from ..evaluate import SimulatedRun
from ..study.deployment import deployed
from .run_speed import run_speed

WARM_UP_REQUESTS = 4
WARM_UP_OUTPUT_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run gave, and what is worth keeping beside it."""

    metrics: Mapping[str, float]
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class EngineRun:
    """Everything that all runs of a validation share."""

    launch: Launch
    model: str
    """A model folder or a name on a hub."""
    simulated: SimulatedRun
    """The run that predicts this one. Its seed is that of the prompts' tokens too: all runs see the same requests."""

    def __call__(self, settings: Mapping[str, Any], folder: Path) -> Measured:
        """Run the trace on an engine with these settings; its log goes to `folder`.

        Raises EngineError where the engine does not start, dies, or answers nothing, InputError for a folder that is no
        model.
        """
        vocabulary = vocabulary_of(self.model)
        deployment = deployed(self.simulated.profile, settings)
        with running_server(self.launch, self.model, deployment, folder, record=True) as server:
            self._warm_up(server, vocabulary)
            assert server.steps_path is not None
            steps = StepTail(server.steps_path)
            steps.read()  # those of the warm-up
            result = replay(
                self.simulated.trace,
                server.base_url,
                server.model,
                vocabulary=vocabulary,
                seed=self.simulated.seed,
                max_concurrency=self.simulated.max_concurrency,
            )
            first_error = next(filter(None, result.errors), None)
            server.check(DEATH_S if first_error else 0.0)
        if first_error and all(result.errors):
            raise EngineError(f"no request of the trace was answered, the first because: {first_error}", "no-answer")
        metrics = summarise(result.requests, result.gaps, self.simulated.goodput, self.simulated.percentiles)
        speed = run_speed(steps.read(), self.simulated, dict(settings))
        details = self._details(server) | (speed.as_dict() if speed else {}) | {"first_error": first_error}
        return Measured(metrics, details)

    def identity(self) -> dict[str, Any]:
        """What must be the same in all runs that are compared."""
        devices = gpus()
        device = f"{devices[0].name}, driver {devices[0].driver}" if devices else processor()
        return {"model": self.model, "vllm_version": self.launch.version, "device": device}

    def _warm_up(self, server: Server, vocabulary: int) -> None:
        """A few requests that are not measured, of tokens that the trace does not have."""
        trace, seed = self.simulated.trace, self.simulated.seed
        calls = [
            Call(
                random_tokens(int(trace.input_tokens[i]), vocabulary, (seed, 2, i)).tolist(),
                min(WARM_UP_OUTPUT_TOKENS, int(trace.output_tokens[i])),
            )
            for i in range(min(WARM_UP_REQUESTS, len(trace)))
        ]
        _, answers = send(calls, server.base_url, server.model)
        server.check()
        if all(answer.error for answer in answers):
            raise EngineError(f"the engine is up but answers nothing: {answers[0].error}", "no-answer")

    def _details(self, server: Server) -> dict[str, Any]:
        facts = {name: server.facts.get(name) for name in ("num_gpu_blocks", "block_size", "max_model_len", "dtype")}
        load = os.getloadavg()[0]
        return self.identity() | facts | {"engine_start_s": round(server.start_s, 1), "load_average": round(load, 2)}


def model_to_serve(given: str | None, profiled: str | None, profile: str) -> str:
    """The model to start: the given one or the profiled one.

    Raises InputError where neither is known, and for a folder that is no model.
    """
    if model := given or profiled:
        read_model_folder(model)
        return lasting_name(model)
    raise InputError(f"profile {profile} does not say which model it was made with; give --model")
