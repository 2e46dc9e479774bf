"""Which values say no more than vLLM's defaults do."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from slotune.profiler.argument_defaults import DEFAULTS, is_unset


@pytest.mark.parametrize(
    ("name", "value", "unset"),
    [
        ("enable_flashinfer_autotune", True, True),
        ("enable_flashinfer_autotune", False, False),
        ("optimization_level", 2, True),
        ("optimization_level", 0, False),
        ("cpu_offload_gb", 0.0, True),
        ("cpu_offload_gb", 4.0, False),
        ("enable_lora", False, True),
        ("enable_lora", True, False),
        ("moe_backend", "auto", True),
        ("attention_backend", None, True),
        ("override_generation_config", {"a": 1}, False),
        ("compilation_config", {}, True),
        ("logits_processors", [], True),
        ("kv_transfer_config", {}, False),
        ("speculative_config", {}, False),
    ],
)
def test_a_value_is_unset_where_it_is_what_vllm_takes_anyway(name: str, value: Any, unset: bool) -> None:
    assert is_unset(name, value) == unset


VLLMS_OWN = """
import dataclasses, json, sys
from vllm.config.model import ModelConfig
from vllm.config.vllm import OPTIMIZATION_LEVEL_TO_CONFIG, VllmConfig
from vllm.engine.arg_utils import EngineArgs

found = {field.name: field.default for field in dataclasses.fields(EngineArgs)}
level = found["optimization_level"]
found["optimization_level"] = int(level)
found["disable_cascade_attn"] = ModelConfig.disable_cascade_attn
found |= OPTIMIZATION_LEVEL_TO_CONFIG[level]["kernel_config"]
print(json.dumps({name: found[name] for name in json.load(sys.stdin)}))
"""


@pytest.mark.engine
def test_every_default_is_vllms(vllm_python: str, tmp_path: Path) -> None:
    words = [vllm_python, "-c", VLLMS_OWN]
    names = json.dumps(list(DEFAULTS))
    done = subprocess.run(words, input=names, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout.splitlines()[-1]) == DEFAULTS
