"""A folder in which one process at a time may write."""

import fcntl
import os
from pathlib import Path

from ..errors import InputError


def hold(folder: Path, refusal: str) -> int:
    """Hold the folder for this process: a descriptor, whose closing, or the end of the process, frees the folder.

    Raises InputError with `refusal` where another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(f"{folder}: {refusal}") from error
    return descriptor
