"""Where compiled code is kept: compiled once for each state of the sources, whoever runs it and from wherever.

numba notices when the file of a compiled function changes, but not when a function that it calls changes in another
file (numba's "Notes on Caching"), and it refuses to run where both the sources and the home directory are read-only.
Here the folder carries the hash of all sources that hold compiled code, and lies in the temporary directory where there
is no home to write to.
"""

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path

COMPILED_PACKAGES = ("traces", "simulator")
UNUSED_AFTER_S = 14 * 24 * 3600


def use(environment: MutableMapping[str, str], package: Path) -> None:
    """Set NUMBA_CACHE_DIR in `environment`, unless it is set, to the folder for the sources in `package`."""
    if environment.get("NUMBA_CACHE_DIR"):
        return
    try:
        folder = _base(environment) / f"numba-{fingerprint(package)}"
        if folder.exists():
            with suppress(OSError):  # it may be read-only
                os.utime(folder)
        else:
            _drop_unused(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)
        environment["NUMBA_CACHE_DIR"] = str(folder)
    except OSError:  # nowhere to write at all: numba says so itself once it is needed
        return


@contextmanager
def taking_turns(environment: Mapping[str, str], package: Path, code: str) -> Iterator[None]:
    """Let one process after another in to compile `code`, until the first is through; from then on nobody waits.

    Those that waited find on disk what the first has compiled. Without a cache to write to, everybody compiles.
    """
    folder = environment.get("NUMBA_CACHE_DIR")
    if not folder or not os.access(folder, os.W_OK | os.X_OK):
        yield
        return
    compiled = Path(folder, f"{code}-{fingerprint(package)}.compiled")
    if compiled.exists():
        yield
        return
    with compiled.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        compiled.touch()


def fingerprint(package: Path, folders: Iterable[str] = COMPILED_PACKAGES) -> str:
    """A hash of the sources in these folders of `package`."""
    digest = hashlib.sha256()
    for name in folders:
        for source in sorted((package / name).rglob("*.py")):
            digest.update(str(source.relative_to(package)).encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _base(environment: Mapping[str, str]) -> Path:
    """The user's cache folder for slotune, else a private temporary one. Raises OSError without either."""
    home = environment.get("HOME", "")
    caches = environment.get("XDG_CACHE_HOME") or (home and f"{home}/.cache")
    if not caches:
        return _private_folder()
    folder = Path(caches) / "slotune"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return _private_folder()
    return folder if os.access(folder, os.W_OK | os.X_OK) else _private_folder()


def _private_folder() -> Path:
    """What lies in it is executed, so nobody else may have made it or may write to it."""
    import tempfile

    folder = Path(tempfile.gettempdir()) / f"slotune-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o022:
        return folder
    return Path(tempfile.mkdtemp(prefix="slotune-"))


def _drop_unused(base: Path) -> None:
    """Remove the folders that nobody has used for UNUSED_AFTER_S; another process may be at it too."""
    for folder in base.glob("numba-*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > UNUSED_AFTER_S:
                import shutil

                shutil.rmtree(folder)
