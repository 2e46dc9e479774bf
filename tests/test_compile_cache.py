"""Compiled code has a place of its own for each state of the sources, wherever one can write."""

import fcntl
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
    changed = chosen(package, HOME=home)
    assert changed != first
    (package / "simulator" / "room").mkdir()
    (package / "simulator" / "room" / "a.py").write_text("x = 3\n")
    assert chosen(package, HOME=home) not in (first, changed)


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


def test_a_folder_that_is_used_and_not_compiled_to_stays(package: Path, tmp_path: Path) -> None:
    used = chosen(package, HOME=str(tmp_path))
    os.utime(used, (0, 0))
    assert chosen(package, HOME=str(tmp_path)) == used
    (package / "simulator" / "a.py").write_text("x = 2\n")
    assert chosen(package, HOME=str(tmp_path)) != used and Path(used).exists()


def test_one_process_compiles_and_then_nobody_waits(package: Path, tmp_path: Path) -> None:
    environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
    with compile_cache.taking_turns(environment, package, "loop"):
        lock = next(tmp_path.glob("loop-*.lock")).open()
        with lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with next(tmp_path.glob("loop-*.lock")).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with compile_cache.taking_turns(environment, package, "loop"):
            pass  # would wait for ever for the lock that is held here
        (package / "simulator" / "a.py").write_text("x = 2\n")
    with compile_cache.taking_turns(environment, package, "loop"):
        assert len(list(tmp_path.glob("loop-*.lock"))) == 2  # other sources are compiled again


def test_who_fails_to_compile_leaves_it_to_the_next(package: Path, tmp_path: Path) -> None:
    environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
    with pytest.raises(KeyboardInterrupt), compile_cache.taking_turns(environment, package, "loop"):
        raise KeyboardInterrupt
    with compile_cache.taking_turns(environment, package, "loop"):
        assert not list(tmp_path.glob("*.compiled"))
    assert list(tmp_path.glob("*.compiled"))


@pytest.mark.parametrize("folder", ["", "/proc/nonexistent"])
def test_without_a_cache_everybody_compiles(package: Path, folder: str) -> None:
    with compile_cache.taking_turns({"NUMBA_CACHE_DIR": folder}, package, "loop"):
        pass
    assert not list(Path().glob("loop-*"))


def test_compiled_code_runs_and_is_kept_without_a_home(tmp_path: Path) -> None:
    code = "from slotune.simulator import features"  # holds functions that are compiled and cached
    environment = {"HOME": "/proc/nonexistent", "TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd="/", check=True)
    assert list(tmp_path.glob("slotune-*/numba-*"))
