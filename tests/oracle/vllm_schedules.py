"""vLLM's schedules for cases, made by the oracle script in an interpreter that has vLLM."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from slotune.errors import InputError
from slotune.profiler.engine.launch import find_vllm
from slotune.simulator.engine_config import resolve

from .schedule import Case, Schedule, read_schedule
from .simulated import with_accepted_drafts

HERE = Path(__file__).parent
ORACLE = HERE / "vllm_scheduler_oracle.py"
MAKE_MODEL = HERE.parent.parent / "benchmarks" / "make_model.py"
MAX_STEPS = 100_000
"""Many times what any case takes; a request that never fits would go on for ever."""


class VllmOracle:
    """One process that makes vLLM's schedule of any number of cases: importing vLLM takes longer than most of them.

    `interpreter` has vLLM, of `version`; `folder` holds the model folder, which is made once, the cases and what the
    process says. A context manager. Raises RuntimeError with the end of what the process said if it fails.
    """

    def __init__(self, interpreter: str, folder: Path) -> None:
        self.version = find_vllm(interpreter).version
        self._folder = folder
        (folder / "cases").mkdir(parents=True, exist_ok=True)
        self._log = (folder / "oracle.log").open("w")
        model = _model(interpreter, folder / "model")
        out = folder / "schedules"
        command = [interpreter, str(ORACLE), "--model", str(model), "--out", str(out), "--max-steps", str(MAX_STEPS)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1
        )

    def takes(self, case: Case) -> bool:
        """Whether this vLLM has all settings of the case and takes their values."""
        try:
            resolve(case["engine"], {}, case["num_kv_blocks"], self.version)
        except InputError:
            return False
        return True

    def schedule(self, case: Case, name: str) -> Schedule:
        """The schedule that vLLM makes for `case`, which is kept under `name`."""
        path = self._folder / "cases" / f"{name}.json"
        path.write_text(json.dumps(with_accepted_drafts(case)))
        return self._answer(path, self._folder / "schedules" / f"{name}.jsonl")

    def _answer(self, path: Path, out: Path) -> Schedule:
        asked, said = self._pipes()
        with suppress(BrokenPipeError):  # where it has died, the loop finds nothing more and says so
            asked.write(f"{path}\n")
        for line in said:
            if line.strip() == str(out):
                return read_schedule(out)
        self._process.wait()
        tail = (self._folder / "oracle.log").read_text()[-2000:]
        raise RuntimeError(f"vLLM's scheduler ended with {self._process.returncode} at {path}: {tail}")

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def __enter__(self) -> "VllmOracle":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.communicate()
        self._log.close()


def _model(interpreter: str, folder: Path) -> Path:
    """A model folder without weights, for vLLM's configuration."""
    if not (folder / "tokenizer.json").exists():
        done = subprocess.run([interpreter, str(MAKE_MODEL), str(folder)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{MAKE_MODEL.name} ended with {done.returncode}: {done.stderr[-2000:]}")
    return folder
