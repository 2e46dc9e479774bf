"""A model folder, for tests that need no real one."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder that looks like a model's."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 4096, "num_hidden_layers": 8, "hidden_size": 512}
    (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": 8, "num_key_value_heads": 2}))
    return folder
