"""A configuration run in the simulator; one that cannot run is a result, not an error."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .. import compile_cache
from ..arrays import I64
from ..errors import InputError
from ..profiler.profile import WHATEVER_MEMORY, Profile
from ..simulator.api_server import busy_share
from ..simulator.metrics import summarise
from ..simulator.misses import answers_cut
from ..simulator.policy_names import DEFAULT_POLICY
from ..simulator.request_table import RequestTable
from ..simulator.settings import Settings
from ..simulator.simulation import SimulationResult, simulate
from ..simulator.step_time import FAR, OUTSIDE
from ..simulator.timing import AS_TOLD, Pace
from ..traces.trace import Trace
from ..traces.transform import head
from .traffic.growth import engine_growth
from .traffic.warm import judged_requests

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run: metrics, or a failure with its reason."""

    metrics: Mapping[str, float] | None
    failure: str | None = None
    message: str | None = None
    duration_s: float = 0.0
    """Wall time of the run itself."""


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """Replays the trace in the simulator under the settings it is called with."""

    profile: Profile
    trace: Trace
    goodput: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds by metric: what a good request keeps."""
    policy: str = DEFAULT_POLICY
    max_concurrency: int | None = None
    seed: int = 0
    percentiles: tuple[float, ...] = ()
    """Further ones to report, as targets name them."""
    pace: Pace = AS_TOLD
    cold: int = 0
    """Requests at the trace's beginning that warm the caches and are not judged (traffic/warm.py)."""

    def compile(self) -> None:
        """Run two requests, so that the step loop is compiled: once on a machine, whoever else does the same."""
        with compile_cache.taking_turns(os.environ, PACKAGE, self.policy):
            replace(self, trace=head(self.trace, 2))(WHATEVER_MEMORY)

    def __call__(self, settings: Settings) -> Outcome:
        start_s = time.perf_counter()
        try:
            result = self._result(settings)
        except InputError as error:
            return Outcome(None, "refused", str(error))
        metrics = judged(result, self.trace, self.cold, self.goodput, self.percentiles)
        return Outcome(metrics, duration_s=time.perf_counter() - start_s)

    def _result(self, settings: Settings) -> SimulationResult:
        return simulate(
            self.trace,
            self.profile.engine_config(settings),
            self.profile.timing(settings).at(self.pace),
            policy=self.policy,
            seed=self.seed,
            max_concurrency=self.max_concurrency,
            cold=self.cold,
        )


def judged(
    result: SimulationResult, trace: Trace, cold: int, goodput: Mapping[str, float], percentiles: Iterable[float]
) -> dict[str, float]:
    """The metrics of the requests of `trace` after the `cold` ones that it was simulated with, and `trust_shares`."""
    requests = judged_requests(cold, result.requests)
    metrics = summarise(requests, result.gaps, goodput, percentiles)
    return metrics | trust_shares(result, requests, trace.output_tokens[cold:], metrics["duration"])


def trust_shares(
    result: SimulationResult, requests: RequestTable, asked_tokens: npt.NDArray[np.int32], duration_s: float
) -> dict[str, float]:
    """Figures that tell how far to believe a run's metrics.

    `requests` are those that are judged, `duration_s` how long they took in all (seconds), `asked_tokens` the output
    tokens that the trace asks of each. The shares of extrapolated steps and of what piled up are of the whole run.
    """
    return {
        **extrapolated(result.reaches),
        "api_server_share": busy_share(requests, result.gaps, duration_s),
        "answers_cut": answers_cut(requests, asked_tokens),
        "piled_up_share": min(max(engine_growth(result), 0.0), 1.0),
    }


def extrapolated(reaches: I64) -> dict[str, float]:
    """The shares outside of what was measured of all steps and of those with a prefill, since few of the former may be
    all of a TTFT; and the larger share of those so far outside that nothing tells their error."""
    shares = np.array([reaches.sum(axis=0), reaches[1]]) / np.maximum([[reaches.sum()], [reaches[1].sum()]], 1)
    return {
        "extrapolated_share": float(shares[0, OUTSIDE:].sum()),
        "extrapolated_prefill_share": float(shares[1, OUTSIDE:].sum()),
        "far_share": float(shares[:, FAR].max()),
    }


RunAll = Callable[[Iterable[Settings]], Iterator[Outcome]]
"""Runs many configurations; outcomes come in the order of the settings, each when it and those before are done."""
