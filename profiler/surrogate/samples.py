"""Step samples: what was computed in each measured step, and how long it took."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...arrays import F64
from ...errors import InputError
from ...simulator.features import DECODE_ROWS, MAX_CONTEXT, PHYSICS_NAMES, PREFILL_TOKENS, TOTALS, totals_of
from ...simulator.steps import StepRecord

SIZES = [PREFILL_TOKENS, DECODE_ROWS, MAX_CONTEXT]
"""Of the totals, those that a step is large by."""
BELIEVED_STEPS = 5
"""A size is believed where so many single steps have at least BELIEVED_SHARE of it. One alone may have been the first
of its shape, which is compiled or tuned then, and nothing beside it would tell."""
BELIEVED_SHARE = 0.7
"""More than half: two prompts in one step are twice the size of all others where every prompt is as long, and the one
step that has them would set the price of a token."""


@dataclass(frozen=True, slots=True)
class StepSamples:
    """Measured steps, one a row."""

    totals: F64
    """(steps, TOTALS), as simulator/features.py sums them."""
    duration_s: F64
    """(steps,): the time that the engine needed for the step; with async scheduling, from one end to the next."""

    def __post_init__(self) -> None:
        if self.totals.shape != (len(self.duration_s), TOTALS):
            raise ValueError(f"totals of shape {self.totals.shape} for {len(self.duration_s)} durations")

    def __len__(self) -> int:
        return len(self.duration_s)

    def __getitem__(self, index: npt.NDArray[np.bool_] | npt.NDArray[np.int64] | slice) -> "StepSamples":
        return StepSamples(self.totals[index], self.duration_s[index])

    def write(self, path: Path) -> None:
        """Write a Parquet file: one column for each total, and duration_ms."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {name: self.totals[:, i] for i, name in enumerate(PHYSICS_NAMES[:TOTALS])}
        pq.write_table(pa.table({**columns, "duration_ms": self.duration_s * 1e3}), path, compression="zstd")


def read_samples(path: Path) -> StepSamples:
    """The samples that `StepSamples.write` wrote. Raises InputError for a file that holds none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [*PHYSICS_NAMES[:TOTALS], "duration_ms"]
    try:
        table = pq.read_table(path, columns=names)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path}: no step samples ({error})") from error
    columns = [table.column(name).to_numpy().astype(np.float64) for name in names]
    return StepSamples(np.stack(columns[:-1], axis=1), columns[-1] / 1e3)


def totals_of_step(record: StepRecord, drafts: int) -> F64:
    """The totals of a recorded step of an engine that verifies so many drafts a decode."""
    rows = np.array([(tokens, context) for _, tokens, context in record.rows])
    totals: F64 = totals_of(rows[:, 0], rows[:, 1], drafts)
    return totals


def greatest_believed(values: F64) -> F64:
    """(features,): of `values`, (steps, features), the greatest of each that BELIEVED_STEPS have BELIEVED_SHARE of; 0
    of fewer steps."""
    if len(values) < BELIEVED_STEPS:
        return np.zeros(values.shape[1])
    enough = np.partition(values, -BELIEVED_STEPS, axis=0)[-BELIEVED_STEPS]
    greatest: F64 = np.where(values * BELIEVED_SHARE <= enough, values, 0.0).max(axis=0)
    return greatest


def believed(samples: StepSamples) -> npt.NDArray[np.bool_]:
    """(steps,): which have believed numbers of prefill tokens, of decodes and of tokens of context."""
    sizes = samples.totals[:, SIZES]
    return np.asarray((sizes <= greatest_believed(sizes)).all(axis=1))


def join(parts: Sequence[StepSamples]) -> StepSamples:
    """All samples of all parts, of which there is one at least, in order."""
    return StepSamples(np.concatenate([p.totals for p in parts]), np.concatenate([p.duration_s for p in parts]))
