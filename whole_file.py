"""Files that are written whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EBUSY, ELOOP
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

UNFINISHED = ".slotune-"
"""Begins the name of a file that is being written, and of one that was when its process was killed."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces the one at `path` only when it is complete: where writing fails, or the process is killed,
    the old one stays.

    A link stays one, and what is no file, such as a pipe or a device, is written to as it is.
    """
    if path.exists() and (not path.is_file() or path.is_relative_to("/dev")):  # /dev/stdout may be a file
        with path.open("wb") as out:
            yield out
        return
    try:
        path = path.resolve()
    except RuntimeError as error:  # links in a loop, which is an OSError from Python 3.13 on
        raise OSError(ELOOP, os.strerror(ELOOP), str(path)) from error
    unfinished = path.with_name(UNFINISHED + token_hex(8))  # its own: nobody's file, nor another writer's
    try:
        with unfinished.open("xb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        _put_in_place(unfinished, path)
    except OSError as error:
        error.filename = str(path)  # on a full disk none is named, and the other name is nobody's concern
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def _put_in_place(unfinished: Path, path: Path) -> None:
    """Let a file take the place and the mode of the one at `path`; what is mounted there can only be written to."""
    if path.exists():
        shutil.copymode(path, unfinished)
    try:
        unfinished.replace(path)
    except OSError as error:
        if error.errno != EBUSY:
            raise
        shutil.copyfile(unfinished, path)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as out:
        out.write(text.encode())
