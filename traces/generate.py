"""Workloads made from figures: lengths and arrivals drawn, prompts that share system prompts or grow turn by turn."""

import re
from dataclasses import replace

import numpy as np

from ..arrays import F64, I32
from ..errors import InputError
from .arrivals import arrival_times
from .columns import MAX_TOKENS
from .lengths import Lengths, constant, lognormal, three_figures, uniform
from .trace import NAMED, Trace

FIGURE = r"\d{1,999}"
"""`int` raises ValueError for more than 4,300 digits."""


def parse_lengths(text: str) -> Lengths:
    """A distribution of token counts from its figures.

    `512`: always; `100-900`: evenly between; `1020/4142`: log-normal with this median and 99th percentile;
    `1155/1020/4142`: mean, median, 99th percentile. Raises InputError for anything else.
    """
    if match := re.fullmatch(rf"({FIGURE})-({FIGURE})", text):
        figures = [int(match[1]), int(match[2])]
        ordered = figures
    else:
        if not re.fullmatch(rf"{FIGURE}(/{FIGURE}){{0,2}}", text):
            raise InputError(f"token lengths {text[:60]!r}: write N, LOW-HIGH, P50/P99 or MEAN/P50/P99")
        figures = [int(word) for word in text.split("/")]
        ordered = figures[-2:]
    if max(figures) > MAX_TOKENS:
        raise InputError(f"token lengths {text[:60]!r}: the most is {MAX_TOKENS:,}")
    if min(figures) < 1 or ordered != sorted(ordered) or ("/" in text and ordered[0] == ordered[-1]):
        raise InputError(f"token lengths {text!r}: figures start at 1 and grow from low to high, from P50 to P99")
    if match:
        return uniform(*figures)
    return (constant, lognormal, three_figures)[len(figures) - 1](*figures)


def make_trace(
    count: int,
    rate: float,
    lengths: tuple[Lengths, Lengths] | Trace,
    *,
    seed: int,
    cv: float = 1.0,
    group: int = 1,
    turns: int = 1,
    users: int = 50,
    system_prompts: int = 0,
    system_prompt_tokens: int = 0,
) -> Trace:
    """`count` requests at `rate` per second with prompt and output `lengths`, or lengths like those of another trace.

    `cv` and `group` as in `arrival_times`, `turns` and `users` as in `with_conversations`, the last two as in
    `with_system_prompts`. Same arguments, same trace.
    """
    rng = np.random.default_rng(seed)
    arrival_s = arrival_times(count, rate, cv, rng, group)
    if isinstance(lengths, Trace):
        prompts, outputs = lengths_like(lengths, count, rng)
    else:
        prompts, outputs = (distribution.sample(count, rng) for distribution in lengths)
    trace = plain(arrival_s, prompts, outputs)
    if turns > 1:
        trace = with_conversations(trace, turns, users, rng)
    if system_prompts:
        trace = with_system_prompts(trace, system_prompts, system_prompt_tokens, rng)
    return trace


def plain(arrival_s: F64, input_tokens: I32, output_tokens: I32) -> Trace:
    """Requests that share nothing."""
    count = len(arrival_s)
    return Trace(
        arrival_s=arrival_s,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        priority=np.zeros(count, np.int32),
        run_offsets=np.zeros(count + 1, np.int64),
        run_name=np.empty(0, np.int64),
        run_tokens=np.empty(0, np.int32),
    )


def lengths_like(trace: Trace, count: int, rng: np.random.Generator) -> tuple[I32, I32]:
    """Prompt and output lengths of `count` requests drawn from `trace`, each pair from one request."""
    index = rng.integers(0, len(trace), count)
    return trace.input_tokens[index], trace.output_tokens[index]


def with_conversations(trace: Trace, turns: int, users: int, rng: np.random.Generator) -> Trace:
    """Requests as turns of conversations: the prompt is all that was said before, and then the request's own prompt.

    Each request belongs to one of `users` users, drawn at random; a user starts anew after `turns` turns. Prompts of
    one conversation start alike as far as the last prompt goes; the answer in between is counted as new text, which
    understates what an engine that caches outputs would hit.
    """
    said, turn = np.zeros(users, np.int64), np.zeros(users, np.int64)
    conversation = np.arange(users)
    prompts, names = np.empty(len(trace), np.int64), np.empty(len(trace), np.int64)
    for i, user in enumerate(rng.integers(0, users, len(trace))):
        if turn[user] == turns:
            said[user], turn[user], conversation[user] = 0, 0, conversation.max() + 1
        prompts[i] = said[user] + trace.input_tokens[i]
        names[i] = conversation[user]
        said[user] = prompts[i] + trace.output_tokens[i]
        turn[user] += 1
    runs = replace(trace, input_tokens=_checked(prompts))
    return _led_by(runs, names, prompts, tuple(f"conversation {c}" for c in range(conversation.max() + 1)))


def with_system_prompts(trace: Trace, count: int, tokens: int, rng: np.random.Generator) -> Trace:
    """Each prompt behind one of `count` system prompts of `tokens` tokens, drawn at random, one a conversation."""
    longer = replace(trace, input_tokens=_checked(trace.input_tokens.astype(np.int64) + tokens))
    dialogue = np.arange(len(trace))
    if len(trace.run_name) == len(trace):  # every prompt begins with its conversation
        dialogue = np.unique(trace.run_name, return_inverse=True)[1]
    names = rng.integers(0, count, dialogue.max() + 1)[dialogue]
    return _led_by(longer, names, np.full(len(trace), tokens), tuple(f"system {k}" for k in range(count)))


def _checked(tokens: np.ndarray) -> I32:
    """Raise InputError for prompts that a trace could not hold."""
    longest = int(tokens.max())
    if longest > MAX_TOKENS:
        raise InputError(f"a prompt would have {longest:,} tokens; the most is {MAX_TOKENS:,}")
    return tokens.astype(np.int32)


def _led_by(trace: Trace, leader: np.ndarray, tokens: np.ndarray, prefix_name: tuple[str, ...]) -> Trace:
    """The trace with one named run more at the start of each prompt, its name an index into `prefix_name`."""
    known = len(trace.prefix_name)
    starts = trace.run_offsets[:-1]
    return replace(
        trace,
        run_offsets=trace.run_offsets + np.arange(len(trace) + 1),
        run_name=np.insert(trace.run_name, starts, NAMED - known - leader),
        run_tokens=np.insert(trace.run_tokens, starts, tokens.astype(np.int32)),
        prefix_name=trace.prefix_name + prefix_name,
    )
