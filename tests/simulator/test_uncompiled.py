"""The compiled step loop and the same code run as plain Python write the same bytes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slotune.tests.oracle.schedule import Case
from slotune.tests.oracle.simulated import engine_flags, run_slotune, write_case_trace

REQUESTS = [
    {"id": "a", "arrival_ms": 0.0, "prompt_len": 70, "output_len": 30, "prefix": [["system", 40]]},
    {"id": "b", "arrival_ms": 0.0, "prompt_len": 90, "output_len": 25, "prefix": [["system", 40]], "priority": 1},
    {"id": "c", "arrival_ms": 7.5, "prompt_len": 33, "output_len": 40, "priority": 2},
    {"id": "d", "arrival_ms": 60.0, "prompt_len": 70, "output_len": 1, "prefix": [["system", 40]]},
]
LIMITS = {"max_model_len": 256, "max_num_seqs": 3, "max_num_batched_tokens": 48, "block_size": 4}
ENGINES = {
    "fcfs, sync": {"enable_prefix_caching": False, "async_scheduling": False},
    "priority, async, cached": {
        "enable_prefix_caching": True,
        "async_scheduling": True,
        "scheduling_policy": "priority",
        "scheduler_reserve_full_isl": False,
    },
    "drafts, async, cached": {
        "enable_prefix_caching": True,
        "async_scheduling": True,
        "speculative_config": {
            "method": "eagle",
            "num_speculative_tokens": 8,
            "rejection_sample_method": "synthetic",
            "synthetic_acceptance_rates": [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5],
        },
    },
    "stages, async, cached": {"enable_prefix_caching": True, "async_scheduling": True, "pipeline_parallel_size": 3},
}


@pytest.mark.parametrize("name", ENGINES)
def test_same_bytes(name: str, tmp_path: Path) -> None:
    case: Case = {"engine": LIMITS | ENGINES[name], "num_kv_blocks": 48, "cost": {}, "requests": REQUESTS}
    costs = ("--base-ms", 4, "--prefill-token-ms", 0.04, "--decode-seq-ms", 0.11, "--context-token-ms", 0.00021)
    run_slotune("profile", "linear", *costs, "--out", tmp_path / "profile")
    write_case_trace(case, tmp_path / "trace.jsonl")
    arguments = ["--profile", tmp_path / "profile", "--trace", tmp_path / "trace.jsonl", *engine_flags(case)]
    run_slotune("simulate", *arguments, *outputs(tmp_path / "compiled"))
    command = [sys.executable, "-m", "slotune.cli", "simulate", *arguments, *outputs(tmp_path / "plain")]
    subprocess.run(
        list(map(str, command)), check=True, capture_output=True, env=os.environ | {"NUMBA_DISABLE_JIT": "1"}
    )
    for suffix in (".jsonl", ".csv"):
        compiled = (tmp_path / f"compiled{suffix}").read_bytes()
        assert compiled == (tmp_path / f"plain{suffix}").read_bytes()
        assert compiled.count(b"\n") > len(REQUESTS)


def outputs(stem: Path) -> list[str]:
    return ["--steps-out", f"{stem}.jsonl", "--requests-out", f"{stem}.csv"]
