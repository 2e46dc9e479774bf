"""What step records tell of the KV cache."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slotune.profiler.recorded_blocks import RecordedBlocks
from slotune.simulator.steps import StepRecord

Slotune = Callable[..., Any]


def told(steps: list[tuple[int, int]], block_size: int = 16) -> tuple[str, ...]:
    """Notes on steps of one decode each: its context, and the blocks that are free."""
    blocks = RecordedBlocks(block_size)
    for number, (context, free) in enumerate(steps):
        blocks.add(StepRecord(number, 0.0, 1.0, (("a", 1, context),), free_blocks=free))
    return blocks.notes(block_size)


def alone(size: int, blocks: int) -> list[tuple[int, int]]:
    """Decodes that are alone in a cache of so many blocks, the null block being one of them."""
    return [(context, blocks - 1 - -(-(context + 1) // size)) for context in range(100, 400)]


@pytest.mark.parametrize("size", [16, 128, 48, 544])
def test_a_request_that_is_alone_tells_how_many_blocks_there_are(size: int) -> None:
    assert told(alone(size, 2048), size) == (
        "the recorded engine had 2,048 KV blocks: num_gpu_blocks_override=2048 simulates them",
    )


def test_steps_in_which_others_hold_blocks_without_a_row_do_not_count() -> None:
    assert told([(300, 1500), *alone(16, 2048), (700, 300)]) == told(alone(16, 2048))


def test_blocks_of_another_size_than_was_said_are_told() -> None:
    assert told(alone(128, 2048)) == (
        "the records are of 2,048 KV blocks of 128 tokens, not of 16: give --engine block_size=128 and "
        "num_gpu_blocks_override=2048",
    )


def test_records_that_do_not_tell_say_nothing() -> None:
    assert told([]) == told([(300, -1)] * 50) == told(alone(16, 2048)[:5]) == ()
    many = RecordedBlocks()
    many.add(StepRecord(0, 0.0, 1.0, (("a", 1, 90), ("b", 1, 90)), free_blocks=100))
    assert many.notes(16) == (), "their prefix may be one"


@pytest.mark.parametrize(("given", "noted"), [((), True), (("--engine", "num_gpu_blocks_override=500"), False)])
def test_a_fit_tells_the_blocks_of_the_engine_that_was_recorded(
    slotune: Slotune, tmp_path: Path, given: tuple[str, ...], noted: bool
) -> None:
    profile, trace, steps = tmp_path / "linear", tmp_path / "t.jsonl", tmp_path / "steps.jsonl"
    terms = ("--base-ms", 5, "--prefill-token-ms", 0.02, "--decode-seq-ms", 0.05, "--context-token-ms", 0.00002)
    assert slotune("profile", "linear", *terms, "--out", profile).code == 0
    make = ("--requests", 60, "--rate", 20, "--prompt-tokens", "200/150/900", "--output-tokens", "60/50/200")
    assert slotune("trace", "make", *make, "--out", trace).code == 0
    served = ("--profile", profile, "--trace", trace, "--engine", "num_gpu_blocks_override=500")
    assert slotune("simulate", *served, "--steps-out", steps).code == 0
    twice = slotune("profile", "fit", steps, steps, *given, "--out", tmp_path / "p")
    assert twice[0] == 2 and "given twice" in twice[2]
    code, out, _ = slotune("profile", "fit", steps, *given, "--out", tmp_path / "p", "--json")
    assert code == 0
    assert ("500 KV blocks" in json.dumps(json.loads(out))) is noted
