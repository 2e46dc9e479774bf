"""A profile from kernel tables: the bundled one, what is sampled, and imports where the package is installed."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.profiler.profile_folder import load_profile
from slotune.profiler.silicon import silicon_profile
from slotune.profiler.silicon.layout import Layout, layout_of
from slotune.profiler.silicon.silicon_profile import import_silicon, sample_compositions
from slotune.profiler.silicon.tables import Composition, KernelTables
from slotune.profiler.trust_page import lines
from slotune.simulator.features import totals_of
from slotune.simulator.step_time import WITHIN, reach_of, step_times_s

LLAMA = "meta-llama/Meta-Llama-3.1-8B"


@pytest.mark.parametrize(
    ("rows", "least_ms", "most_ms"),
    [
        ([(1, 1024)], 4.3, 5.5),
        ([(1, 1024)] * 32, 6.0, 7.5),
        ([(1, 1024)] * 128, 9.5, 12.0),
        ([(512, 0)], 11.5, 16.0),
        ([(2048, 0)], 42.0, 55.0),
        ([(8191, 0)], 190.0, 230.0),
    ],
)
def test_the_bundled_profile_lies_where_an_h200_does(
    rows: list[tuple[int, int]], least_ms: float, most_ms: float
) -> None:
    model = load_profile("h200-llama-3.1-8b").timing().step
    totals = totals_of(*np.array(rows).T)
    assert least_ms <= step_times_s(model, totals[None])[0] * 1e3 <= most_ms
    assert reach_of(model, totals) == WITHIN


def test_the_bundled_profile_is_small_and_needs_no_heavy_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "vllm", "aiconfigurator_core", "lightgbm"):
        monkeypatch.setitem(sys.modules, name, None)
    profile = load_profile("h200-llama-3.1-8b")
    engine = profile.engine_config({})
    assert 800_000 < engine.num_gpu_blocks * engine.block_size < 1_000_000
    assert (engine.max_num_batched_tokens, engine.max_num_seqs, engine.max_model_len) == (8192, 1024, 131072)
    folder = Path(silicon_profile.__file__).parents[1] / "bundled" / "h200-llama-3.1-8b"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2 << 20


def test_totals_of_a_composition_are_those_of_its_rows() -> None:
    step = Composition(3, 50, 200, 4, 90, 200)
    rows = [(50, 200)] * 3 + [(1, 90)] * 4
    assert step.totals().tolist() == totals_of(*np.array(rows).T).tolist()


def test_samples_cover_all_regimes_and_fit_the_cache() -> None:
    steps = list(sample_compositions(capacity_tokens=100_000, max_context=8192, seed=0))
    regimes = {(step.prefill_rows > 0, step.decode_rows > 0) for step in steps}
    assert regimes == {(True, False), (False, True), (True, True)}
    for step in steps:
        held = step.prefill_rows * (step.prefill_context + step.chunk_tokens) + step.decode_rows * step.decode_context
        assert held <= 100_000 and step.tokens <= silicon_profile.MAX_TOKENS
        assert not step.prefill_rows or step.chunk_tokens >= 2, "one token after a context would be a decode"
        assert step.max_context <= 8192
    assert steps == list(sample_compositions(capacity_tokens=100_000, max_context=8192, seed=0))


def test_samples_are_after_contexts_and_of_unequal_ones() -> None:
    steps = list(sample_compositions(capacity_tokens=400_000, max_context=8192, seed=0))
    assert 0.4 < np.mean([step.prefill_context > 0 for step in steps if step.prefill_rows]) < 0.6
    decodes = [step for step in steps if not step.prefill_rows]
    assert all(step.max_context == step.decode_context for step in decodes if step.decode_rows == 1)
    ratios = [step.max_context / step.decode_context for step in decodes if 1 < step.decode_rows < 20]
    assert min(ratios) < 1.1 and 3 < max(ratios) <= silicon_profile.MAX_SKEW


def test_a_third_of_the_samples_fill_a_budget() -> None:
    steps = list(sample_compositions(capacity_tokens=400_000, max_context=8192, seed=0))
    for prefill, decode in [(True, False), (False, True), (True, True)]:
        tokens = [s.tokens for s in steps if ((s.prefill_rows > 0), (s.decode_rows > 0)) == (prefill, decode)]
        assert 0.3 < np.mean([count & (count - 1) == 0 for count in tokens if count > 32]) < 0.4


def test_a_full_budget_costs_what_the_tables_say_where_one_token_more_costs_a_sixth_more() -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    profile = import_silicon("h200_sxm", LLAMA, 1, "p", precision="fp8")
    tables = KernelTables("h200_sxm", LLAMA, layout_of(1, 1, "fp8", {}))
    full = [
        Composition(1, tokens - decodes, 0, decodes, 1000, 1500) for tokens in (512, 1024, 2048) for decodes in (16, 32)
    ]
    more = [replace(step, chunk_tokens=step.chunk_tokens + 1) for step in full]
    sizes = profile.step.graph_sizes
    table_ms, more_ms = (np.array([tables.step_ms(step, sizes) for step in steps]) for steps in (full, more))
    assert (more_ms > 1.16 * table_ms).all(), "the cliff that the fit must not smooth"
    fitted_ms = 1e3 * step_times_s(profile.step.model, np.array([step.totals() for step in full]))
    assert fitted_ms == pytest.approx(table_ms, rel=0.08)


def test_a_context_beyond_the_tables_is_extrapolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model takes ten million tokens, the attention tables end at 131,072."""
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    monkeypatch.setattr(silicon_profile, "SAMPLED_STEPS", 1 << 10)
    profile = import_silicon("h100_sxm", "meta-llama/Llama-4-Scout-17B-16E-Instruct", 8, "p")
    assert profile.engine_config({}).max_model_len == 10485760
    model = profile.timing().step
    decodes = [totals_of(np.array([1]), np.array([context])) for context in (100_000, 1_000_000)]
    chunks = [totals_of(np.array([2048]), np.array([context])) for context in (50_000, 1_000_000)]
    assert [reach_of(model, totals) != WITHIN for totals in (*decodes, *chunks)] == [False, True, False, True]


@pytest.mark.parametrize(
    ("system", "model", "precision", "doubted"),
    [
        ("b200_sxm", "Qwen/Qwen3-32B-FP8", None, True),
        ("h200_sxm", "Qwen/Qwen3-30B-A3B", "fp8", True),
        ("h200_sxm", "meta-llama/Meta-Llama-3.1-70B", "fp8", False),
        ("h200_sxm", LLAMA, None, False),
        ("b200_sxm", LLAMA, "nvfp4", False),
    ],
)
def test_of_weights_of_fewer_bits_that_take_longer_no_error_is_told(
    monkeypatch: pytest.MonkeyPatch, system: str, model: str, precision: str | None, doubted: bool
) -> None:
    """80 ms a token of the first, and 13 of the same model in bfloat16, on the same GPU."""
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    monkeypatch.setattr(silicon_profile, "SAMPLED_STEPS", 1 << 9)
    trust = import_silicon(system, model, 1, "p", precision=precision).trust()
    assert ("with weights in bfloat16, which are more bytes" in lines(trust)[1]) == doubted
    assert (trust["expected_error"]["mean_tpot"] is None) == doubted == bool(trust["doubts"])


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("Qwen/Qwen3-30B-A3B", "one kernel at a time under vLLM 0.24.0"),
        ("nvidia/Llama-3.1-70B-Instruct-FP8", "58% of a step of 64 decodes, 79% of a prefill of 2048 tokens"),
    ],
)
def test_what_no_kernel_was_measured_for_is_told(monkeypatch: pytest.MonkeyPatch, model: str, told: str) -> None:
    """All GEMMs of the second but the logits are scaled from others."""
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    monkeypatch.setattr(silicon_profile, "SAMPLED_STEPS", 1 << 9)
    (note,) = (note for note in import_silicon("h100_sxm", model, 2, "p").notes if note.startswith("kernel times"))
    assert note.endswith(told)


@pytest.mark.parametrize(("precision", "told"), [("fp8", True), ("fp8_block", False), (None, False)])
def test_what_checkpoints_fp8_stands_for_is_told(
    monkeypatch: pytest.MonkeyPatch, precision: str | None, told: bool
) -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    monkeypatch.setattr(silicon_profile, "SAMPLED_STEPS", 1 << 9)
    notes = import_silicon("h100_sxm", "Qwen/Qwen3-8B", 1, "p", precision=precision).notes
    assert any("one scale a tensor" in note and note.endswith("is fp8_block") for note in notes) == told


def test_more_context_than_the_model_takes_is_refused_at_import_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    monkeypatch.setattr(silicon_profile, "SAMPLED_STEPS", 1 << 9)
    told = "max_model_len=262144: the model takes 131072 tokens"
    with pytest.raises(InputError, match=told):
        import_silicon("h200_sxm", LLAMA, 1, "p", settings={"max_model_len": 262144})
    profile = import_silicon("h200_sxm", LLAMA, 1, "p", settings={"max_model_len": 8192})
    assert profile.engine_config({"max_model_len": 131072}).max_model_len == 131072
    with pytest.raises(InputError, match=told):
        profile.engine_config({"max_model_len": 262144})


def test_without_the_package_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiconfigurator_core", None)
    monkeypatch.setitem(sys.modules, "aiconfigurator_core.sdk", None)
    with pytest.raises(InputError, match=r"pip install 'slotune\[silicon\]'"):
        import_silicon("h200_sxm", LLAMA, 1, "p")


def test_tables_that_a_model_does_not_use_are_not_warned_of(tmp_path: Path) -> None:
    """Six lines for a Llama. In a process of its own, since the package warns once."""
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    words = ("profile", "import", "silicon", "--system", "h200_sxm", "--model", LLAMA, "--out", str(tmp_path / "p"))
    done = subprocess.run([sys.executable, "-m", "slotune.cli", *words], capture_output=True, text=True, check=True)
    assert "low-fidelity" not in done.stderr


def test_what_the_package_does_not_know_is_named(tmp_path: Path, slotune: Callable[..., tuple[int, str, str]]) -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    command = ("profile", "import", "silicon", "--out", tmp_path / "p")
    code, _, err = slotune(*command, "--system", "h900", "--model", LLAMA)
    assert code == 2 and "h200_sxm" in err
    code, _, err = slotune(*command, "--system", "b60", "--model", LLAMA)
    assert code == 2 and err.count("b60") == 1, "no CUDA device, and not offered in place of itself"
    code, _, err = slotune(*command, "--system", "h200_sxm", "--model", LLAMA, "--tp", 3)
    assert code == 2 and "tp 3" in err
    code, _, err = slotune(*command, "--system", "a100_sxm", "--model", "Qwen/Qwen3-32B-FP8", "--tp", 8)
    assert code == 2 and "no kernel tables for --model Qwen/Qwen3-32B-FP8" in err
    assert not (tmp_path / "p").exists()


def test_an_import_is_the_bundled_profile_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    monkeypatch.setattr(silicon_profile, "SAMPLED_STEPS", 1 << 10)
    profile = import_silicon("h200_sxm", LLAMA, 1, "p")
    bundled = load_profile("h200-llama-3.1-8b").timing().step
    assert profile.samples is not None and len(profile.samples) > 700
    error = np.abs(step_times_s(bundled, profile.samples.totals) / profile.samples.duration_s - 1)
    assert np.median(error) < 0.015


def test_pipeline_stages_hold_a_share_of_the_layers_and_pass_tokens_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    monkeypatch.setattr(silicon_profile, "SAMPLED_STEPS", 1 << 9)
    one, two = (import_silicon("h200_sxm", LLAMA, 1, "p", pp=stages) for stages in (1, 2))
    assert one.kv is not None and two.kv is not None
    assert two.kv.kv_bytes_per_token == one.kv.kv_bytes_per_token / 2
    assert two.engine_config({}).num_gpu_blocks > 2 * one.engine_config({}).num_gpu_blocks
    assert two.engine_config({}).pipeline_parallel_size == 2
    step, sizes = Composition(1, 2048, 0, 0, 0, 0), np.array([512.0])
    times = [KernelTables("h200_sxm", LLAMA, Layout(1, pp)).step_ms(step, sizes) for pp in (1, 2, 4)]
    assert times == sorted(times) and times[0] < times[2] < 1.1 * times[0]
    assert "2 pipeline stages: no measured run" in two.notes[0]


@pytest.mark.parametrize("asked", [{}, {"kv_cache_dtype": "fp8"}])
def test_an_fp8_model_has_the_cache_that_is_asked_for(asked: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    monkeypatch.setattr(silicon_profile, "SAMPLED_STEPS", 1 << 9)
    profile = import_silicon("h200_sxm", "Qwen/Qwen3-30B-A3B-FP8", 1, "p", settings=asked)
    blocks = {dtype: profile.engine_config({"kv_cache_dtype": dtype}).num_gpu_blocks for dtype in ("auto", "fp8")}
    assert blocks["fp8"] == pytest.approx(2 * blocks["auto"], abs=1)
    assert profile.engine_config({}).num_gpu_blocks == blocks[asked.get("kv_cache_dtype", "auto")]
    assert 16 * blocks["auto"] == pytest.approx(1_068_816, abs=16), "97.85 GiB over 96 KiB: a cache of bfloat16"


def test_batch_limits_are_those_of_the_gpu() -> None:
    """vllm/engine/arg_utils.py, get_batch_defaults: an A100 has a smaller GPU's, whatever its memory."""
    limits = {name: silicon_profile._batch_defaults(name, 80 * 2**30) for name in ("a100_sxm", "h100_sxm")}
    assert limits["a100_sxm"] == {"max_num_batched_tokens": 2048, "max_num_seqs": 256}
    assert limits["h100_sxm"] == {"max_num_batched_tokens": 8192, "max_num_seqs": 1024}
