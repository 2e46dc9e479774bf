"""A schedule: the steps that an engine made and what became of every request."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotune.simulator.steps import StepRecord, parse_step

Case = dict[str, Any]
"""A scenario in the oracle's form: engine, num_kv_blocks, cost, requests (vllm_scheduler_oracle.py)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request; times in seconds, None where it never came to that."""

    first_token_s: float | None
    finish_s: float | None
    cached_tokens: int
    preemptions: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps in order, outcomes by request id."""

    steps: tuple[StepRecord, ...]
    requests: dict[str, Outcome]
    is_stuck: bool = False
    """Whether the engine would have gone on for ever with requests that never fit."""


def read_case(path: Path) -> Case:
    """A case as make_cases.py writes it."""
    case: Case = json.loads(path.read_text())
    return case


def read_schedule(path: Path) -> Schedule:
    """A schedule as the oracle scripts write it, gzipped if the name ends in .gz."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    *lines, trailer = text.decode().splitlines()
    steps = tuple(parse_step(line, f"{path}:{number}") for number, line in enumerate(lines, 1))
    document = json.loads(trailer)
    return Schedule(steps, {name: _outcome(row) for name, row in document["requests"].items()}, "stuck" in document)


def _outcome(row: dict[str, Any]) -> Outcome:
    return Outcome(
        first_token_s=_seconds(row.get("first_token_ms")),
        finish_s=_seconds(row.get("finish_ms")),
        cached_tokens=row["cached_tokens"] or 0,
        preemptions=row["preemptions"],
    )


def _seconds(time_ms: float | None) -> float | None:
    return None if time_ms is None else time_ms / 1e3
