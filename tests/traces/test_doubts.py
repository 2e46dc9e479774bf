"""What readers doubt."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slotune.traces.doubts import repeated_prompts, whole_seconds
from slotune.traces.read import read_trace


def turn(session: str | None, **more: Any) -> dict[str, Any]:
    line = {"timestamp": 0, "input_length": 600, "output_length": 5} | more
    return line | ({"session_id": session} if session else {})


@pytest.mark.parametrize(
    ("arrival_s", "told"),
    [
        (np.repeat(np.arange(60.0), 2), True),
        (np.repeat(np.arange(60.0), 2) + 0.001, False),
        (np.arange(120.0), False),
        (np.zeros(120), False),
        (np.repeat(np.arange(49.0), 2), False),
    ],
    ids=["rounded", "not of seconds", "one a second", "at once", "few"],
)
def test_times_in_whole_seconds_are_told(arrival_s: np.ndarray, told: bool) -> None:
    assert bool(whole_seconds(arrival_s)) == told


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([turn("a"), turn("a"), turn("b"), turn("b")], True),
        ([turn("a", hash_ids=[1, 4]), turn("a", hash_ids=[2]), turn("a", hash_ids=[3])], True),
        ([turn("a", hash_ids=[1, 2]), turn("a", hash_ids=[1, 2, 3]), turn("a", hash_ids=[1, 2])], False),
        ([turn("a", input_length=300, hash_ids=[1]), turn("a", hash_ids=[2, 3])], False),
        ([turn("a", prefix=[["x", 100]]), turn("a", prefix=[["x", 500]])], False),
        ([turn("a", prefix=[["x", 100]]), turn("a", prefix=[["y", 500]])], True),
        ([turn("a"), turn("b"), turn("c")], False),
        ([turn(None), turn(None)], False),
    ],
    ids=["bare", "deltas", "whole", "a block that was not full", "named", "named apart", "one each", "no sessions"],
)
def test_turns_that_share_nothing_with_their_session_are_told(tmp_path: Path, lines: list[Any], told: bool) -> None:
    lines = [line | ({"input_length": 1500} if len(line.get("hash_ids", ())) > 1 else {}) for line in lines]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    doubts = read_trace(tmp_path / "t.jsonl").doubts
    assert bool(doubts) == told and all("session_id" in doubt for doubt in doubts)


@pytest.mark.parametrize(
    ("prefix", "told"),
    [
        (lambda number: [["p", 600]], True),
        (lambda number: [["p", 599]], False),
        (lambda number: [[f"p{number}", 600]], False),
        (lambda number: [["p" if number < 2 else f"p{number}", 600]], False),
    ],
    ids=["one prompt for all", "a token of their own", "prompts of their own", "a single repetition"],
)
def test_prompts_that_come_again_whole_are_told(tmp_path: Path, prefix: Callable[[int], object], told: bool) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(turn(None, prefix=prefix(number))) + "\n" for number in range(40)))
    found = repeated_prompts(read_trace(str(path)))
    assert (found is not None) == told
    assert found is None or found.startswith("39 requests have the whole prompt of an earlier one")
