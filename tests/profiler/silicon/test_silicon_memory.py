"""The estimate of the KV capacity of an engine that was never started."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from slotune.errors import InputError
from slotune.profiler.kv_capacity import GIB, KvCapacity, KvObservation
from slotune.profiler.profile import linear_profile
from slotune.profiler.silicon import silicon_profile
from slotune.profiler.silicon.layout import Layout
from slotune.profiler.silicon.memory import DENSE_ERROR_GIB, GRAPHS_GIB, LINK_GIB, estimated_kv, kv_note
from slotune.profiler.silicon.silicon_profile import import_silicon
from slotune.profiler.silicon.tables import KernelTables
from slotune.profiler.silicon.weights import _dense_layers, stage_layers
from slotune.profiler.trust_page import lines

Slotune = Callable[..., tuple[int, str, str]]
LLAMA, QWEN_32B = "meta-llama/Meta-Llama-3.1-8B", "Qwen/Qwen3-32B"
SETTINGS = {"max_num_batched_tokens": 8192, "max_num_seqs": 1024, "block_size": 16}


def estimate(model: str, system: str = "h100_sxm", layout: Layout | None = None, **more: float) -> KvCapacity:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    layout = layout or Layout()
    found = estimated_kv(KernelTables(system, model, layout), **more)
    assert found is not None
    return found


def test_an_8b_model_on_an_h100() -> None:
    """Weights of 8.03e9 parameters in bfloat16, 0.13 of runtime, 1.2 of graphs, and a step of 8192 tokens."""
    capacity = estimate(LLAMA)
    assert capacity.total_bytes == 79.18 * GIB
    assert capacity.bytes_per_batched_token == 2 * (3 * 14336 + 4 * 4096)
    assert capacity.fixed_bytes / GIB == pytest.approx(14.96 + 0.13 + 1.2, abs=0.01)


@pytest.mark.parametrize(
    ("model", "layout", "loaded_gib"),
    [("Qwen/Qwen3-0.6B", Layout(), 1.12), ("meta-llama/Meta-Llama-3.1-70B", Layout(2, precision="fp8"), 33.88)],
)
def test_weights_are_those_of_start_logs(model: str, layout: Layout, loaded_gib: float) -> None:
    """What loading took in the logs that benchmarks/accuracy/kv_capacity.py names; the first ties its embeddings."""
    runtime = 0.13 + LINK_GIB * (layout.tp - 1)
    weights = estimate(model, layout=layout, graphs_gib=0.0).fixed_bytes / GIB - runtime
    assert weights == pytest.approx(loaded_gib, abs=0.06)


def test_weights_of_a_mixture_are_those_of_its_parameters() -> None:
    """DeepSeek-V3 has 671e9 in fp8, its embeddings in bfloat16; three of its 61 layers are dense, and eight GPUs share
    the embeddings. The package has 6 GiB more."""
    embeddings = 2 * 129_280 * 7168
    weights = estimate("deepseek-ai/DeepSeek-V3", "h200_sxm", Layout(8), graphs_gib=0.0).fixed_bytes / GIB
    parameters_gib = (671e9 + embeddings) / 8 / GIB
    assert weights - 0.13 - 3 * LINK_GIB == pytest.approx(parameters_gib, abs=1.0)


@pytest.mark.parametrize(("layers", "stages", "held"), [(61, 1, [61]), (61, 2, [31, 30]), (61, 8, [7, 7, *[8] * 5, 7])])
def test_vllm_gives_the_layers_that_are_left_to_the_stages_before_the_last(
    layers: int, stages: int, held: list[int]
) -> None:
    assert stage_layers(layers, stages) == held


def test_the_fullest_stage_of_a_pipeline_counts() -> None:
    """Of DeepSeek-V3's eight stages some have eight layers, all mixtures: 1.37 GiB more each than a mean layer."""
    layout = Layout(1, pp=8)
    weights = estimate("deepseek-ai/DeepSeek-V3", "h200_sxm", layout, graphs_gib=0.0).fixed_bytes / GIB - 0.13
    mixture = 256 * 3 * 7168 * 2048 / GIB
    assert 8 * mixture < weights < 8 * (mixture + 0.3)


def test_dense_layers_are_counted_by_either_of_their_names() -> None:
    """MiniMax-M3 has them as first_k_dense_replace, its checkpoint in NVFP4 as zeros of moe_layer_freq."""
    tables = KernelTables("b200_sxm", "nvidia/MiniMax-M3-NVFP4", Layout(4))
    mixtures_only = dict(tables.model_info, raw_config={"text_config": {}})
    assert _dense_layers(tables.model_info) == 3 and _dense_layers(mixtures_only) == 0


def test_a_model_without_dense_layers_has_the_mixtures_that_are_counted() -> None:
    weights = estimate("Qwen/Qwen3-235B-A22B-FP8", layout=Layout(4), graphs_gib=0.0).fixed_bytes / GIB
    embeddings = 2 * 151_936 * 4096  # which are in bfloat16, both
    assert weights - 0.13 - 2 * LINK_GIB == pytest.approx((235.1e9 + embeddings) / 4 / GIB, abs=0.1)


@pytest.mark.parametrize(
    ("model", "tp", "token_bytes"),
    [
        ("MiniMaxAI/MiniMax-M3", 1, 60 * 4 * 2 * 128 * 2 + 57 * 128 * 2),
        ("MiniMaxAI/MiniMax-M3", 4, 60 * 1 * 2 * 128 * 2 + 57 * 128 * 2),
        ("nvidia/MiniMax-M3-NVFP4", 8, 60 * 1 * 2 * 128 * 2 + 57 * 128 * 2),
        ("zai-org/GLM-5.2-FP8", 8, 78 * 576 * 2 + 21 * 132),
        ("zai-org/GLM-5-FP8", 8, 78 * 576 * 2 + 78 * 132),
        ("nvidia/GLM-5.2-NVFP4", 8, 78 * 576 + 21 * 132),
    ],
)
def test_index_keys_are_held_whole_by_each_gpu_and_in_layers_that_have_an_indexer(
    model: str, tp: int, token_bytes: int
) -> None:
    """What vLLM's own KV-cache specs of these models add up to."""
    system = "b200_sxm" if "NVFP4" in model or tp == 1 else "h200_sxm"
    capacity = estimate(model, system, Layout(tp))
    assert capacity.kv_bytes_per_token == token_bytes


@pytest.mark.parametrize(("made_with", "expected"), [("auto", 60 * 256 * 2), ("fp8", 60 * 256)])
def test_index_keys_keep_their_format_whatever_the_cache_has(made_with: str, expected: int) -> None:
    capacity = estimate("MiniMaxAI/MiniMax-M3", layout=Layout(8, kv_cache_dtype=made_with))
    assert capacity.block_bytes(SETTINGS | {"kv_cache_dtype": made_with}) == 16 * (expected + 57 * 256)
    assert capacity.block_bytes(SETTINGS | {"kv_cache_dtype": "fp8"}) == 16 * (60 * 256 + 57 * 256)


@pytest.mark.parametrize("layout", [Layout(), Layout(2), Layout(pp=2)])
def test_an_image_encoder_is_cut_like_a_layer_and_on_every_stage(layout: Layout) -> None:
    """Qwen3-VL-8B's has 27 layers, and four projections to the width of Qwen3-8B, which is the rest of it."""
    width, wider = 1152, 4 * 1152
    parameters = 27 * (4 * width**2 + 2 * width * 4304) + 4 * (wider**2 + wider * 4096)
    images, text = (estimate(model, layout=layout) for model in ("Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3-8B"))
    assert images.fixed_bytes - text.fixed_bytes == pytest.approx(2 * parameters / layout.tp, rel=0.01)
    assert images.error_bytes - text.error_bytes == 2 * GIB
    assert images.kv_bytes_per_token == text.kv_bytes_per_token


def test_what_an_image_encoder_takes_while_it_runs_is_told_to_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    monkeypatch.setattr(silicon_profile, "SAMPLED_STEPS", 1 << 9)
    notes = [
        "".join(import_silicon("h100_sxm", model, 1, "p").notes)
        for model in ("Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3-8B")
    ]
    assert ["without what the image encoder takes while it runs, to about 3 GiB" in told for told in notes] == [
        True,
        False,
    ]


def test_two_gpus_share_what_a_token_takes_and_hold_more_of_the_runtime() -> None:
    one, two = (estimate(QWEN_32B, layout=Layout(tp)) for tp in (1, 2))
    assert two.kv_bytes_per_token == one.kv_bytes_per_token / 2
    assert one.bytes_per_batched_token - two.bytes_per_batched_token == 3 * 25600
    runtime = GIB * (0.13 + GRAPHS_GIB)
    assert two.fixed_bytes - runtime == pytest.approx((one.fixed_bytes - runtime) / 2 + GIB * LINK_GIB, rel=0.01)


def test_a_32b_model_fits_one_h100_but_for_its_whole_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM 0.11 ran it with 18,227 tokens, beside a sampler that took 4 GiB."""
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    monkeypatch.setattr(silicon_profile, "SAMPLED_STEPS", 1 << 9)
    graphs = import_silicon("h100_sxm", QWEN_32B, 1, "p")
    with pytest.raises(InputError, match=r"max_model_len=40960: larger than the KV cache of 36880 tokens"):
        graphs.engine_config({"gpu_memory_utilization": 0.92})
    assert graphs.engine_config({"max_model_len": 32768}).num_gpu_blocks == 36896 // 16


@pytest.mark.parametrize(
    ("model", "given", "refused"),
    [
        (LLAMA, (), False),
        (LLAMA, ("--engine", "num_gpu_blocks_override=3"), True),
        (QWEN_32B, ("--engine", "gpu_memory_utilization=0.92"), False),
    ],
)
def test_a_profile_is_written_unless_its_user_s_settings_are_what_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, slotune: Slotune, model: str, given: tuple[str, ...], refused: bool
) -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    monkeypatch.setattr(silicon_profile, "SAMPLED_STEPS", 1 << 9)
    words = ("--system", "h100_sxm", "--model", model, *given, "--out", tmp_path / "p", "--json")
    code, out, _ = slotune("profile", "import", "silicon", *words)
    assert (code, (tmp_path / "p").exists()) == ((2, False) if refused else (0, True))
    assert refused or (json.loads(out)["num_gpu_blocks"] is None) == (model == QWEN_32B)


def test_a_gpu_of_which_no_log_is_known_has_nearly_its_nominal_memory() -> None:
    assert estimate(LLAMA, "b300_sxm").total_bytes == pytest.approx(0.99 * 268.59375 * GIB)


def test_a_mixture_takes_what_its_active_experts_do() -> None:
    assert estimate("Qwen/Qwen3-30B-A3B").bytes_per_batched_token == 2 * (3 * 8 * 768 + 4 * 2048)
    shared = estimate("deepseek-ai/DeepSeek-V3", "h200_sxm", Layout(8))
    assert shared.bytes_per_batched_token == 2 * (3 * 9 * 2048 / 8 + 4 * 7168)


def test_without_the_sizes_a_token_takes_what_the_package_says() -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    tables = KernelTables("h100_sxm", LLAMA, Layout())
    tables.model_info = tables.model_info | {"inter_size": 0}
    capacity = estimated_kv(tables)
    assert capacity is not None and capacity.bytes_per_batched_token * 8192 == 0.6875 * GIB


def test_what_does_not_fit_is_refused() -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    with pytest.raises(InputError, match=r"70B --tp 1: leaves no memory for a KV cache on h100_sxm; give more GPUs or"):
        import_silicon("h100_sxm", "meta-llama/Meta-Llama-3.1-70B", 1, "p")


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("Qwen/Qwen3.5-397B-A17B", {}),
        ("meta-llama/Meta-Llama-3.1-70B", {"kv_cache_memory_bytes": int(10 * GIB)}),
        (LLAMA, {"kv_cache_memory_bytes": int(70 * GIB)}),
    ],
)
def test_weights_that_no_gpu_holds_are_refused_whatever_is_known_of_the_cache(
    model: str, settings: dict[str, float]
) -> None:
    """The first, of 738 GiB, keeps states of two kinds, and its cache is not modelled."""
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    with pytest.raises(InputError, match=r"leaves no memory for a KV cache on h100_sxm"):
        import_silicon("h100_sxm", model, 1, "p", settings=settings)


def test_the_error_is_told_as_a_share_of_the_cache() -> None:
    capacity = KvCapacity(1024, total_bytes=30 * GIB, fixed_bytes=7 * GIB, error_bytes=DENSE_ERROR_GIB * GIB)
    settings = {**SETTINGS, "gpu_memory_utilization": 0.9}
    assert DENSE_ERROR_GIB == 1.0
    assert "about 1 GiB a GPU: 5 % of the KV cache" in kv_note(capacity, settings)
    told = replace(linear_profile(5e-3, 2e-5, 5e-5, 0.0), kv=capacity)
    wide, narrow = ({"gpu_memory_utilization": share} for share in (0.95, 0.5))
    assert told.trust(wide)["expected_error"]["kv_cache"] == pytest.approx(1 / 21.5, rel=0.01)
    assert "the size of the KV cache is an estimate, up to 12% off" in " ".join(lines(told.trust(wide, narrow)))
    assert "is an estimate" not in " ".join(lines(told.trust(wide)))
    assert told.trust(narrow | {"num_gpu_blocks_override": 9})["expected_error"]["kv_cache"] is None
    for refused in ({"gpu_memory_utilization": 0.05}, {"gpu_memory_utilization": 0.24, "max_model_len": 300_000}):
        assert told.trust(wide, refused)["expected_error"] == told.trust(wide)["expected_error"]
    assert capacity.error_share(settings | {"gpu_memory_utilization": 0.05}) == 0
    started = capacity.observed([KvObservation(settings, 20_000)])
    assert replace(told, kv=started).trust(narrow)["expected_error"]["kv_cache"] is None
    assert kv_note(None, settings) == "KV capacity is not known"


@pytest.mark.parametrize(
    ("layout", "bytes_per_token"),
    [
        (Layout(), 131_072),  # keys and values of 32 layers, 8 heads of 128 elements, 2 bytes each
        (Layout(kv_cache_dtype="fp8"), 131_072),  # the format of a cache is a setting (KvCapacity.block_bytes)
        (Layout(4), 32_768),
        (Layout(pp=3), 45_056),  # of eleven layers: the first stages have as many, the last ten
    ],
)
def test_a_token_s_keys_and_values_on_the_fullest_gpu(layout: Layout, bytes_per_token: int) -> None:
    assert estimate(LLAMA, layout=layout).kv_bytes_per_token == bytes_per_token


def test_the_runtime_grows_with_every_doubling_of_the_gpus() -> None:
    one, four = (estimate(QWEN_32B, layout=Layout(tp)).fixed_bytes / GIB for tp in (1, 4))
    assert four - (0.13 + 1.2 + 2 * 0.42) == pytest.approx((one - 0.13 - 1.2) / 4, rel=0.01)


def test_estimates_may_be_off_by_more_the_more_a_model_is_cut_and_mixed() -> None:
    assert [estimate(model).error_bytes / GIB for model in (LLAMA, "Qwen/Qwen3-30B-A3B")] == [1.0, 2.0]
    assert estimate(LLAMA, layout=Layout(2)).error_bytes / GIB == 1.5
    assert estimate("deepseek-ai/DeepSeek-V3", "h200_sxm", Layout(8)).error_bytes / GIB == 3.0
