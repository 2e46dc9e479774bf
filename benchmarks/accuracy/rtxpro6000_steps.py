"""Layer times of a GPU, put together to step records that slotune fits like any others.

    python benchmarks/accuracy/rtxpro6000_steps.py --data FOLDER --out steps.jsonl
    slotune profile fit steps.jsonl --engine max_num_seqs=128 --engine max_num_batched_tokens=2048 --out P

FOLDER is such a folder as layer_times.py and layer_times_engine.py describe; the engine whose steps these are is that
of the run that was measured beside them.
"""

import argparse
from pathlib import Path

import numpy as np
from layer_times import CONTEXTS, LayerTimes, Row, read_layer_times
from layer_times_engine import MeasuredEngine, read_engine

from slotune.simulator.engine_config import EngineConfig
from slotune.simulator.steps import StepRecord
from slotune.tests.step_lines import format_step


def compositions(engine: EngineConfig, count: int, rng: np.random.Generator) -> list[list[Row]]:
    """Steps as a server makes them: decodes alone, prefills alone and both, a third each, any that the engine allows.

    The traffic to be predicted does not enter: sizes are log-uniform over what was measured.
    """
    steps = []
    for kind in range(count):
        rows: list[Row] = []
        if kind % 3 != 1:
            rows += _decodes(engine, rng)
        if kind % 3 != 0:
            rows += _prefills(rng, engine.max_num_batched_tokens - len(rows))
        steps.append(rows)
    return steps


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> int:
    return round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))


def _decodes(engine: EngineConfig, rng: np.random.Generator) -> list[Row]:
    most = engine.max_num_seqs
    count = int(rng.integers(1, most + 1)) if rng.random() < 0.6 else _log_uniform(rng, 1, most)
    typical, spread = _log_uniform(rng, 64, 8192), rng.uniform(0.0, 1.0)
    contexts = np.clip(rng.lognormal(np.log(typical), spread, count), 16, CONTEXTS[-1])
    fitting = np.cumsum(contexts) <= engine.num_gpu_blocks * engine.block_size
    return [(1, int(context)) for context in contexts[fitting]]


def _prefills(rng: np.random.Generator, budget: int) -> list[Row]:
    """New prompts, of which the first may continue one that an earlier step began."""
    left = budget if rng.random() < 0.4 or budget <= 16 else _log_uniform(rng, 16, budget)
    rows: list[Row] = []
    while left > 1 and len(rows) < 8:
        tokens = min(left, _log_uniform(rng, 16, 4096))
        begun = rng.random() < (0.4 if not rows else 0.1)
        rows.append((max(tokens, 2), _log_uniform(rng, 16, 8192) if begun else 0))
        left -= tokens
    return rows


def step_records(times: LayerTimes, measured: MeasuredEngine, count: int, seed: int, gap_s: float) -> list[StepRecord]:
    """`count` steps, each on its own: no two share a request, so that idle time lies between them."""
    records, clock_s = [], 0.0
    for number, rows in enumerate(compositions(measured.engine, count, np.random.default_rng(seed))):
        end_s = clock_s + times.step_s(rows, measured.graph_sizes, gap_s)
        named = tuple((f"{number}-{i}", tokens, context) for i, (tokens, context) in enumerate(rows))
        records.append(StepRecord(number, clock_s, end_s, named))
        clock_s = end_s
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--gap-ms", type=float, default=0.0, help="time between the kernels of two steps")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    measured = read_engine(asked.data)
    times = read_layer_times(asked.data, measured.engine.tensor_parallel_size, measured.link)
    records = step_records(times, measured, asked.count, asked.seed, asked.gap_ms / 1e3)
    asked.out.write_text("".join(format_step(record, False) + "\n" for record in records))


if __name__ == "__main__":
    main()
