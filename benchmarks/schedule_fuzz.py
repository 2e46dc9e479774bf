"""Compare slotune's schedules with vLLM's own on random cases, and shrink those that differ.

Usage: schedule_fuzz.py [--cases 500] [--seed 1] [--vllm-python PYTHON] [--keep DIR]

Case k has the seed --seed + k, so one that differs is made again with `--cases 1 --seed ITS_SEED`. PYTHON has vLLM
of any version from 0.20 on (default: SLOTUNE_TEST_VLLM_PYTHON); settings that it lacks are taken out of the cases, and
cases that it does not take are left out. Prints the seed of every case that differs, the smallest case found that still
does, and its first difference. Exit code 1 if any differs, or none could be compared.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from slotune.tests.oracle.difference import first_difference
from slotune.tests.oracle.random_cases import for_version, random_case
from slotune.tests.oracle.schedule import Case, Schedule
from slotune.tests.oracle.shrink import shrink
from slotune.tests.oracle.simulated import simulate_case
from slotune.tests.oracle.vllm_schedules import VllmOracle


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1, help="of the first case")
    parser.add_argument("--vllm-python", default=os.environ.get("SLOTUNE_TEST_VLLM_PYTHON"))
    parser.add_argument("--keep", type=Path, help="keep cases and schedules in this folder")
    args = parser.parse_args()
    if not args.vllm_python:
        parser.error("name an interpreter with --vllm-python or SLOTUNE_TEST_VLLM_PYTHON")
    seeds = range(args.seed, args.seed + args.cases)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        with VllmOracle(args.vllm_python, folder / "oracle") as oracle:
            return Fuzz(oracle, folder / "slotune").run(seeds)


class Fuzz:
    """Both engines, and a count of what the cases exercised."""

    def __init__(self, oracle: VllmOracle, folder: Path) -> None:
        if oracle.version is None:
            raise SystemExit("the interpreter does not tell which vLLM it has")
        self._oracle, self._version = oracle, oracle.version
        self._folder = folder
        self._seen: Counter[str] = Counter()

    def run(self, seeds: range) -> int:
        """Compare the cases of all seeds; 1 if any differs."""
        started_s = time.monotonic()
        differing = [seed for seed in seeds if self._differs(seed)]
        seen = ", ".join(f"{number} {what}" for what, number in self._seen.most_common())
        print(f"{len(seeds)} cases (seeds {seeds[0]} to {seeds[-1]}) in {time.monotonic() - started_s:.0f} s: {seen}")
        print(f"{len(differing)} differ" + (f": seeds {differing}" if differing else ""))
        return int(bool(differing) or not self._seen["steps"])

    def _differs(self, seed: int) -> bool:
        case, name = for_version(random_case(seed), self._version), f"seed{seed}"
        if not self._oracle.takes(case):
            self._seen["not taken by this version, left out"] += 1
            return False
        expected = self._oracle.schedule(case, name)
        self._count(case, expected)
        if expected.is_stuck:  # as when long prompts preempt each other in turn: it would never end here either
            self._seen["for ever in vLLM, not compared"] += 1
            print(f"seed {seed}: vLLM goes on for ever; not compared", flush=True)
            return False
        if first_difference(expected, self._simulated(case), case) is None:
            return False
        print(f"seed {seed} differs; shrinking ...", flush=True)
        case = shrink(case, lambda simpler: self._difference(simpler, name) is not None)
        print(f"{json.dumps(case)}\n{self._difference(case, name)}", flush=True)
        return True

    def _difference(self, case: Case, name: str) -> str | None:
        """None too where shrinking took a block too many: vLLM's queue then stands still for ever."""
        expected = self._oracle.schedule(case, f"{name}-shrunk")
        return None if expected.is_stuck else first_difference(expected, self._simulated(case), case)

    def _simulated(self, case: Case) -> Schedule:
        return simulate_case(case, self._folder, version=self._oracle.version)

    def _count(self, case: Case, schedule: Schedule) -> None:
        preemptions = sum(len(step.preempted) for step in schedule.steps)
        steps = len(schedule.steps)
        self._seen.update({"steps": steps, "preemptions": preemptions, "cases with preemption": preemptions > 0})
        self._seen["prefix hits"] += sum(outcome.cached_tokens > 0 for outcome in schedule.requests.values())
        engine = case["engine"]
        for name in (
            "async_scheduling",
            "enable_prefix_caching",
            "long_prefill_token_threshold",
            "speculative_config",
            "pipeline_parallel_size",
        ):
            self._seen[name] += bool(engine.get(name))
        self._seen["priority"] += engine["scheduling_policy"] == "priority"
        self._seen["without chunking"] += not engine["enable_chunked_prefill"]


if __name__ == "__main__":
    sys.exit(main())
