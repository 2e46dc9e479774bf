"""Files are there whole or as they were, with their mode, also where nothing can be put in their place."""

import errno
import os
from pathlib import Path

import pytest

from slotune.whole_file import whole_file, write_text


def test_a_file_keeps_its_mode_and_what_it_held_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    path.chmod(0o640)
    with pytest.raises(ValueError, match="half"), whole_file(path) as out:
        out.write(b"new")
        raise ValueError("half")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])
    write_text(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o640)


def test_a_file_that_is_mounted_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_text("a longer old one")

    def busy(self: Path, target: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(Path, "replace", busy)
    write_text(path, "new")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("new", [path])
