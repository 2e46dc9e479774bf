"""What kernel tables leave out, found on measured points: see silicon_sample.py --calibrate.

At a steady concurrency of c, between a request's first and last token every other request starts once on average, so

    TPOT * (osl - 1) = (osl - 1) * decode step + (c - 1) * (step with a prefill - decode step)

where a step takes its kernels, the output, and so much a layer: a gap, and more beyond the captured CUDA graphs. The
last is held at OMITTED's, which other data told.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import least_squares

from slotune.arrays import F64
from slotune.profiler.graph_sizes import captured_graph_sizes
from slotune.profiler.silicon.layout import Layout
from slotune.profiler.silicon.omitted import OMITTED, Omitted
from slotune.profiler.silicon.tables import Composition, KernelTables
from slotune.simulator.engine_config import EngineConfig

if TYPE_CHECKING:
    from silicon_sample import Group, Point


NOTHING = replace(OMITTED, gap_layer_ms=0.0, async_gap_layer_ms=0.0)
QUEUED = 0.8
"""Points whose TTFT is more than this share of the time of an answer wait for memory: another matter."""
START = (0.02, 0.01)


def calibrate(points: Sequence["Point"]) -> Omitted:
    """Least absolute relative deviations of TPOT, terms not negative."""
    steady = [point for point in points if point.ttft_ms < QUEUED * point.tpot_ms * point.osl]
    known_ms, layers = np.array([_known(point, tables) for point, tables in _with_tables(steady)]).T
    measured_ms = np.array([point.tpot_ms for point in steady])
    overlapped = np.array([point.group.async_scheduling for point in steady])

    def deviations(gaps: F64) -> F64:
        return np.asarray((known_ms + layers * np.where(overlapped, gaps[1], gaps[0])) / measured_ms - 1)

    found = least_squares(deviations, START, bounds=(0.0, np.inf), x_scale=START, loss="soft_l1", f_scale=0.02).x
    standing = np.array([OMITTED.gap_layer_ms, OMITTED.async_gap_layer_ms])
    medians = [100 * float(np.median(np.abs(deviations(gaps)))) for gaps in (found, standing)]
    off = f"off by {medians[0]:.1f} % (median), by {medians[1]:.1f} % as it stands"
    print(f"TPOT of {len(steady)} of {len(points)} points {off}")
    return replace(OMITTED, gap_layer_ms=round(float(found[0]), 4), async_gap_layer_ms=round(float(found[1]), 4))


def _with_tables(points: Sequence["Point"]) -> list[tuple["Point", KernelTables]]:
    known: dict[Group, KernelTables] = {}
    for point in points:
        group = point.group
        if group not in known:
            known[group] = KernelTables(group.system, group.model, Layout(group.tp, precision=group.precision), NOTHING)
    return [(point, known[point.group]) for point in points]


def _known(point: "Point", tables: KernelTables) -> tuple[float, float]:
    """Milliseconds of TPOT without gaps, and the layers."""
    engine = EngineConfig(num_gpu_blocks=1 << 20, max_num_seqs=point.concurrency if point.spread else 1024)
    sizes = captured_graph_sizes(engine, {})
    typical = 0.9 if point.spread else 1.0
    isl, osl, others = round(typical * point.isl), typical * point.osl, point.concurrency - 1
    context = round(isl + osl / 2)
    steps = Composition(0, 0, 0, point.concurrency, context, context), Composition(1, isl, 0, others, context, context)
    decode_ms, mixed_ms = (tables.step_ms(step, sizes, point.group.async_scheduling) for step in steps)
    return decode_ms + others / (osl - 1) * (mixed_ms - decode_ms), tables.model_info["layers"]
