"""Step records as lines of JSON, for tests and benchmarks that make their own; the product's are written in batches."""

import json
from typing import Any

from slotune.simulator.steps import StepRecord


def format_step(record: StepRecord, with_replica: bool) -> str:
    """The record as one line of JSON."""
    document: dict[str, Any] = {
        "step": record.step,
        "start_ms": record.start_s * 1e3,
        "end_ms": record.end_s * 1e3,
        "rows": record.rows,
        "preempted": record.preempted,
        "free_blocks": record.free_blocks,
    }
    if with_replica:
        document["replica"] = record.replica
    return json.dumps(document, separators=(",", ":"))
