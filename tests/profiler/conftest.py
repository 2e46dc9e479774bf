"""A stand-in engine and a model folder, for tests that need no real one."""

import json
import sys
from pathlib import Path

import pytest


@pytest.fixture
def fake_vllm(tmp_path: Path) -> Path:
    """A `vllm` command (fake_vllm.py); its first line names no interpreter that could be asked for vLLM."""
    script = Path(__file__).with_name("fake_vllm.py")
    command = tmp_path / "bin" / "vllm"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -P {script} "$@"\n')
    command.chmod(0o755)
    return command


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder that looks like a model's."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 4096, "num_hidden_layers": 8, "hidden_size": 512}
    (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": 8, "num_key_value_heads": 2}))
    return folder
