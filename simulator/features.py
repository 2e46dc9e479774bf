"""Physics features of an engine step: what its rows cost, summed. Compiled; used by the step loop and the fit alike.

A row is (tokens computed now, context computed before). It is a decode row when it computes one token on top of a
context, or with speculation one and no more than its drafts; every other row is a prefill row. To verify drafts the
dense layers and the sampler work on each, and the context is read once: so each counts as a decode row, without
context.

From the rows come the TOTALS, from the totals the PHYSICS: the terms of the non-negative linear baseline.
"""

import numpy as np

from .compiled import allocating, entry, inner

PREFILL_TOKENS = 0
"""Tokens of all prefill rows: the dense layers' work."""
PREFILL_ROWS = 1
PREFILL_WORK = 2
"""Sum over prefill rows of n * (c + (n + 1) / 2): query-key pairs, causal attention's work."""
PREFILL_CONTEXT = 3
"""Sum over prefill rows of c: KV tokens read."""
DECODE_ROWS = 4
DECODE_CONTEXT = 5
"""Sum over decode rows of c: KV tokens read, the memory-bound part of decoding."""
MAX_CONTEXT = 6
"""Longest context in the step: the straggler of the attention kernel."""
TOTALS = 7

CONSTANT = 7
"""1: launches, the scheduler, reading the weights."""
HAS_PREFILL = 8
"""1 if any prefill row: vLLM replays a full CUDA graph only for steps of decode rows alone."""
EAGER = 9
"""1 beyond the largest captured CUDA-graph size: every kernel is launched from Python."""
DENSE_TOKENS = 10
"""Tokens that the dense layers compute: padded up to the next captured CUDA-graph size, as they are beyond the last."""
MIXED_DECODE_ROWS = 11
"""DECODE_ROWS of a step that has prefill rows too."""
MIXED_DECODE_CONTEXT = 12
"""DECODE_CONTEXT of such a step: one attention kernel then serves all rows, with tiles made for the prefill, and
decodes cost more in it than in the kernel that they have to themselves (vllm/v1/attention/backends/flash_attn.py)."""
FIRST_KNEE = 13
"""max(0, DENSE_TOKENS - knee) for each of TOKEN_KNEES."""
TOKEN_KNEES = (64.0, 128.0, 256.0, 512.0, 1024.0)
"""Where a dense layer may turn from memory-bound (flat in tokens) to compute-bound (linear): non-negative weights on
these make any convex piecewise-linear curve, of which max(memory time, compute time) of the roofline model (Williams et
al., CACM 2009) is one. The fit chooses; GPUs turn between 100 and 500 tokens, CPUs earlier."""
FIRST_CAP = FIRST_KNEE + len(TOKEN_KNEES)
"""min(DENSE_TOKENS, cap) for each of TOKEN_CAPS."""
TOKEN_CAPS = (8.0, 32.0, 96.0)
"""Up to where a further token may read further weights: a mixture of experts reads those that any of its tokens chose,
n * (1 - (1 - k / n) ** tokens) of n experts where each token takes k of them at random, until it reads all. That is
concave, which no weights on the knees are. None is a knee: both together would be DENSE_TOKENS again."""
PHYSICS = FIRST_CAP + len(TOKEN_CAPS)

PHYSICS_NAMES = (
    "prefill_tokens",
    "prefill_rows",
    "prefill_work",
    "prefill_context",
    "decode_rows",
    "decode_context",
    "max_context",
    "constant",
    "has_prefill",
    "eager",
    "dense_tokens",
    "mixed_decode_rows",
    "mixed_decode_context",
    *(f"dense_tokens_over_{int(knee)}" for knee in TOKEN_KNEES),
    *(f"dense_tokens_up_to_{int(cap)}" for cap in TOKEN_CAPS),
)

DECODE_ONLY = 0
PREFILL_ONLY = 1
MIXED = 2
REGIME_NAMES = ("decode", "prefill", "mixed")

_KNEES = np.array(TOKEN_KNEES)
_CAPS = np.array(TOKEN_CAPS)


@entry
def add_row(totals, tokens, context, drafts):
    """Add one row, which may verify up to `drafts` drafts, to `totals`, a float64 array of length TOTALS."""
    if tokens <= 1 + drafts and context > 0:
        totals[DECODE_ROWS] += tokens
        totals[DECODE_CONTEXT] += context
    else:
        totals[PREFILL_TOKENS] += tokens
        totals[PREFILL_ROWS] += 1.0
        totals[PREFILL_WORK] += tokens * (context + (tokens + 1) / 2)
        totals[PREFILL_CONTEXT] += context
    totals[MAX_CONTEXT] = max(totals[MAX_CONTEXT], context)


@allocating
def totals_of(tokens, context, drafts=0):
    """Totals of one step from its rows: two integer arrays of equal length; `drafts` a decode may verify."""
    totals = np.zeros(TOTALS)
    for row in range(len(tokens)):
        add_row(totals, tokens[row], context[row], drafts)
    return totals


@entry
def regime_of(totals):
    """DECODE_ONLY, PREFILL_ONLY or MIXED."""
    if totals[PREFILL_ROWS] == 0.0:
        return DECODE_ONLY
    return PREFILL_ONLY if totals[DECODE_ROWS] == 0.0 else MIXED


@inner
def first_not_below(numbers, first, count, value):
    """How many of the `count` ascending numbers from place `first` on lie below the value."""
    low, high = 0, count
    while low < high:
        middle = (low + high) >> 1
        if numbers[first + middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@entry
def padded_tokens(sizes, first, count, tokens):
    """Tokens after padding to the next CUDA-graph size; unchanged beyond the largest or without any.

    The sizes are sizes[first : first + count], ascending. Source: vllm/config/vllm.py, _set_cudagraph_sizes.
    """
    if count == 0 or tokens > sizes[first + count - 1]:
        return tokens
    return sizes[first + first_not_below(sizes, first, count, tokens)]


@entry
def baseline_s(weights, first, totals, dense_tokens, eager):
    """Dot product of weights[first : first + PHYSICS] with the physics features of a step, without storing them."""
    time_s = weights[first + CONSTANT] + weights[first + DENSE_TOKENS] * dense_tokens
    for i in range(TOTALS):
        time_s += weights[first + i] * totals[i]
    if totals[PREFILL_ROWS] > 0.0:
        time_s += weights[first + HAS_PREFILL]
        time_s += weights[first + MIXED_DECODE_ROWS] * totals[DECODE_ROWS]
        time_s += weights[first + MIXED_DECODE_CONTEXT] * totals[DECODE_CONTEXT]
    if eager:
        time_s += weights[first + EAGER]
    for k in range(len(_KNEES)):
        if dense_tokens > _KNEES[k]:
            time_s += weights[first + FIRST_KNEE + k] * (dense_tokens - _KNEES[k])
    for k in range(len(_CAPS)):
        time_s += weights[first + FIRST_CAP + k] * min(dense_tokens, _CAPS[k])
    return time_s


@allocating
def physics_of(totals, graph_sizes):
    """Physics features, shape (steps, PHYSICS), of totals of shape (steps, TOTALS): column i is what weight i earns."""
    features = np.empty((len(totals), PHYSICS))
    ones = np.eye(PHYSICS).ravel()
    for step in range(len(totals)):
        tokens = totals[step, PREFILL_TOKENS] + totals[step, DECODE_ROWS]
        dense = padded_tokens(graph_sizes, 0, len(graph_sizes), tokens)
        eager = len(graph_sizes) > 0 and tokens > graph_sizes[-1]
        for i in range(PHYSICS):
            features[step, i] = baseline_s(ones, i * PHYSICS, totals[step], dense, eager)
    return features
