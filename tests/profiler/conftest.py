"""A model folder, for tests that need no real one, and a profile as of an engine that was measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from slotune.profiler.profile import Profile, linear_profile
from slotune.profiler.provenance import MEASURED
from slotune.profiler.surrogate.model import RegimeError
from slotune.simulator.timing import Overhead


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder that looks like a model's."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 4096, "num_hidden_layers": 8, "hidden_size": 512}
    (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": 8, "num_key_value_heads": 2}))
    return folder


@pytest.fixture
def measured() -> Profile:
    """Measured under vLLM's defaults in bfloat16, with CUDA graphs; half its steps within 2 %."""
    profile = linear_profile(4e-3, 4e-5, 1.1e-4, 2.1e-7, name="mine")
    step = replace(profile.step, held_out=(RegimeError("all", 100, 0.02, 0.03, 0.08, 0.01),))
    engine = replace(profile.engine, dtype="bfloat16", kv_cache_dtype="auto")
    overhead = Overhead(before_s=4e-3, after_s=2e-3)
    return replace(profile, source=MEASURED, step=step, engine=engine, overhead=overhead, cuda_graphs=True)
