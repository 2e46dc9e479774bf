"""A profile fitted to step records: what it refuses, what it assumes, what it says of both."""

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.profiler.fitted_profile import fitted_profile
from slotune.profiler.surrogate.samples import StepSamples
from slotune.profiler.surrogate.surrogate import fit
from slotune.simulator.features import DECODE_ROWS, PREFILL_TOKENS, totals_of
from slotune.simulator.settings import parse_settings

NGRAM = {
    "method": "ngram",
    "num_speculative_tokens": 1,
    "rejection_sample_method": "synthetic",
    "synthetic_acceptance_rates": [0.5],
}


def test_records_of_a_machine_that_is_slow_by_turns_teach_no_trees() -> None:
    """A day of traffic in 20 parts: within each the steps are alike, and so is what disturbs the machine."""
    rng = np.random.default_rng(5)
    sizes = np.stack([rng.integers(1, 128, 1600), 2 ** rng.uniform(3, 11, 1600)], axis=1).astype(int)
    parts = sizes[np.lexsort(sizes.T[::-1])].reshape(20, 80, 2)[rng.permutation(20)].reshape(1600, 2)
    rows = [(np.array([1] * count + [chunk]), rng.integers(1, 4000, count + 1)) for count, chunk in parts]
    steps = np.array([totals_of(*row) for row in rows])
    disturbed = (5e-3 + parts @ [1e-4, 2e-5]) * np.repeat(np.exp(rng.normal(0, 0.2, 20)), 80)
    samples = StepSamples(steps, disturbed)
    assert fit(samples).residual is not None
    assert fitted_profile(samples, {"enforce_eager": True}, "day").step.residual is None


@pytest.mark.parametrize(("name", "limit", "most"), [("max_num_batched_tokens", 2048, 3010), ("max_num_seqs", 8, 11)])
def test_records_that_are_larger_than_the_engine_s_limits_are_of_another(name: str, limit: int, most: int) -> None:
    rows = [(np.append(np.ones(10, np.int64), chunk), np.full(11, 500)) for chunk in np.arange(10, 3001, 10)]
    steps = np.array([totals_of(*row) for row in rows])
    samples = StepSamples(steps, 5e-3 + 1e-5 * steps[:, PREFILL_TOKENS])
    with pytest.raises(InputError, match=f"{name}={limit}: a recorded step has {most} "):
        fitted_profile(samples, {name: limit}, "day")
    assert not [note for note in fitted_profile(samples, {}, "day").notes if "a recorded step" in note]


def test_records_beyond_vllm_s_defaults_are_told() -> None:
    steps = np.array([totals_of(np.array([tokens]), np.array([0])) for tokens in range(10, 16000, 40)])
    notes = fitted_profile(StepSamples(steps, 5e-3 + 1e-5 * steps[:, PREFILL_TOKENS]), {}, "day").notes
    assert [note for note in notes if note.startswith("a recorded step has 15970 tokens, and max_num_batched_tokens=")]


@pytest.mark.parametrize(("factor", "every", "told"), [(2, 50, 0), (50, 50, 1), (12, 2000, 1)])
def test_records_of_a_machine_that_stalled_say_what_is_left_out(factor: float, every: int, told: int) -> None:
    """Also where it is half a per cent of the time, which a mean hardly shows and a p99 does."""
    steps = np.array([totals_of(np.ones(rows, np.int64), np.full(rows, 500)) for rows in range(1, 41)] * 50)
    durations = (5e-3 + 1e-4 * steps[:, DECODE_ROWS]) * np.where(np.arange(2000) % every == 7, factor, 1)
    notes = fitted_profile(StepSamples(steps, durations), {"enforce_eager": True}, "day").notes
    about = [note for note in notes if "% of the recorded time was in stalls" in note]
    assert [note.endswith("p99 latencies are too low by them") for note in about] == [True] * told


@pytest.mark.parametrize(
    ("settings", "assumed"),
    [
        ({}, True),
        ({"async_scheduling": True}, False),
        ({"async_scheduling": False}, False),
        ({"speculative_config": NGRAM}, False),  # vLLM turns it off
    ],
)
def test_that_steps_are_taken_to_be_scheduled_ahead_is_told_where_nobody_says_it(
    settings: dict[str, object], assumed: bool
) -> None:
    """A request that arrives waits for one step more, which it does not where an engine ran without."""
    steps = np.array([totals_of(np.ones(rows, np.int64), np.full(rows, 500)) for rows in range(1, 41)])
    samples = StepSamples(steps, 5e-3 + 1e-4 * steps[:, DECODE_ROWS])
    notes = fitted_profile(samples, {"enforce_eager": True} | settings, "day").notes
    told = "async_scheduling=true is assumed, vLLM's default on a GPU: give --engine async_scheduling=false if"
    assert [note.startswith(told) for note in notes if "async_scheduling" in note] == [True] * assumed


@pytest.mark.parametrize(
    ("settings", "stairs", "told"),
    [
        ({}, 1, "CUDA graphs of up to 512 tokens are assumed; --engine enforce_eager=true assumes none"),
        ({"cudagraph_capture_sizes": [8, 256]}, 1, None),
        ({"enforce_eager": True}, 1, None),
        ({"cudagraph_capture_sizes": [64, 256]}, 0, "no CUDA graphs are assumed: with vLLM's, "),
    ],
)
def test_what_is_taken_of_graphs_is_told_where_nobody_says_it(
    settings: dict[str, object], stairs: int, told: str | None
) -> None:
    """Steps that take as long as the next eight tokens do, or as their own do."""
    rows = np.arange(1, 200)
    steps = np.array([totals_of(np.ones(count, np.int64), np.full(count, 500)) for count in rows])
    durations = 1e-3 + 1e-4 * np.where(stairs, np.ceil(rows / 8) * 8, rows)
    notes = fitted_profile(StepSamples(steps, durations), settings, "day").notes
    about = [note for note in notes if "CUDA" in note]
    assert [note.startswith(told) for note in about] == [True] if told else about == []


def test_records_of_pipeline_stages_are_refused() -> None:
    samples = StepSamples(np.array([totals_of(np.array([1]), np.array([1]))]), np.array([1e-3]))
    with pytest.raises(InputError, match=r"pipeline_parallel_size=2: step records do not tell"):
        fitted_profile(samples, {"pipeline_parallel_size": 2}, "p")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("dtype=16", "dtype=16: takes a name"),
        ("attention_backend=5", "attention_backend=5: takes a name"),
        ("quantization=[1]", r"quantization=\[1\]: takes a name, not list"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(setting: str, told: str) -> None:
    steps = np.array([totals_of(np.ones(rows, np.int64), np.full(rows, 500)) for rows in range(1, 20)])
    samples = StepSamples(steps, 5e-3 + 1e-4 * steps[:, DECODE_ROWS])
    with pytest.raises(InputError, match=told):
        fitted_profile(samples, parse_settings([setting]), "p")
