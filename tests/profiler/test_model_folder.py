"""What a model folder says before an engine is started for nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from slotune.errors import InputError
from slotune.profiler.model_folder import read_model_folder

TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
NEWER_POOLING = POOLING | {"type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"}


@pytest.mark.parametrize("pooling", [POOLING, NEWER_POOLING])
def test_a_model_whose_modules_pool_is_refused_before_an_engine_starts(
    model_folder: Path, pooling: dict[str, Any]
) -> None:
    (model_folder / "modules.json").write_text(json.dumps([TRANSFORMER, pooling]))
    told = "its modules.json names a Pooling module: vLLM embeds or classifies with it and generates nothing; give"
    with pytest.raises(InputError, match=f"^--model {model_folder}: {told}"):
        read_model_folder(str(model_folder))


@pytest.mark.parametrize("modules", [[TRANSFORMER], [], {"modules": [POOLING]}, ["Pooling"]])
def test_other_modules_leave_a_model_that_generates(model_folder: Path, modules: Any) -> None:
    (model_folder / "modules.json").write_text(json.dumps(modules))
    assert read_model_folder(str(model_folder)) is not None


def test_modules_that_are_no_json_are_told_by_their_file(model_folder: Path) -> None:
    (model_folder / "modules.json").write_text("[")
    with pytest.raises(InputError, match=r"modules\.json: not readable as JSON"):
        read_model_folder(str(model_folder))


@pytest.mark.parametrize(
    ("architecture", "generates"),
    [
        ("Qwen3ForSequenceClassification", False),
        ("BertForTokenClassification", False),
        ("InternLM2ForRewardModel", False),
        ("LlamaForCausalLM", True),
        ("GPT2LMHeadModel", True),
        ("Gemma3ForConditionalGeneration", True),
    ],
)
def test_an_architecture_that_classifies_is_refused(model_folder: Path, architecture: str, generates: bool) -> None:
    (model_folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    if generates:
        assert read_model_folder(str(model_folder)) == {"architectures": [architecture]}
        return
    with pytest.raises(InputError, match=f"its config.json names {architecture}: vLLM embeds or classifies"):
        read_model_folder(str(model_folder))


def test_vllm_goes_by_the_first_architecture(model_folder: Path) -> None:
    architectures = ["LlamaForCausalLM", "LlamaForRewardModel"]
    (model_folder / "config.json").write_text(json.dumps({"architectures": architectures}))
    assert read_model_folder(str(model_folder)) == {"architectures": architectures}
