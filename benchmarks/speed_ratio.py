"""How many times faster than the reference loop the simulator is: measured in one process, in turns, in CPU time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slotune.benchmarks import reference_loop
from slotune.benchmarks.speed_loads import ALL_OFF, KV_BLOCKS, SLOW_STEPS, Load, conversations, linear


@dataclass(frozen=True, slots=True)
class Ratio:
    """The simulator against the reference loop on the same requests; CPU seconds are each one's least."""

    name: str
    steps: int
    reference_steps: int
    cpu_s: float
    reference_cpu_s: float

    @property
    def times(self) -> float:
        """How many times faster the simulator is."""
        return self.reference_cpu_s / self.cpu_s


def measure(source: Path | str, rounds: int) -> list[Ratio]:
    """With all of vLLM's features on, and with all off, where both make the same steps.

    The least of several rounds, taken in turns: what else runs on the machine disturbs both alike, and only upwards.
    """
    trace, profile = conversations(source), linear(SLOW_STEPS)
    blocks = {"num_gpu_blocks_override": KV_BLOCKS}
    loads = [Load("all on", trace, profile, blocks), Load("all off", trace, profile, blocks | ALL_OFF)]
    engine = profile.engine_config(blocks)

    def reference() -> int:
        return reference_loop.run(trace, SLOW_STEPS, engine.max_num_batched_tokens, engine.max_num_seqs)[0]

    steps, reference_steps = [load.run().steps for load in loads], reference()  # the first run also compiles
    least_s = [float("inf")] * (len(loads) + 1)
    for _ in range(rounds):
        for k, load in enumerate(loads):
            least_s[k] = min(least_s[k], _cpu_s(load.run))
        least_s[-1] = min(least_s[-1], _cpu_s(reference))
    return [Ratio(load.name, steps[k], reference_steps, least_s[k], least_s[-1]) for k, load in enumerate(loads)]


def _cpu_s(function: Callable[[], object]) -> float:
    start_s = time.process_time()
    function()
    return time.process_time() - start_s
