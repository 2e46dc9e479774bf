"""Physics features of an engine step: what the step's rows cost, summed. Compiled; used by the step loop and the fit alike.

A row is (tokens computed now, context computed before). It is a decode row when it computes one token on top of a
context; every other row is a prefill row.
"""

import numpy as np
from numba import njit

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


@njit(cache=True, inline="always")
def add_row(totals, tokens, context):
    """Add one row to `totals`, a float64 array of length TOTALS."""
    if tokens == 1 and context > 0:
        totals[DECODE_ROWS] += 1.0
        totals[DECODE_CONTEXT] += context
    else:
        totals[PREFILL_TOKENS] += tokens
        totals[PREFILL_ROWS] += 1.0
        totals[PREFILL_WORK] += tokens * (context + (tokens + 1) / 2)
        totals[PREFILL_CONTEXT] += context
    totals[MAX_CONTEXT] = max(totals[MAX_CONTEXT], context)


@njit(cache=True)
def totals_of(tokens, context):
    """Totals of one step from its rows: two integer arrays of equal length."""
    totals = np.zeros(TOTALS)
    for row in range(len(tokens)):
        add_row(totals, tokens[row], context[row])
    return totals
