"""The corrected model: measured differences are learned, near ones most."""

import math

import numpy as np
import pytest

from slotune.simulator.engine_config import EngineConfig
from slotune.simulator.slo import parse_slo
from slotune.tuner.hardware.correction import REACH, Correction, learned
from slotune.tuner.objective import Objective
from slotune.tuner.study.comparison import Compared, quantities
from slotune.tuner.study.space import build_space

SPACE = build_space(EngineConfig(num_gpu_blocks=10000, max_model_len=8192), {})
SHOWN = quantities(Objective(slos=(parse_slo("p99:ttft:500"),)))
PREDICTED = {"p99_ttft_ms": 100.0, "mean_tpot_ms": 10.0, "duration": 7.0}


def ran(ttft_ms: float, **settings: object) -> Compared:
    return Compared("one", settings, PREDICTED, {0: {"p99_ttft_ms": ttft_ms, "mean_tpot_ms": float("nan")}})


def test_without_measurements_the_prediction_stands():
    assert learned([Compared("default", {}, PREDICTED)], SHOWN, SPACE).corrected({}, PREDICTED) == PREDICTED


def test_one_measurement_corrects_everything_by_its_ratio():
    correction = learned([ran(150.0)], SHOWN, SPACE)
    for settings in ({}, {"max_num_batched_tokens": 256, "max_num_seqs": 16}):
        corrected = correction.corrected(settings, PREDICTED)
        assert corrected["p99_ttft_ms"] == pytest.approx(150)
        assert corrected["mean_tpot_ms"] == 10  # never measured
        assert corrected["duration"] == 7  # never asked for


def test_near_measurements_count_most():
    small = {"max_num_batched_tokens": 256, "max_num_seqs": 16}
    correction = learned([ran(100.0), ran(400.0, **small)], SHOWN, SPACE)
    at_default = correction.corrected({}, PREDICTED)["p99_ttft_ms"]
    at_small = correction.corrected(small, PREDICTED)["p99_ttft_ms"]
    assert 100 < at_default < 200 < at_small < 400  # 200 is their geometric mean
    elsewhere = {"block_size": 64, "enable_prefix_caching": False, "enable_chunked_prefill": False}
    assert correction.corrected(elsewhere, PREDICTED)["p99_ttft_ms"] == pytest.approx(200, rel=0.25)


def test_a_measurement_one_width_away_counts_as_the_kernel_says():
    here = SPACE.vector({}) / np.maximum(SPACE.sizes() - 1, 1)
    correction = Correction(SPACE, np.array([here, here + REACH]), {"p99_ttft_ms": np.log([2.0, 8.0])})
    weight = math.exp(-0.5)
    expected = (math.log(4) + math.log(2) + weight * math.log(8)) / (1 + 1 + weight)
    assert correction.corrected({}, PREDICTED)["p99_ttft_ms"] == pytest.approx(100 * math.exp(expected))


def test_what_was_measured_as_nothing_teaches_nothing():
    assert learned([ran(0.0)], SHOWN, SPACE).corrected({}, PREDICTED) == PREDICTED


def test_settings_outside_the_space_teach_nothing():
    assert learned([ran(150.0, max_num_seqs=7)], SHOWN, SPACE).corrected({}, PREDICTED) == PREDICTED


def test_what_targets_read_is_corrected_where_requests_are_not_answered():
    predicted = PREDICTED | {"p99_ttft_ms_of_all": 120.0, "p99_tpot_ms_of_all": 11.0}
    one = Compared("one", {}, predicted, {0: {"p99_ttft_ms": 300.0, "p99_ttft_ms_of_all": 360.0}})
    corrected = learned([one], SHOWN, SPACE).corrected({}, predicted)
    assert (corrected["p99_ttft_ms"], corrected["p99_ttft_ms_of_all"]) == pytest.approx((300, 360))
    assert corrected["p99_tpot_ms_of_all"] == 11


def test_a_run_with_too_few_answers_is_no_better_than_the_default():
    """Nor is the mean over the other runs what it measured."""
    (limit,) = [quantity for quantity in SHOWN if quantity.slo]
    good, few = {"p99_ttft_ms": 90.0, "completed": 100.0}, {"p99_ttft_ms": 90.0, "completed": 50.0, "failed": 50.0}
    default = Compared("default", {}, PREDICTED, {0: good, 1: good, 2: good})
    one = Compared("one", {"max_num_seqs": 16}, PREDICTED, {0: good, 1: few, 2: few})
    assert math.isinf(one.measured(limit).value) and math.isinf(one.against(default, limit).value)
    assert math.isnan(one.prediction_error(limit))
    assert learned([one], SHOWN, SPACE).corrected({}, PREDICTED)["p99_ttft_ms"] == 100.0
