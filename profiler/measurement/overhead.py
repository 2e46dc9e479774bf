"""What a request spends outside the engine's steps, from the clocks of the client and of the engine, which are one."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from ...simulator.steps import StepRecord
from ...simulator.timing import Overhead
from ..engine.load import Answer, Call

ENOUGH_STAIRCASES = 10
"""To tell where 8 of 10 lie."""


@dataclass(frozen=True, slots=True)
class Passages:
    """Ways of requests into an idle engine, and of tokens out of it."""

    before: list[tuple[int, float]]
    """(prompt tokens, seconds from the POST to the start of the request's first step)."""
    after: list[float]
    """Seconds from the end of the step that made a token to the client's chunk."""


def passages(calls: Sequence[Call], answers: Sequence[Answer], records: Sequence[StepRecord]) -> Passages:
    """What one staircase tells: requests that found the engine idle, and every token."""
    steps_of: dict[str, list[tuple[StepRecord, int]]] = defaultdict(list)
    for record in records:
        for name, tokens, context in record.rows:
            steps_of[name].append((record, tokens + context))
    ends = np.array([record.end_s for record in records])
    found = Passages([], [])
    for call, answer in zip(calls, answers, strict=True):
        mine = steps_of.get(call.name)
        if not mine or answer.error is not None:
            continue
        first = mine[0][0]
        if not ((ends < first.end_s) & (ends > answer.sent)).any() and first.start_s > answer.sent:
            found.before.append((len(call.prompt), first.start_s - answer.sent))
        made = [record.end_s for record, computed in mine if computed >= len(call.prompt)]
        if len(made) == len(answer.chunks):  # else a busy server put several tokens into a chunk, or it was broken off
            found.after.extend(np.subtract(answer.chunks, made).tolist())
    return found


def _ways_out_s(parts: Sequence[Passages]) -> list[float]:
    """The median way out of each staircase, in seconds."""
    return [float(np.median(part.after)) for part in parts if part.after]


def ways_out_note(parts: Sequence[Passages]) -> str | None:
    """How far the ways out lie apart from staircase to staircase, as they do on a busy machine; None of too few."""
    ways_ms = [1e3 * way_s for way_s in _ways_out_s(parts)]
    if len(ways_ms) < ENOUGH_STAIRCASES:
        return None
    low, middle, high = np.percentile(ways_ms, (10, 50, 90))
    return (
        f"a token took {middle:.3g} ms from the end of its step to the client, {low:.3g} to {high:.3g} in 8 of 10 "
        "staircases (groups of requests): every TTFT and E2E includes that"
    )


def fit_overhead(parts: Sequence[Passages]) -> Overhead:
    """Non-negative least absolute deviations on the ways in, the median over staircases of the ways out; 0 where
    nothing is known.

    Not the median over tokens: most of them come from the staircases with the most requests, and where these keep a
    busy machine's front end waiting, its backlog would be taken for the way.
    """
    before = np.array([way for part in parts for way in part.before]).reshape(-1, 2)
    ways_s = _ways_out_s(parts)
    after_s = max(0.0, float(np.median(ways_s))) if ways_s else 0.0
    if not len(before):
        return Overhead(after_s=after_s)
    columns = np.column_stack([np.ones(len(before)), before[:, 0]])
    weights = np.ones(len(before))
    solution = np.zeros(2)
    for _ in range(20):  # iteratively reweighted: stalls must not bend it
        rooted = np.sqrt(weights)
        solution, _ = nnls(columns * rooted[:, None], before[:, 1] * rooted)
        weights = 1 / np.maximum(np.abs(columns @ solution - before[:, 1]), 1e-5)
    return Overhead(before_s=float(solution[0]), before_token_s=float(solution[1]), after_s=after_s)
