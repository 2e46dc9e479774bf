"""Ways to predict a step's time, slotune's and others', behind one call: fit(steps, seconds, graph sizes) -> predict.

All of them see the step's totals (simulator/features.py); those on physics features see the graph sizes too.
"""

from collections.abc import Callable

import lightgbm as lgb
import numpy as np
from scipy.optimize import least_squares
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge

from slotune.arrays import F64
from slotune.profiler.surrogate.baseline import BASES, fit_baseline
from slotune.profiler.surrogate.errors import regime_names
from slotune.profiler.surrogate.samples import StepSamples
from slotune.profiler.surrogate.surrogate import fit
from slotune.simulator.features import (
    DECODE_CONTEXT,
    DECODE_ROWS,
    PREFILL_CONTEXT,
    PREFILL_TOKENS,
    PREFILL_WORK,
    physics_of,
)
from slotune.simulator.step_time import pack_model, step_times_s

Predict = Callable[[F64], F64]


def slotune(totals: F64, seconds: F64, graph_sizes: F64) -> Predict:
    """Non-negative baseline times exp(LightGBM)."""
    model = fit(StepSamples(totals, seconds), graph_sizes).model
    return lambda steps: step_times_s(model, steps)


def baseline(totals: F64, seconds: F64, graph_sizes: F64) -> Predict:
    """slotune's baseline alone."""
    weights = fit_baseline(StepSamples(totals, seconds), np.ones(len(seconds)), graph_sizes, BASES[-1])
    model = pack_model(weights, graph_sizes)
    return lambda steps: step_times_s(model, steps)


def trees(totals: F64, seconds: F64, graph_sizes: F64) -> Predict:
    """LightGBM alone, on the log of the time."""
    settings = {"objective": "l1", "num_leaves": 15, "min_data_in_leaf": 3, "learning_rate": 0.1}
    quiet = {"verbosity": -1, "num_threads": 1, "deterministic": True, "seed": 0}
    booster = lgb.train({**settings, **quiet}, lgb.Dataset(totals, np.log(seconds)), num_boost_round=300)
    return lambda steps: np.exp(booster.predict(steps, num_threads=1))


def forest(totals: F64, seconds: F64, graph_sizes: F64) -> Predict:
    """A random forest on the log of the time, as Vidur's predictor (MLSys 2024) on each operator."""
    model = RandomForestRegressor(200, random_state=0, n_jobs=1).fit(totals, np.log(seconds))
    return lambda steps: np.exp(model.predict(steps))


def ridge(totals: F64, seconds: F64, graph_sizes: F64) -> Predict:
    """Ridge regression on the physics features, relative errors, weights of either sign."""
    features = physics_of(totals, graph_sizes)
    scale = features.max(axis=0) + 1e-30
    model = Ridge(alpha=1e-3, fit_intercept=False).fit(features / scale, seconds, sample_weight=seconds**-2)
    return lambda steps: np.maximum(model.predict(physics_of(steps, graph_sizes) / scale), 1e-6)


def roofline(totals: F64, seconds: F64, graph_sizes: F64) -> Predict:
    """launch + max(compute, memory), linear in tokens, attention work and KV read; five constants fitted."""

    def times(logs: F64, steps: F64) -> F64:
        launch, weights, token, work, kv = np.exp(logs)
        tokens = steps[:, PREFILL_TOKENS] + steps[:, DECODE_ROWS]
        compute = token * tokens + work * steps[:, PREFILL_WORK]
        memory = weights + kv * (steps[:, DECODE_CONTEXT] + steps[:, PREFILL_CONTEXT])
        return launch + np.maximum(compute, memory)

    typical = float(np.median(seconds))
    tokens = float(np.mean(totals[:, PREFILL_TOKENS] + totals[:, DECODE_ROWS])) + 1
    work = float(np.mean(totals[:, PREFILL_WORK])) + 1
    kv = float(np.mean(totals[:, DECODE_CONTEXT] + totals[:, PREFILL_CONTEXT])) + 1
    start = np.log(typical / np.array([4, 2, 4 * tokens, 8 * work, 8 * kv]))
    found = least_squares(lambda logs: times(logs, totals) / seconds - 1, start, loss="soft_l1", f_scale=0.05)
    return lambda steps: times(found.x, steps)


PEERS = {
    "slotune: baseline x LightGBM": slotune,
    "slotune's baseline alone": baseline,
    "LightGBM alone": trees,
    "random forest": forest,
    "ridge on physics": ridge,
    "roofline": roofline,
}


def median_error(predicted: F64, measured: F64) -> float:
    """Median of |predicted / measured - 1|, in per cent."""
    return 100 * float(np.median(np.abs(predicted / measured - 1))) if len(measured) else float("nan")


def errors_by_regime(predict: Predict, totals: F64, seconds: F64) -> dict[str, float]:
    """Median error in per cent of each regime and of all steps."""
    predicted, kinds = predict(totals), np.array([name.split()[0] for name in regime_names(totals)])
    errors = {
        kind: median_error(predicted[kinds == kind], seconds[kinds == kind]) for kind in ("decode", "prefill", "mixed")
    }
    return {"all": median_error(predicted, seconds), **errors}
