"""Prompts for the real engine: token ids whose shared leading runs are those of a trace."""

import numpy as np

from ...arrays import I64
from ...traces.trace import Trace


def token_range(vocabulary: int) -> tuple[int, int]:
    """Ids that are ordinary words in practically every tokenizer: special ones sit at the ends."""
    margin = min(1000, vocabulary // 10)
    return margin, max(margin + 1, vocabulary - margin)


def prompt_tokens(trace: Trace, index: int, vocabulary: int, seed: int) -> I64:
    """Token ids of the prompt of request `index`.

    Runs of equal name have equal tokens, however long each is; the rest of the prompt is the request's own. Another
    seed gives other tokens throughout, so that a repeat on the same server finds nothing of the run before it in the
    prefix cache.
    """
    parts = []
    for run in range(int(trace.run_offsets[index]), int(trace.run_offsets[index + 1])):
        name = int(trace.run_name[run])
        key = (seed, 1, abs(name), int(name < 0))
        parts.append(random_tokens(int(trace.run_tokens[run]), vocabulary, key))
    rest = int(trace.input_tokens[index]) - sum(map(len, parts))
    parts.append(random_tokens(rest, vocabulary, (seed, 0, index)))
    return np.concatenate(parts)


def random_tokens(count: int, vocabulary: int, key: tuple[int, ...]) -> I64:
    """`count` token ids; the same key gives the same ids, and a longer draw begins with the shorter one."""
    low, high = token_range(vocabulary)
    return np.random.default_rng(key).integers(low, high, count)
