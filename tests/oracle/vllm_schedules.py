"""vLLM's schedules for cases, made by the oracle script in an interpreter that has vLLM."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .schedule import Case, Schedule, read_schedule

HERE = Path(__file__).parent
ORACLE = HERE / "vllm_scheduler_oracle.py"
MAKE_MODEL = HERE.parent.parent / "benchmarks" / "make_model.py"
MAX_STEPS = 100_000
"""Many times what any case takes; a request that never fits would go on for ever."""


def make_model(interpreter: str, folder: Path) -> Path:
    """A model folder without weights, for vLLM's configuration; made once."""
    if not (folder / "tokenizer.json").exists():
        _run([interpreter, str(MAKE_MODEL), str(folder)])
    return folder


def vllm_schedules(interpreter: str, cases: Mapping[str, Case], folder: Path) -> dict[str, Schedule]:
    """The schedule of every case, by its name; all in one process, since importing vLLM takes longer than the cases.

    Raises RuntimeError with the end of what the oracle said if it fails.
    """
    model = make_model(interpreter, folder / "model")
    paths = {name: folder / "cases" / f"{name}.json" for name in cases}
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
        path.write_text(json.dumps(cases[name]))
    out = folder / "schedules"
    command = [interpreter, str(ORACLE), "--model", str(model), "--out", str(out), "--max-steps", str(MAX_STEPS)]
    _run([*command, *map(str, paths.values())])
    return {name: read_schedule(out / f"{name}.jsonl") for name in cases}


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[1]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
