"""How much the machine's speed changed while it was measured: told by one composition that returns throughout.

Between staircases the same request is sent again, the sentinel. Its step times, relative to their medians over the
whole session, are the machine's slowness at that moment; between two sentinels of a sitting it is interpolated.
Sittings have clocks of their own: a boot starts it anew.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...arrays import F64, I64
from ...simulator.steps import StepRecord


@dataclass(frozen=True, slots=True)
class Drift:
    """Slowness against the time of each sitting, 1 at its median over all."""

    sittings: I64
    at_s: F64
    slowness: F64

    @property
    def spread(self) -> float | None:
        """(90th - 10th percentile) of the slowness; None where the sentinel came less than three times."""
        if len(self.slowness) < 3:
            return None
        low, high = np.percentile(self.slowness, (10, 90))
        return float(high - low)

    def at(self, sittings: I64, moments_s: F64) -> F64:
        """Slowness at these moments of these sittings; 1 in one that the sentinel did not visit."""
        values = np.ones(len(moments_s))
        for sitting in np.unique(self.sittings):
            asked, known = sittings == sitting, self.sittings == sitting
            values[asked] = np.interp(moments_s[asked], self.at_s[known], self.slowness[known])
        return values


def drift_of(visits: Mapping[tuple[int, str], Sequence[StepRecord]]) -> Drift:
    """The drift from the sentinel's visits, by sitting and name: the steps of each, in which nothing else ran."""
    times: dict[tuple[int, int], list[float]] = defaultdict(list)
    for record in (record for visit in visits.values() for record in visit):
        times[_composition(record)].append(record.end_s - record.start_s)
    usual = {composition: float(np.median(values)) for composition, values in times.items()}
    sittings, moments, slowness = [], [], []
    for (sitting, _), visit in visits.items():
        if not visit:
            continue
        ratios = [(record.end_s - record.start_s) / usual[_composition(record)] for record in visit]
        weights = [usual[_composition(record)] for record in visit]
        sittings.append(sitting)
        moments.append(visit[0].start_s)
        slowness.append(_weighted_median(ratios, weights))
    values = np.array(slowness)
    relative = values / np.median(values) if len(values) else values
    return Drift(np.array(sittings, dtype=np.int64), np.array(moments), relative)


def _composition(record: StepRecord) -> tuple[int, int]:
    _, tokens, context = record.rows[0]
    return tokens, context


def _weighted_median(values: Sequence[float], weights: Sequence[float]) -> float:
    order = np.argsort(values)
    cumulated = np.cumsum(np.array(weights)[order])
    return float(np.array(values)[order][np.searchsorted(cumulated, cumulated[-1] / 2)])
