"""Compiled code has a place of its own for each state of the sources, wherever one can write."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slotune import compile_cache


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name in compile_cache.COMPILED_PACKAGES:
        (tmp_path / "package" / name).mkdir(parents=True)
        (tmp_path / "package" / name / "a.py").write_text("x = 1\n")
    return tmp_path / "package"


def chosen(package: Path, **environment: str) -> str:
    compile_cache.use(environment, package)
    return environment["NUMBA_CACHE_DIR"]


def test_the_folder_is_one_for_each_state_of_the_sources(package: Path, tmp_path: Path) -> None:
    home = str(tmp_path)
    first = chosen(package, HOME=home)
    assert Path(first).parent == tmp_path / ".cache" / "slotune"
    assert chosen(package, HOME=home) == first
    (package / "simulator" / "a.py").write_text("x = 2\n")
    assert chosen(package, HOME=home) != first


def test_what_the_user_set_stays(package: Path) -> None:
    assert chosen(package, HOME="/nonexistent", NUMBA_CACHE_DIR="/elsewhere") == "/elsewhere"


def test_without_a_home_it_is_a_folder_nobody_else_can_write(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    private = Path(chosen(package)).parent
    assert private == tmp_path / f"slotune-{os.getuid()}"
    assert private.stat().st_mode & 0o077 == 0
    private.chmod(0o777)  # as somebody else would have prepared it
    assert Path(chosen(package)).parent != private


def test_a_folder_unused_for_long_is_dropped(package: Path, tmp_path: Path) -> None:
    base = tmp_path / ".cache" / "slotune"
    old, young = base / "numba-old", base / "numba-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    chosen(package, HOME=str(tmp_path))
    assert not old.exists()
    assert young.exists()


def test_compiled_code_runs_and_is_kept_without_a_home(tmp_path: Path) -> None:
    code = "from slotune.simulator import features"  # holds functions that are compiled and cached
    environment = {"HOME": "/proc/nonexistent", "TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd="/", check=True)
    assert list(tmp_path.glob("slotune-*/numba-*"))
