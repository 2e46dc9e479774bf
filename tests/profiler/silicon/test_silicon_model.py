"""Where the configuration of a model comes from: the package of kernel tables, a folder, or a hub that may be away."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import URLError

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.profiler.silicon.layout import Layout
from slotune.profiler.silicon.tables import Composition, KernelTables

STEP = Composition(1, 512, 0, 64, 512, 512)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> NoReturn:
        raise URLError("no route to the hub")

    monkeypatch.setattr(urllib.request, "urlopen", away)


@pytest.mark.usefixtures("no_network")
def test_a_model_that_is_not_to_be_had_is_told_with_what_may_be_given(
    tmp_path: Path, slotune: Callable[..., tuple[int, str, str]]
) -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    command = ("profile", "import", "silicon", "--system", "h200_sxm", "--out", tmp_path / "p", "--model")
    code, _, err = slotune(*command, "Qwen/Qwen3-9B")
    assert code == 2 and err.count("\n") == 1
    assert "no route to the hub" in err and "give a folder with its config.json, or Qwen/Qwen3-8B" in err
    code, _, err = slotune(*command, "unheard-of")
    assert code == 2 and err.endswith("give a folder with its config.json\n")


@pytest.mark.usefixtures("no_network")
def test_a_folder_is_a_model(tmp_path: Path) -> None:
    package = pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    configs = Path(package.__file__).parent / "model_configs"
    (tmp_path / "config.json").write_bytes((configs / "Qwen--Qwen3-8B_config.json").read_bytes())
    named, folder = (KernelTables("h200_sxm", model, Layout(1)) for model in ("Qwen/Qwen3-8B", str(tmp_path)))
    assert folder.step_ms(STEP, np.array([]), True) == named.step_ms(STEP, np.array([]), True) > 0


@pytest.mark.usefixtures("no_network")
def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    with pytest.raises(InputError, match=r"config\.json"):
        KernelTables("h200_sxm", str(tmp_path), Layout(1))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("change", "layout", "told"),
    [
        ({"num_key_value_heads": None}, Layout(1), "config.json has no num_key_value_heads; add it"),
        ({}, Layout(12), "--tp 12: its 8 KV heads cannot be cut so"),
        ({}, Layout(1, pp=37), "--pp 37: it has 36 layers"),
        ({"num_hidden_layers": 0}, Layout(1), "it has 0 layers"),
        ({"rope_scaling": "yarn"}, Layout(1), "rope_scaling is 'yarn'"),
        ({"sparse_attention_config": {"sparse_attention_freq": 3}}, Layout(1), "freq is 3, and vLLM reads a list"),
        ({"sparse_attention_config": [1]}, Layout(1), "sparse_attention_config is [1]"),
        ({"sliding_window": "none"}, Layout(1), "sliding_window is 'none'"),
        ({"num_hidden_layers": "36"}, Layout(1), "no kernel tables for --model"),
        ({"num_attention_heads": None}, Layout(1), "no kernel tables for --model"),
    ],
)
def test_a_configuration_that_tells_too_little_or_cannot_be_laid_out_so_is_refused(
    tmp_path: Path, change: dict[str, Any], layout: Layout, told: str
) -> None:
    package = pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    known = Path(package.__file__).parent / "model_configs" / "Qwen--Qwen3-8B_config.json"
    config = {name: value for name, value in (json.loads(known.read_text()) | change).items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError) as raised:
        KernelTables("h200_sxm", str(tmp_path), layout)
    assert told in str(raised.value)


def test_an_unknown_precision_is_told_as_one() -> None:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    with pytest.raises(InputError, match="--precision FP8 is unknown"):
        KernelTables("h200_sxm", "Qwen/Qwen3-8B", Layout(1, precision="FP8"))
