"""Compare slotune's schedules with vLLM's own, made now, on the scenarios of tests/oracle/make_cases.py.

Usage: schedule_scenarios.py [--seeds 1-20] [--vllm-python PYTHON] [--keep DIR]

PYTHON has vLLM of any version from 0.20 on (default: SLOTUNE_TEST_VLLM_PYTHON); slotune simulates by the rules of that
version, and scenarios with settings that it does not have are left out. Exit code 1 if any schedule differs.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from slotune.tests.oracle.difference import first_difference
from slotune.tests.oracle.make_cases import cases
from slotune.tests.oracle.simulated import simulate_case
from slotune.tests.oracle.vllm_schedules import VllmOracle


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1-20")
    parser.add_argument("--vllm-python", default=os.environ.get("SLOTUNE_TEST_VLLM_PYTHON"))
    parser.add_argument("--keep", type=Path, help="keep cases and schedules in this folder")
    args = parser.parse_args()
    if not args.vllm_python:
        parser.error("name an interpreter with --vllm-python or SLOTUNE_TEST_VLLM_PYTHON")
    first, _, last = args.seeds.partition("-")
    with tempfile.TemporaryDirectory() as temporary:
        return compare(range(int(first), int(last or first) + 1), args.vllm_python, args.keep or Path(temporary))


def compare(seeds: range, interpreter: str, folder: Path) -> int:
    """Print a line a seed and every difference; 1 if there is one."""
    differing = 0
    with VllmOracle(interpreter, folder / "oracle") as oracle:
        print(f"vLLM {oracle.version}")
        for seed in seeds:
            agreeing = steps = 0
            for name, case in cases(seed):
                if not oracle.takes(case):
                    continue
                expected = oracle.schedule(case, f"seed{seed}-{name}")
                steps += len(expected.steps)
                actual = simulate_case(case, folder / "slotune", version=oracle.version)
                difference = first_difference(expected, actual, case)
                agreeing += difference is None
                differing += difference is not None
                if difference:
                    print(f"seed {seed}, {name}: {difference}")
            print(f"seed {seed}: {agreeing} scenarios agree, {steps} steps", flush=True)
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
