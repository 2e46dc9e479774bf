"""A fitted step-time model: baseline weights, residual ensemble, hull, and what its held-out errors were."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ...arrays import F64
from ...simulator.features import CONSTANT, EAGER, PHYSICS_NAMES, REGIME_NAMES
from ...simulator.step_time import (
    SHAPE_NAMES,
    StepTimeModel,
    is_unbounded,
    linear_weights,
    pack_model,
    unbounded_hull,
)
from .tables import residual_tables

COVERAGE = 0.9
"""Share of steps that the expected error is meant to cover."""
EAGER_MATTERS = 0.1
"""Share of the least time of a step from which on it matters that what a step takes more without a CUDA graph was seen
at one size only, where kernels change too: at other sizes that may be off by as much."""

BEYOND = "beyond"
"""The regime of steps that are up to twice as large as any that a fit has seen."""
OVER_TIME = "over time"
"""Stands where a regime does for the total times of parts of the recording, one after the other."""


@dataclass(frozen=True, slots=True)
class RegimeError:
    """Held-out relative errors |predicted / measured - 1| of the kinds of steps of one regime: alike steps are one, of
    their median."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    regime: str
    """decode, prefill or mixed, each small or large; `all` for every step; BEYOND; OVER_TIME."""
    compositions: int
    median: float
    mean: float
    p90: float | None
    """The error that COVERAGE of new single steps stay within, by split conformal prediction; None if too few are
    known."""
    bias: float
    """Total predicted time over total measured time of single steps, less one: what a mean latency inherits."""
    slowest: float | None = None
    """By what share the slowest hundredth of all stretches of some hundred steps, one after the other, took longer than
    predicted, where there are stretches enough: of OVER_TIME only."""

    @property
    def largest(self) -> float:
        """The larger of what a kind of step is off by, and the total of all."""
        return max(self.median, abs(self.bias))

    def as_dict(self) -> dict[str, Any]:
        """Shares as they stand in JSON: `median_error` 0.02 is 2 %."""
        return {
            "compositions": self.compositions,
            "median_error": self.median,
            "mean_error": self.mean,
            "p90_error": self.p90,
            "bias": self.bias,
            **({} if self.slowest is None else {"slowest_stretches": self.slowest}),
        }


@dataclass(frozen=True)  # no slots: cached_property needs a __dict__
class FittedStepTime:
    """What a fit found. Without `residual` the baseline stands alone."""

    weights_s: F64
    """(PHYSICS,): seconds for each physics feature, none negative."""
    graph_sizes: F64 = field(default_factory=lambda: np.empty(0))
    """CUDA-graph sizes captured by the engine that was measured; empty where it captured none."""
    hull: F64 = field(default_factory=unbounded_hull)
    residual: str | None = None
    """LightGBM's own text of the ensemble on the log of measured over baseline time."""
    held_out: tuple[RegimeError, ...] = ()

    @classmethod
    def linear(
        cls, base_s: float, prefill_token_s: float, decode_row_s: float, context_token_s: float
    ) -> "FittedStepTime":
        """The closed form of `simulator.step_time.linear_model`."""
        return cls(linear_weights(base_s, prefill_token_s, decode_row_s, context_token_s))

    @cached_property
    def model(self) -> StepTimeModel:
        """What compiled code evaluates. Raises ValueError for a residual that is no LightGBM text."""
        return self.model_with(self.graph_sizes)

    def model_with(self, graph_sizes: F64) -> StepTimeModel:
        """The model of an engine that captured other CUDA-graph sizes."""
        edges, tables = (None, ()) if self.residual is None else residual_tables(self.residual)
        return pack_model(self.weights_s, graph_sizes, self.hull, edges, tables, self.moved(graph_sizes))

    def moved(self, graph_sizes: F64) -> tuple[float, float]:
        """Above and up to how many tokens steps were measured with a CUDA graph and would now run without one, or the
        reverse, where that matters; an empty range where it does not."""
        matters = self.weights_s[EAGER] > EAGER_MATTERS * self.weights_s[CONSTANT]
        return self.between_borders(graph_sizes) if matters and not is_unbounded(self.hull) else (0.0, 0.0)

    def between_borders(self, graph_sizes: F64) -> tuple[float, float]:
        """The same whether it matters or not."""
        measured, asked = (float(sizes[-1]) if len(sizes) else 0.0 for sizes in (self.graph_sizes, graph_sizes))
        return min(measured, asked), max(measured, asked)

    @property
    def baseline_ms(self) -> dict[str, float]:
        """The baseline's terms that are not zero, by the name of the physics feature."""
        weights = zip(PHYSICS_NAMES, self.weights_s, strict=True)
        return {name: float(weight * 1e3) for name, weight in weights if weight > 0}

    @property
    def measured_range(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Least and greatest measured value of each SHAPE feature, by regime; empty for a formula."""
        return {
            regime: {name: (float(low), float(high)) for name, (low, high) in zip(SHAPE_NAMES, box, strict=True)}
            for regime, box in zip(REGIME_NAMES, self.hull, strict=True)
            if np.isfinite(box).all()
        }

    def most(self, name: str) -> float:
        """The greatest measured value of a SHAPE feature, in any regime; infinite for a formula."""
        return float(self.hull[:, SHAPE_NAMES.index(name), 1].max())

    @property
    def held_out_error(self) -> float:
        """Mean held-out error of all steps; infinite if none was held out."""
        everything = self.error_of("all")
        return math.inf if everything is None else everything.mean

    def error_of(self, regime: str) -> RegimeError | None:
        """The held-out error of one regime, if it was measured."""
        return next((error for error in self.held_out if error.regime == regime), None)


def conformal_quantile(errors: F64) -> float | None:
    """The error that a new, exchangeable step stays within with probability COVERAGE; None with too few errors.

    Split conformal prediction: the ceil((n + 1) * COVERAGE)-th smallest of n held-out errors (Vovk et al. 2005; Lei et
    al., JASA 2018, section 2.2).
    """
    rank = math.ceil((len(errors) + 1) * COVERAGE)
    return float(np.sort(errors)[rank - 1]) if 0 < rank <= len(errors) else None
