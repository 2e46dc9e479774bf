"""What vLLM gets in place of its scheduler class, and what the engine is said to have decided."""

import json
import sys
from functools import partialmethod
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from slotune.profiler import recorder
from slotune.profiler.recorder import make_scheduler
from slotune.tests.profiler.plain_scheduler import Scheduler


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_diffusion_models_keep_their_own_scheduler_where_vllm_has_one(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool, is_known: bool
) -> None:
    places = {"Scheduler": "scheduler", "AsyncScheduler": "async_scheduler"}
    if is_known:
        places |= dict.fromkeys(("DiffusionScheduler", "DiffusionAsyncScheduler"), "diffusion_scheduler")
    for package in ("vllm", "vllm.v1", "vllm.v1.core", "vllm.v1.core.sched"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    sched = sys.modules["vllm.v1.core.sched"]
    for name, place in places.items():
        module = sys.modules.get(f"{sched.__name__}.{place}") or ModuleType(place)
        setattr(module, name, name)
        monkeypatch.setitem(sys.modules, f"{sched.__name__}.{place}", module)
        monkeypatch.setattr(sched, place, module, raising=False)
    config = SimpleNamespace(scheduler_config=SimpleNamespace(async_scheduling=asynchronous), diffusion_config=object())
    plain = "AsyncScheduler" if asynchronous else "Scheduler"
    assert recorder._base_scheduler(config) == f"{'Diffusion' if is_known else ''}{plain}"
    config.diffusion_config = None
    assert recorder._base_scheduler(config) == plain


def test_an_unasked_recorder_leaves_the_scheduler_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recorder, "_base_scheduler", lambda config: lambda **words: Scheduler())
    monkeypatch.setattr(recorder, "_facts", lambda config, kv: {"num_gpu_blocks": kv.num_blocks})
    monkeypatch.setenv("SLOTUNE_FACTS", str(tmp_path / "facts.json"))
    monkeypatch.setenv("SLOTUNE_STEPS", "")
    config = SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_rank=0))
    scheduler = make_scheduler(vllm_config=config, kv_cache_config=SimpleNamespace(num_blocks=7))
    assert type(scheduler) is Scheduler
    assert json.loads((tmp_path / "facts.json").read_text()) == {"num_gpu_blocks": 7}


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Of the second of two engines of a dense model: vLLM gives each the rank 0 and an index of its own."""
    monkeypatch.setattr(recorder, "_base_scheduler", lambda config: Scheduler)
    monkeypatch.setattr(Scheduler, "__init__", partialmethod(lambda self, **words: None))
    return SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_rank=0, data_parallel_index=1))


def test_engines_side_by_side_write_files_of_their_own(
    config: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOTUNE_STEPS", str(tmp_path / "steps.jsonl"))
    scheduler = make_scheduler(vllm_config=config)
    scheduler.shutdown()
    assert [path.name for path in tmp_path.iterdir()] == ["steps.jsonl.1"]


@pytest.mark.parametrize(("name", "value"), [("SLOTUNE_STEPS", "/nowhere/steps.jsonl"), ("SLOTUNE_STEPS_MIB", "many")])
def test_what_cannot_be_recorded_does_not_keep_the_engine_from_starting(
    config: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv("SLOTUNE_STEPS", str(tmp_path / "steps.jsonl"))
    monkeypatch.setenv(name, value)
    assert type(make_scheduler(vllm_config=config)) is Scheduler
    assert "no steps are recorded" in capsys.readouterr().err


def tensor(size: int, **others: object) -> SimpleNamespace:
    return SimpleNamespace(size=size, **others)


@pytest.mark.parametrize(
    "tensors",
    [
        [tensor(300, shared_by=["a"]), tensor(400, shared_by=["b"])],
        [tensor(300, shared_by=["a"], block_stride=0), tensor(400, shared_by=["b"], block_stride=0)],
        [tensor(700, shared_by=["a"], block_stride=70), tensor(700, shared_by=["b"], block_stride=70)],
        [tensor(700, layers=["a"], block_stride=30), tensor(700, layers=["b"], block_stride=40)],
    ],
)
def test_bytes_of_a_block_in_the_forms_that_versions_of_vllm_tell_them(tensors: list[object]) -> None:
    """0.20; 0.25, by itself and packed; 0.32."""
    assert recorder._bytes_per_block(SimpleNamespace(kv_cache_tensors=tensors, num_blocks=10)) == 70


@pytest.mark.parametrize(
    ("names", "text", "token_bytes"),
    [
        (["m.0.self_attn.attn", "m.0.self_attn.indexer.k_cache"], {"index_head_dim": 128}, 132),
        (["m.0.attn", "m.3.indexer.index_cache"] * 2, {"sparse_attention_config": {"sparse_index_dim": 128}}, 512),
        (["m.0.self_attn.attn"], {}, 0),
    ],
)
def test_bytes_of_index_keys_are_told_apart(names: list[str], text: dict[str, Any], token_bytes: int) -> None:
    model = SimpleNamespace(model_config=SimpleNamespace(hf_text_config=SimpleNamespace(**text)))
    cache = SimpleNamespace(kv_cache_groups=[SimpleNamespace(layer_names=names)])
    assert recorder._index_bytes(model, cache) == token_bytes
