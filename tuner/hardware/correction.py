"""The simulator corrected by what the engine gave: the prediction is the prior, the measured difference is learned.

For each metric, the log of measured over predicted of the configurations that ran. A configuration that did not run
gets their mean, drawn towards those that are near it in the space of settings (Nadaraya-Watson with a Gaussian kernel;
the mean counts as one neighbour more, so that far from all measurements nothing but the mean is left).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...arrays import F64
from ...simulator.slo import OF_ALL
from ..objective import Metrics
from ..study.comparison import Compared, Quantity
from ..study.space import SearchSpace

REACH = 0.25
"""Width of the kernel, in root-mean-square distance over the settings, each of which spans 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What was learned from configurations that were both predicted and measured."""

    space: SearchSpace
    places: F64
    """(n, knobs): where they lie, each knob from 0 to 1."""
    log_ratios: Mapping[str, F64]
    """(n,) for each metric: log of measured over predicted."""

    def corrected(self, settings: Mapping[str, Any], predicted: Metrics) -> dict[str, float]:
        """Predicted metrics as the engine would give them; metrics that nobody asks for stay as they are."""
        weights = np.exp(-0.5 * (_distances(self.places, _place(self.space, settings)) / REACH) ** 2)
        metrics = dict(predicted)
        for key, logs in self.log_ratios.items():
            known = np.isfinite(logs)
            if known.any():
                mean = logs[known].mean()
                shift = (mean + (weights[known] * logs[known]).sum()) / (1 + weights[known].sum())
                # A target is read off all requests where some were not answered.
                for name in {key, key + OF_ALL} & predicted.keys():
                    metrics[name] = predicted[name] * math.exp(shift)
        return metrics


def learned(found: Sequence[Compared], shown: Sequence[Quantity], space: SearchSpace) -> Correction:
    """The correction from configurations of `found` that ran, were predicted and lie in the space."""
    used = [one for one in found if one.runs and one.predicted is not None and space.holds(one.settings)]
    places = [_place(space, one.settings) for one in used]
    ratios = {quantity.key: np.array([_log_ratio(one, quantity) for one in used]) for quantity in shown}
    return Correction(space, np.array(places).reshape(len(used), len(space.knobs)), ratios)


def _log_ratio(one: Compared, quantity: Quantity) -> float:
    measured, predicted = one.measured(quantity).value, quantity.of(one.predicted)
    return math.log(measured / predicted) if measured > 0 and predicted > 0 else math.nan


def _place(space: SearchSpace, settings: Mapping[str, Any]) -> F64:
    return space.vector(settings) / np.maximum(space.sizes() - 1, 1)


def _distances(places: F64, place: F64) -> F64:
    distances: F64 = np.sqrt(((places - place) ** 2).mean(axis=1))
    return distances
