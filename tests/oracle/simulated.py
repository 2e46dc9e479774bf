"""slotune's schedule for a case, made as a user would make it: trace, linear profile and flags through the commands."""

import csv
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from slotune.cli import main
from slotune.simulator.speculation import parse_speculation
from slotune.simulator.steps import read_steps

from .schedule import Case, Outcome, Schedule


def simulate_case(case: Case, folder: Path, policy: str = "vllm-v1", version: str | None = None) -> Schedule:
    """Run the case through `slotune simulate` and read back what it wrote. `folder` is for the files.

    `version` is the vLLM whose rules hold, the newest for None. Raises RuntimeError with slotune's words if it refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_case_trace(case, folder / "trace.jsonl")
    rules = ["--vllm-version", version] if version else []
    run_slotune("profile", "linear", *_cost_flags(case["cost"]), *rules, "--out", folder / "profile")
    files = {flag: folder / name for flag, name in (("--steps-out", "steps.jsonl"), ("--requests-out", "requests.csv"))}
    outputs = [word for flag, path in files.items() for word in (flag, path)]
    inputs = ["--profile", folder / "profile", "--trace", folder / "trace.jsonl"]
    run_slotune("simulate", *inputs, *engine_flags(case), "--policy", policy, *outputs)
    return Schedule(tuple(read_steps(files["--steps-out"])), _read_outcomes(files["--requests-out"]))


def run_slotune(*words: object) -> str:
    """`slotune WORDS` in this process; its stdout. Raises RuntimeError with its stderr if it fails."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    if code != 0:
        raise RuntimeError(f"slotune {words[0]} ended with {code}: {err.getvalue().strip()}")
    return out.getvalue()


def write_case_trace(case: Case, path: Path) -> None:
    """The case's requests as a trace."""
    path.write_text("".join(json.dumps(_trace_row(request)) + "\n" for request in case["requests"]))


def _trace_row(request: dict[str, Any]) -> dict[str, Any]:
    row = {"timestamp": request["arrival_ms"]}
    row |= {"input_length": request["prompt_len"], "output_length": request["output_len"]}
    return row | {key: request[key] for key in ("id", "priority", "prefix") if key in request}


def engine_flags(case: Case) -> list[str]:
    """The case's engine as --engine flags."""
    settings = case["engine"] | {"num_gpu_blocks_override": case["num_kv_blocks"]}
    return [word for name, value in settings.items() for word in ("--engine", f"{name}={_text(value)}")]


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def with_accepted_drafts(case: Case) -> Case:
    """The case, and for the oracle how many drafts slotune has each verification accept, where it speculates."""
    config = case["engine"].get("speculative_config")
    if not config:
        return case
    requests = sorted(case["requests"], key=lambda request: request["arrival_ms"])
    lengths = np.array([request["output_len"] for request in requests])
    accepted = np.split(parse_speculation(config).accepted(lengths, seed=0), np.cumsum(lengths)[:-1])
    pairs = zip(requests, accepted, strict=True)
    return case | {"accepted": {str(request["id"]): counts.tolist() for request, counts in pairs}}


def _cost_flags(cost: dict[str, float]) -> list[str]:
    return [word for name, value in cost.items() for word in (f"--{name.replace('_', '-')}-ms", str(value))]


def _read_outcomes(path: Path) -> dict[str, Outcome]:
    with path.open(newline="") as rows:
        return {row["request_id"]: _outcome(row) for row in csv.DictReader(rows)}


def _outcome(row: dict[str, str]) -> Outcome:
    return Outcome(
        first_token_s=_seconds(row["first_token_ms"]),
        finish_s=_seconds(row["finish_ms"]),
        cached_tokens=int(row["cached_tokens"]),
        preemptions=int(row["preemptions"]),
    )


def _seconds(cell: str) -> float | None:
    return float(cell) / 1e3 if cell else None
