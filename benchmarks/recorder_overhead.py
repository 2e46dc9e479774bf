"""What the recorder costs the engine's own thread for each step, and what part of a step that is.

    python benchmarks/recorder_overhead.py [--rows 1 16 64 256 1024]

The recorder is mixed into a scheduler that does nothing, of the shape of vLLM's; its cost is the thread's CPU time with
it less that without, the median of many steps. A step's time beside it is the bundled H200 profile's: decodes of 1024
tokens of context. Writing happens on another thread, whose time for a step is shown too: it runs while the GPU
computes, but not while the engine's thread does (one interpreter lock).
"""

import argparse
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from slotune.profiler.profile_folder import load_profile
from slotune.profiler.recorder import Recorder, Writer
from slotune.simulator.features import totals_of
from slotune.simulator.step_time import step_times_s

STEPS = 500
COMPUTING_S = 0.002
"""Between schedule and output, while a GPU would compute: the writer's chance."""
CONTEXT = 1024


class Scheduler:
    """What vLLM's scheduler offers to the recorder, and nothing behind it."""

    def __init__(self, names: list[str]) -> None:
        self.requests = {name: SimpleNamespace(request_id=name, num_computed_tokens=CONTEXT) for name in names}
        self.max_num_scheduled_tokens = 8192
        self.scheduler_config = SimpleNamespace(max_num_batched_tokens=8192)
        self.kv_cache_manager = SimpleNamespace(block_pool=SimpleNamespace(get_num_free_blocks=lambda: 1000))
        self._output = SimpleNamespace(num_scheduled_tokens=dict.fromkeys(names, 1))

    def schedule(self) -> Any:
        return self._output

    def update_from_output(self, output: Any) -> None:
        return None

    def has_unfinished_requests(self) -> bool:
        return True

    def shutdown(self) -> None:
        return None


class Recorded(Recorder, Scheduler):  # type: ignore[misc]
    """The recorder as EngineCore would have it."""


def step_cost_s(scheduler: Any) -> float:
    costs = []
    for _ in range(STEPS):
        begin = time.thread_time_ns()
        output = scheduler.schedule()
        scheduled = time.thread_time_ns()
        time.sleep(COMPUTING_S)
        back = time.thread_time_ns()
        scheduler.update_from_output(output)
        costs.append(time.thread_time_ns() - back + scheduled - begin)
    return float(np.median(costs)) * 1e-9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 16, 64, 256, 1024])
    asked = parser.parse_args()
    model = load_profile("h200-llama-3.1-8b").timing().step
    print("| decodes in the step | recorder, us | a step on an H200, ms | share % | writer's thread, us |")
    print("|---|---|---|---|---|")
    for rows in asked.rows:
        names = [f"cmpl-{index}-0-0a1b2c3d" for index in range(rows)]
        with tempfile.TemporaryDirectory() as folder:
            recorded = Recorded(names)
            recorded.start_recording(Writer(str(Path(folder) / "steps.jsonl"), 1 << 30), False)
            process, thread = time.process_time(), time.thread_time()
            cost_s = step_cost_s(recorded) - step_cost_s(Scheduler(names))
            recorded.shutdown()
            writer_s = (time.process_time() - process - (time.thread_time() - thread)) / STEPS
        totals = totals_of(np.ones(rows, np.int64), np.full(rows, CONTEXT))
        step_s = float(step_times_s(model, totals[None])[0])
        figures = f"{cost_s * 1e6:.1f} | {step_s * 1e3:.1f} | {100 * cost_s / step_s:.2f} | {writer_s * 1e6:.0f}"
        print(f"| {rows} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
