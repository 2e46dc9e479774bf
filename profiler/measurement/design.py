"""Which requests to send so that the engine takes steps of every kind.

Steps cannot be ordered one by one from outside; requests can. A `Staircase` is groups of requests, each
sent when the one before it has decoded a little, under a limit on the tokens of a step. On its way up it makes pure
prefill steps (the first group), mixtures (every later one, chunked by the limit) and pure decode steps of every batch
size it passes. Single prompts under a small limit give a chunk over all prior contexts; one large group of short
prompts gives steps of many prefill rows.

They are spread evenly over what can be asked for, batches and lengths in equal ratios: a scrambled Sobol sequence.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from ...arrays import F64
from ...simulator.features import totals_of

KV_SHARE = 0.9
"""Of the KV cache, at most: preempted requests would be computed twice, and measure nothing new."""
ANSWER_TOKENS = 64
"""Kept free behind a prompt, for what its request makes."""
MIN_PROMPT = 8
MIN_CAP = 16
DECODE_TOKENS = (3, 12)
"""Pure decode steps between groups, least and most."""
LONE, AT_ONCE, ONE_BY_ONE = 0.25, 0.45, 0.65
"""Shares of staircases, added up: a lone prompt; a batch that comes at once; one that comes one by one. In the rest
come groups, each as large as all before."""
MOST_SPREAD = 1.2
"""Of the log of the prompt lengths in a staircase: contexts in a batch of chat requests differ by as much, and
attention waits for the longest."""


@dataclass(frozen=True, slots=True)
class Space:
    """What the engine can do."""

    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int
    kv_tokens: int
    chunked: bool = True
    """Whether prompts may be computed in parts; where not, one that is longer than a step's limit never starts."""

    @property
    def usable_tokens(self) -> int:
        """Of the KV cache, those that a staircase may take."""
        return int(self.kv_tokens * KV_SHARE)

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt that may be sent."""
        return max(MIN_PROMPT, min(self.max_model_len - ANSWER_TOKENS, self.usable_tokens))


@dataclass(frozen=True, slots=True)
class Staircase:
    """A staircase of requests."""

    groups: tuple[tuple[int, ...], ...]
    """Prompt lengths of the requests that are sent together."""
    cap: int
    """Most tokens in a step; 0 for the engine's own limit."""
    decode_tokens: int
    """Tokens that a group makes before the next is sent, and the last before all end."""

    @property
    def prompts(self) -> list[int]:
        return [length for group in self.groups for length in group]


def possible(staircase: Staircase, space: Space) -> Staircase:
    """What the engine can take of it: prompts leave room for a token, and are not chunked where none may be."""
    longest = space.max_model_len - 1
    groups = tuple(tuple(min(length, longest) for length in group) for group in staircase.groups)
    return Staircase(groups, staircase.cap if space.chunked else 0, staircase.decode_tokens)


def draw(space: Space, count: int, seed: int) -> list[Staircase]:
    """`count` staircases spread over the space: scrambled Sobol points of (kind, cap, batch, prompt length, decode, how
    unequal the prompts are). Half of them have the engine's own limit as their cap: prompts are then computed whole."""
    points = qmc.Sobol(6, seed=seed).random(1 << max(0, (count - 1).bit_length()))[:count]
    return [possible(_staircase(space, point, index + seed * 1000), space) for index, point in enumerate(points)]


def _staircase(space: Space, point: F64, seed: int) -> Staircase:
    kind, cap_at, batch_at, length_at, decode_at, spread_at = point
    longest = space.longest_prompt
    cap = geometric_between(MIN_CAP, space.max_num_batched_tokens, min(1.0, 2 * cap_at))
    length = geometric_between(MIN_PROMPT, longest, length_at)
    if kind < LONE:
        return Staircase(((length,),), cap, 1)
    batch = geometric_between(1, space.max_num_seqs, batch_at)
    batch = max(1, min(batch, space.usable_tokens // (length + ANSWER_TOKENS)))
    rng = np.random.default_rng(seed)
    lengths = np.clip(length * rng.lognormal(0.0, MOST_SPREAD * spread_at, batch), MIN_PROMPT, longest).astype(int)
    held = np.cumsum(lengths + ANSWER_TOKENS)
    lengths = lengths[held <= max(space.usable_tokens, held[0])].tolist()
    batch = len(lengths)
    sizes = [batch] if kind < AT_ONCE else _stairs(batch, single=kind < ONE_BY_ONE)
    cap = max(cap, min(2 * batch, space.max_num_batched_tokens))
    return Staircase(_split(lengths, sizes), cap, geometric_between(*DECODE_TOKENS, decode_at))


def geometric_between(low: int, high: int, share: float) -> int:
    """The whole number that lies at `share` (0 to 1) of the way from `low` to `high`, evenly in logarithms."""
    return round(float(low * (max(high, low) / low) ** share))


def _stairs(batch: int, single: bool) -> list[int]:
    """Group sizes: one at a time, or each as large as all before it."""
    if single:
        return [1] * batch
    sizes, total = [], 0
    while total < batch:
        size = min(max(1, total), batch - total)
        sizes.append(size)
        total += size
    return sizes


def corners(space: Space) -> list[Staircase]:
    """Where the space ends, so that nothing inside it is extrapolated: the largest step, batch and context."""
    longest = space.longest_prompt
    widest = min(space.max_num_batched_tokens, longest)
    batch = max(1, min(space.max_num_seqs, space.usable_tokens // 128))
    few = max(1, min(8, batch, space.usable_tokens // longest))
    chunk = max(MIN_CAP, space.max_num_batched_tokens // 4)
    found = [
        Staircase(((widest,), (widest,)), 0, 4),
        Staircase(_split([32] * batch, _stairs(batch, single=False)), 0, 6),
        Staircase(((longest,),), chunk, 6),
        Staircase(_split([longest // 2] * few, [1] * few), chunk, 4),
    ]
    return [possible(staircase, space) for staircase in found]


def halved(staircase: Staircase) -> Staircase | None:
    """The same with half the prompt tokens: shorter prompts, or half the groups; None where it can't be less."""
    longest = max(staircase.prompts)
    if longest >= 4 * MIN_PROMPT:
        groups = tuple(tuple(max(MIN_PROMPT, length // 2) for length in group) for group in staircase.groups)
        return Staircase(groups, staircase.cap, staircase.decode_tokens)
    if len(staircase.groups) > 1:
        return Staircase(staircase.groups[: len(staircase.groups) // 2], staircase.cap, staircase.decode_tokens)
    return None


def _split(lengths: list[int], sizes: list[int]) -> tuple[tuple[int, ...], ...]:
    ends = np.cumsum(sizes).tolist()
    return tuple(tuple(lengths[end - size : end]) for size, end in zip(sizes, ends, strict=True))


def forecast(staircase: Staircase, space: Space) -> F64:
    """(steps, TOTALS): about the steps that the staircase makes."""
    return np.array([totals_of(*np.array(rows).T) for rows in steps_of(staircase, space)])


def steps_of(staircase: Staircase, space: Space) -> Iterator[list[tuple[int, int]]]:
    """Rows (tokens, context) of about the steps that the staircase makes: by vLLM's rule, running requests go first."""
    limit = min(staircase.cap or space.max_num_batched_tokens, space.max_num_batched_tokens)
    decoding: list[int] = []
    for group in staircase.groups:
        waiting = [[length, 0] for length in group]  # prompt, computed
        left = staircase.decode_tokens - 1
        while waiting or left > 0:
            rows = [(1, context) for context in decoding]
            chunks = _chunks(waiting, limit - len(rows))
            if waiting and not chunks:
                return  # the decodes leave no room, and never end
            decoding = [context + 1 for context in decoding]
            decoding += [length for length, computed in waiting if computed == length]
            left -= not waiting
            waiting = [prompt for prompt in waiting if prompt[1] < prompt[0]]
            yield rows + chunks


def _chunks(waiting: list[list[int]], room: int) -> list[tuple[int, int]]:
    """Rows of the waiting prompts, in order, as far as there is room; what they compute is noted in `waiting`."""
    rows = []
    for prompt in waiting:
        chunk = min(prompt[0] - prompt[1], room)
        if chunk <= 0:
            break
        rows.append((chunk, prompt[1]))
        prompt[1], room = prompt[1] + chunk, room - chunk
    return rows
