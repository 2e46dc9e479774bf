"""The first difference between two schedules, shown as a person wants it: the step, both sides, the state before."""

from itertools import zip_longest
from typing import Any

from slotune.simulator.steps import StepRecord

from .schedule import Case, Outcome, Schedule

TOLERANCE = 1e-6
"""Seconds up to the first second, then a share: times are sums of thousands of steps, rounded on the way."""


def first_difference(expected: Schedule, actual: Schedule, case: Case) -> str | None:
    """None where the schedules agree; else some lines on the first thing that differs.

    A schedule that never ends agrees with none.
    """
    for index, (one, other) in enumerate(zip_longest(expected.steps, actual.steps)):
        wrong = _differing_fields(one, other)
        if wrong:
            return _describe(index, wrong, one, other, expected.steps[:index], case)
    if expected.is_stuck:
        return "the expected engine goes on for ever: a request never fits"
    return _first_outcome_difference(expected.requests, actual.requests)


def _differing_fields(one: StepRecord | None, other: StepRecord | None) -> list[str]:
    if one is None or other is None:
        return ["steps end"]
    wrong = [name for name in ("step", "rows", "free_blocks") if getattr(one, name) != getattr(other, name)]
    wrong += ["preempted"] * (sorted(one.preempted) != sorted(other.preempted))
    return wrong + [name for name in ("start_s", "end_s") if not _same_time(getattr(one, name), getattr(other, name))]


def _same_time(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= TOLERANCE * max(1.0, one)


def _first_outcome_difference(expected: dict[str, Outcome], actual: dict[str, Outcome]) -> str | None:
    if expected.keys() != actual.keys():
        return f"requests differ: {sorted(expected.keys() ^ actual.keys())}"
    for name, one in expected.items():
        other = actual[name]
        times_agree = all(_same_time(getattr(one, t), getattr(other, t)) for t in ("first_token_s", "finish_s"))
        if not times_agree or (one.cached_tokens, one.preemptions) != (other.cached_tokens, other.preemptions):
            return f"request {name} differs\n  expected  {one}\n  actual    {other}"
    return None


def _describe(
    index: int,
    wrong: list[str],
    one: StepRecord | None,
    other: StepRecord | None,
    before: tuple[StepRecord, ...],
    case: Case,
) -> str:
    step = one or other
    assert step is not None
    lines = [f"step {index + 1} differs in {', '.join(wrong)}", "before it:", *_state(before, step.start_s, case)]
    lines += [f"{'expected':<38}actual"]
    lines += [f"{left:<38}{right}".rstrip() for left, right in zip_longest(_side(one), _side(other), fillvalue="")]
    return "\n".join(lines)


def _side(step: StepRecord | None) -> list[str]:
    if step is None:
        return ["(no such step)"]
    head = [f"{step.start_s * 1e3:.4f} - {step.end_s * 1e3:.4f} ms", f"free blocks {step.free_blocks}"]
    return [
        *head,
        f"preempted {', '.join(sorted(step.preempted)) or 'none'}",
        *(f"{name}: {tokens} tokens after {context}" for name, tokens, context in step.rows),
    ]


def _state(before: tuple[StepRecord, ...], now_s: float, case: Case) -> list[str]:
    """Running requests with what they have computed, waiting ones with what they have lost, free blocks.

    From the steps alone: a request that has computed prompt + outputs - 1 tokens is done.
    """
    requests: dict[str, dict[str, Any]] = {str(r["id"]): r for r in case["requests"]}
    computed: dict[str, int] = {}
    preempted: list[str] = []
    for step in before:
        preempted += [name for name in step.preempted if name not in preempted]
        computed = {name: tokens for name, tokens in computed.items() if name not in step.preempted}
        computed |= {name: context + tokens for name, tokens, context in step.rows}
        preempted = [name for name in preempted if name not in computed]
    ends = {name: _last_token(r, case) for name, r in requests.items()}
    running = [f"{name} {tokens}/{ends[name]}" for name, tokens in computed.items() if tokens < ends[name]]
    waiting = [f"{name} (preempted)" for name in preempted]
    waiting += [
        f"{name} ({r['prompt_len']})"
        for name, r in requests.items()
        if name not in computed and name not in preempted and r["arrival_ms"] <= now_s * 1e3
    ]
    free = before[-1].free_blocks if before else case["num_kv_blocks"] - 1
    return [
        f"  running (computed/at its end): {', '.join(running) or 'none'}",
        f"  waiting (prompt): {', '.join(waiting) or 'none'}",
        f"  free blocks after the step before: {free}",
    ]


def _last_token(request: dict[str, Any], case: Case) -> int:
    """Tokens that a request has computed when it is done."""
    length: int = min(request["prompt_len"] + request["output_len"], case["engine"]["max_model_len"])
    return length - 1
