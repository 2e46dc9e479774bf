"""How a model is laid out over GPUs and in which formats: what the tables follow, and what they do not."""

import pytest

from slotune.errors import InputError
from slotune.profiler.silicon.layout import Layout, layout_of


@pytest.mark.parametrize(
    ("settings", "mend"),
    [
        ({"quantization": "fp8"}, "give --precision"),
        ({"dtype": "float16"}, "leave it out"),
        ({"tensor_parallel_size": 2}, "give it as --tp"),
        ({"pipeline_parallel_size": 2}, "give it as --pp"),
        ({"speculative_config": {"method": "ngram"}}, "leave it out"),
        ({"enforce_eager": True}, "leave it out, or measure"),
    ],
)
def test_settings_that_tables_do_not_follow_are_refused(settings: dict[str, object], mend: str) -> None:
    with pytest.raises(InputError, match=f"{next(iter(settings))}=.*{mend}"):
        layout_of(1, 1, None, settings)


def test_settings_that_change_nothing_are_taken() -> None:
    layout = layout_of(2, 1, "fp8", {"tensor_parallel_size": 2, "dtype": "auto", "quantization": None, "seed": 1})
    assert layout == Layout(2, precision="fp8")
    assert layout_of(1, 1, None, {"dtype": "bfloat16", "data_parallel_size": 1}) == Layout()


@pytest.mark.parametrize("where", ["raw_config", "text_config"])
def test_weights_in_blocks_are_not_taken_for_weights_with_one_scale(where: str) -> None:
    """vLLM serves them by other kernels, whatever the tables that are asked for."""
    blocks = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    info = {"raw_config": blocks if where == "raw_config" else {"text_config": blocks}}
    for precision in ("fp8", "fp8_static"):
        with pytest.raises(InputError, match=f"--precision {precision} has one scale.*give fp8_block"):
            Layout(precision=precision).arguments(info, 90)
    for precision in ("fp8_block", "bfloat16", None):
        assert Layout(precision=precision).arguments(info, 90)["gemm_quant_mode"] == precision
    for other in ({"quant_method": "fp8"}, {"quant_method": "compressed-tensors", "weight_block_size": [128, 128]}):
        assert Layout(precision="fp8").arguments({"raw_config": {"quantization_config": other}}, 90)


def test_a_cache_has_the_format_that_vllm_would_give_it() -> None:
    """vLLM's auto is the model's own dtype unless the checkpoint names another; the tables would take fp8."""
    plain, named = {"raw_config": {"quant_algo": "fp8"}}, {"raw_config": {"kv_cache_quant_algo": "fp8"}}
    assert [Layout().cache_format(info, 90) for info in (plain, named)] == ["bfloat16", "fp8"]
    assert Layout(kv_cache_dtype="fp8_e5m2").cache_format(plain, 90) == "fp8"
    with pytest.raises(InputError, match="kv_cache_dtype=nvfp4"):
        Layout(kv_cache_dtype="nvfp4").cache_format(plain, 90)


def test_the_cache_of_glm_5_is_in_fp8_on_data_centre_blackwell_unless_asked_otherwise() -> None:
    glm = {"raw_config": {"architectures": ["GlmMoeDsaForCausalLM"]}}
    assert [Layout().cache_format(glm, sm) for sm in (90, 100, 103, 120)] == ["bfloat16", "fp8", "fp8", "bfloat16"]
    assert Layout(kv_cache_dtype="bfloat16").cache_format(glm, 100) == "bfloat16"


def test_experts_have_the_precision_of_the_other_weights() -> None:
    assert Layout(precision="fp8_static").arguments({"num_experts": 8}, 90)["moe_quant_mode"] == "fp8"
    assert Layout(precision="fp8").arguments({"num_experts": 0}, 90)["moe_quant_mode"] is None


@pytest.mark.parametrize(("expert_parallel", "cut", "spread"), [(False, 4, 1), (True, 1, 4)])
def test_experts_are_cut_or_spread(expert_parallel: bool, cut: int, spread: int) -> None:
    told = Layout(4, expert_parallel=expert_parallel).arguments({"num_experts": 8}, 90)
    assert (told["tp_size"], told["moe_tp_size"], told["moe_ep_size"]) == (4, cut, spread)
