"""Where the configuration of a model comes from: the package of kernel tables, a folder, or a hub that may be away."""

import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
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
