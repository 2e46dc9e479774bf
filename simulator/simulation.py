"""A simulation from a trace to what became of every request. SimPy owns the time between engines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays import F64, I8, I32, I64, Mask
from ..errors import InputError, unknown_name
from ..traces.content import block_content
from ..traces.trace import Trace
from . import state
from .clock import on_clock
from .engine_config import EngineConfig
from .metrics import Gaps
from .outage import Outage, planned
from .policy_names import DEFAULT_POLICY, POLICIES, ROUTERS, STATIC_ROUTERS
from .replica import Replica, StepSink
from .request_table import FAILED, FINISHED, NOWHERE, RequestTable
from .routing import make_router, static_choices
from .rules import rules_of
from .service import Service
from .timing import Overhead, Timing

ALL_ATTEMPTS = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class SimulationResult:
    """What a simulation tells."""

    requests: RequestTable
    gaps: Gaps
    """Of the requests that finished, without the cold ones and those of attempts that were lost."""
    reaches: I64
    """(2, REACHES): steps without and with a prefill, by how far they lie from what was measured (reach_of)."""

    @property
    def steps(self) -> int:
        """Steps made."""
        return int(self.reaches.sum())


def simulate(
    trace: Trace,
    engine: EngineConfig,
    timing: Timing,
    *,
    policy: str = DEFAULT_POLICY,
    replicas: int = 1,
    router: str = "round-robin",
    seed: int = 0,
    max_concurrency: int | None = None,
    outages: Sequence[Outage] = (),
    cold: int = 0,
    steps_out: StepSink | None = None,
) -> SimulationResult:
    """Serve `trace` on `replicas` engines and return what happened.

    `max_concurrency` closes the loop: a client with so many requests under way waits for an answer. `outages` take
    replicas away for a time; what they had is sent to others. The first `cold` requests only warm the caches: their
    gaps do not count.
    `steps_out` is called with a replica whenever its log of steps must be emptied (see step_writer.py).
    Same arguments, same result. Raises InputError for an empty trace, arrivals that are not in order, requests without
    tokens, an unknown policy or router, fewer replicas or places than one, an outage of a replica that there is not,
    and drafts or pipeline stages under another policy than vLLM's.
    """
    _check_trace(trace)
    _check_policy(policy, engine)
    if router not in ROUTERS:
        raise unknown_name("router", router, ROUTERS)
    for name, least in (("replicas", replicas), ("max_concurrency", max_concurrency)):
        if least is not None and least < 1:
            raise InputError(f"{name}={least}: must be at least 1")

    asked = _Asked(trace, engine, timing, policy, replicas, router, seed, max_concurrency, outages)
    not_judged = np.where(np.arange(len(trace)) < cold, ALL_ATTEMPTS, 0)
    served = _served(asked, not_judged, steps_out)
    gaps, vain = served.gaps(), served.attempts_in_vain()
    if (vain > not_judged).any():  # which they are is known now: once more, without their gaps
        gaps = _served(asked, np.maximum(vain, not_judged), None).gaps()
    return _result(trace, served, gaps, timing.overhead)


def _check_trace(trace: Trace) -> None:
    """Readers and generators hold to this; a trace that somebody put together may not."""
    if len(trace) == 0:
        raise InputError("the trace holds no requests")
    arrival_s = trace.arrival_s
    if not (np.isfinite(arrival_s).all() and arrival_s[0] >= 0 and (np.diff(arrival_s) >= 0).all()):
        raise InputError("the trace's arrivals must be finite, not negative and in order")
    if min(trace.input_tokens.min(), trace.output_tokens.min()) < 1:
        raise InputError("the trace holds a request without prompt or output tokens")


def _check_policy(policy: str, engine: EngineConfig) -> None:
    if policy not in POLICIES:
        raise unknown_name("policy", policy, POLICIES)
    if policy == DEFAULT_POLICY:
        return
    if engine.speculative_config:
        raise InputError(f"speculative_config: the {policy} policy drafts nothing; use {DEFAULT_POLICY}")
    if engine.pipeline_parallel_size > 1:
        told = f"the {policy} policy has no steps in several stages; use {DEFAULT_POLICY}"
        raise InputError(f"pipeline_parallel_size: {told}")


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """What is to be served, and how: the arguments of `simulate`."""

    trace: Trace
    engine: EngineConfig
    timing: Timing
    policy: str
    replicas: int
    router: str
    seed: int
    max_concurrency: int | None
    outages: Sequence[Outage]


@dataclass(frozen=True, slots=True, eq=False)
class _Served:
    """A fleet that has served everything."""

    fleet: list[Replica]
    sent_s: F64
    placed: I64
    losses: I64
    """How often each request was lost with its replica."""
    lost: Mask
    """Which requests have failed for that."""

    def attempts_in_vain(self) -> I64:
        """Of each request, how many attempts, from the first on, may have sent tokens and gave no whole answer."""
        requests = self.fleet[0].engine.requests
        failed = requests.status == FAILED
        return np.where((self.losses > 0) | (failed & (requests.sent > 0)), self.losses + failed, 0)

    def gaps(self) -> Gaps:
        """All inter-token latencies."""
        pieces = np.concatenate([piece for replica in self.fleet for piece in replica.gaps()])
        return Gaps(pieces["gap_s"], pieces["count"])


def _served(asked: _Asked, vain: I64, sink: StepSink | None) -> _Served:
    """Serve the trace on a fleet that is made for as many requests as may go to each replica."""
    rng, replicas, requests = np.random.default_rng(asked.seed), asked.replicas, len(asked.trace)
    sent_s, losses, lost = np.array(asked.trace.arrival_s), np.zeros(requests, np.int64), np.zeros(requests, np.bool_)
    if asked.max_concurrency is None and not asked.outages and (replicas == 1 or asked.router in STATIC_ROUTERS):
        placed = static_choices(asked.router, requests, replicas, rng)
        fleet = _fleet(asked, vain, sink, np.bincount(placed, minlength=replicas))
        _run_apart(fleet, placed)
    else:
        placed = np.full(requests, NOWHERE)
        fleet = _fleet(asked, vain, sink, np.full(replicas, requests))
        choose, places, plan = make_router(asked.router, rng), asked.max_concurrency, planned(asked.outages, replicas)
        service = Service(fleet, choose, asked.timing.overhead, sent_s, placed, places or math.inf, plan)
        losses, lost = service.run(), service.lost
    return _Served(fleet, sent_s, placed, losses, lost)


def _fleet(asked: _Asked, vain: I64, sink: StepSink | None, shares: I64) -> list[Replica]:
    """The replicas that get a share of the requests; `vain` is a column of REQUEST (state.py)."""
    trace, engine, timing = asked.trace, asked.engine, asked.timing
    rules = rules_of(engine, asked.policy)
    shared, columns = _contents_of(trace, engine, bool(rules[0].caching))
    accepted, first_accepted = _accepted_of(trace, engine, asked.seed)
    columns |= first_accepted | {"vain": vain}
    requests = _requests_of(trace, timing.overhead, columns, bool(rules[0].by_priority))
    stages = engine.pipeline_parallel_size
    used = np.flatnonzero(shares)
    engines = state.new_engines(rules, requests, shared, accepted, stages, sink is not None, shares[used])
    return [Replica(index, one, timing.step, sink) for index, one in zip(used.tolist(), engines, strict=True)]


def _requests_of(trace: Trace, overhead: Overhead, contents: dict[str, I64], by_priority: bool) -> state.Records:
    ready_s = on_clock(trace.arrival_s + overhead.before_s + overhead.before_token_s * trace.input_tokens)
    rank = np.arange(len(trace))
    if by_priority:
        names = rank.copy() if trace.request_id is None else np.array(trace.request_id)  # unnamed: as they are sent
        rank[np.lexsort((names, trace.arrival_s, trace.priority))] = np.arange(len(trace))
    return state.new_requests(
        prompt=trace.input_tokens,
        max_tokens=trace.output_tokens,
        priority=trace.priority,
        rank=rank,
        stamp_s=trace.arrival_s,
        ready_s=ready_s,
        **contents,
    )


def _contents_of(trace: Trace, engine: EngineConfig, caching: bool) -> tuple[I32, dict[str, I64]]:
    """Shared contents, and where those of each request lie; nothing where nothing is cached."""
    if not caching:
        return np.zeros(0, np.int32), {}
    speculation = engine.speculative_config
    lookahead = speculation.hash_lookahead(engine.version_rules) if speculation else 0
    shared = block_content(trace, engine.block_size, lookahead)
    lengths = np.minimum(trace.input_tokens.astype(np.int64) + trace.output_tokens, engine.max_model_len)
    ends = shared.shared_count + np.cumsum(lengths // engine.block_size + 1)
    columns = {
        "shared_start": shared.offsets[:-1],
        "shared_count": np.diff(shared.offsets),
        "private_content": np.concatenate(([shared.shared_count], ends[:-1])),
    }
    return shared.ids, columns


def _accepted_of(trace: Trace, engine: EngineConfig, seed: int) -> tuple[I8, dict[str, I64]]:
    """Drafts accepted at each output token, and where those of each request begin; nothing without speculation."""
    if engine.speculative_config is None:
        return np.zeros(0, np.int8), {}
    output_tokens = trace.output_tokens.astype(np.int64)
    first = np.concatenate(([0], np.cumsum(output_tokens)[:-1]))
    return engine.speculative_config.accepted(output_tokens, seed), {"first_accepted": first}


def _run_apart(fleet: list[Replica], placed: I64) -> None:
    """Replicas that nothing couples: each runs to its end in one go."""
    for replica in fleet:
        replica.send_all(np.flatnonzero(placed == replica.index))
        replica.advance(np.inf, len(replica.engine.ended) + 1)


def _result(trace: Trace, served: _Served, gaps: Gaps, overhead: Overhead) -> SimulationResult:
    requests = served.fleet[0].engine.requests
    assert (requests.status >= FINISHED).all(), "a request has not ended"
    table = RequestTable(
        arrival_s=served.sent_s,
        prompt_tokens=requests.prompt.copy(),
        output_tokens=requests.known - requests.prompt,
        cached_tokens=np.maximum(requests.cached, 0),
        first_token_s=requests.first_token_s + overhead.after_s,
        finish_s=np.where(requests.status == FINISHED, requests.finish_s + overhead.after_s, np.nan),
        preemptions=requests.preemptions.copy(),
        replica=served.placed,
        status=requests.status.copy(),
        request_id=trace.request_id,
        failed_s=requests.finish_s + overhead.after_s,
        lost=served.lost,
    )
    return SimulationResult(
        requests=table,
        gaps=gaps,
        reaches=np.sum([replica.engine.reaches for replica in served.fleet], axis=0),
    )
