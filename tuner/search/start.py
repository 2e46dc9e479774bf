"""The first configurations besides the default: a budget as Sarathi-Serve chooses it, plain ones, a Sobol design."""

import math

import numpy as np
from scipy.stats import qmc

from ...arrays import F64
from ...simulator.engine_config import EngineConfig
from ...simulator.features import totals_of
from ...simulator.slo import BETWEEN_TOKENS
from ...simulator.step_time import new_memo, step_time_s
from ...simulator.timing import Timing
from ...traces.stats import request_rate
from ...traces.trace import Trace
from ..objective import Objective
from ..study.space import SearchSpace
from .candidates import Candidates

PLAIN_BUDGETS = (4096, 2048, 1024, 512)
"""Powers of two below the default of a GPU, down to where steps are all overhead."""


def between_token_limit_s(objective: Objective) -> float | None:
    """The tightest target on the time between two tokens, or None."""
    limits = [slo.limit_ms for slo in objective.limits if slo.metric in BETWEEN_TOKENS]
    limits += [ms for metric, ms in objective.goodput.items() if metric in BETWEEN_TOKENS]
    return min(limits) / 1000 if limits else None


def largest_budget(space: SearchSpace) -> F64:
    """The default with the largest token budget: what Sarathi-Serve's rule comes to where nothing limits a step. With
    long prompts and a small default more is better up to there, which suggestions that change several knobs at once
    seldom show."""
    return space.vector({"max_num_batched_tokens": space.knob("max_num_batched_tokens").values[-1]})


def plain_budgets(space: SearchSpace) -> list[F64]:
    """The default with each of PLAIN_BUDGETS that the space has: in a Sobol design, whose points change every knob at
    once, what one budget does alone is not to be seen, and it is often most of what there is to gain."""
    values = space.knob("max_num_batched_tokens").values
    return [
        space.vector({"max_num_batched_tokens": budget, "max_num_seqs": _seqs_within(space, budget)})
        for budget in PLAIN_BUDGETS
        if budget in values
    ]


def sarathi_budget(
    space: SearchSpace, default: EngineConfig, timing: Timing, trace: Trace, limit_s: float
) -> F64 | None:
    """The configuration with the largest token budget whose fullest step stays within `limit_s`; None if none does.

    The step holds as many decodes as Little's law puts in flight at that pace, each on a mean context, and a prefill
    chunk in the rest of the budget. Source: Sarathi-Serve (arXiv 2403.02310), section 4.3, "Determining token budget".
    """
    decodes = min(expected_decodes(trace, limit_s), default.max_num_seqs)
    context = int(trace.input_tokens.mean() + trace.output_tokens.mean() / 2)
    for budget in reversed(space.knob("max_num_batched_tokens").values):
        vector = space.vector({"max_num_batched_tokens": budget, "max_num_seqs": _seqs_within(space, budget)})
        if full_step_s(timing, budget, decodes, context) <= limit_s and space.is_allowed(vector):
            return vector
    return None


def expected_decodes(trace: Trace, between_tokens_s: float) -> int:
    """Requests that decode at once on average, were each token to take `between_tokens_s`: Little's law."""
    rate = request_rate(trace)
    rate = float(len(trace)) if math.isnan(rate) else rate
    return max(1, round(rate * float(trace.output_tokens.mean()) * between_tokens_s))


def full_step_s(timing: Timing, budget: int, decodes: int, context: int) -> float:
    """Seconds of a step of `decodes` decode rows, each on a mean context, and a prompt's first chunk that fills the
    rest of the budget."""
    riding = min(decodes, budget - 1)
    tokens = np.array([1] * riding + [budget - riding])
    contexts = np.array([context] * riding + [0])
    return float(step_time_s(timing.step, totals_of(tokens, contexts), new_memo(timing.step)))


def _seqs_within(space: SearchSpace, budget: int) -> int:
    """The default max_num_seqs, or the largest that the budget allows."""
    seqs = space.knob("max_num_seqs")
    return int(max((v for v in seqs.values if v <= min(budget, seqs.default)), default=seqs.values[0]))


def sobol_design(candidates: Candidates, count: int, seed: int) -> list[F64]:
    """`count` new configurations spread over the space; points that break a constraint are mended, or replaced."""
    sizes = candidates.space.sizes()
    sampler = qmc.Sobol(len(sizes), scramble=True, rng=np.random.default_rng(seed))
    points = np.floor(sampler.random(max(64, 16 * 2 ** (count - 1).bit_length())) * sizes)
    chosen: list[F64] = []
    for vector in candidates.accepted(candidates.legal(candidates.space.repaired(points))):
        if len(chosen) == count:
            break
        chosen.append(vector)
    return chosen
