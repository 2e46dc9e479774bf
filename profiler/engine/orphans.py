"""What a killed supervisor leaves behind: processes of the engine, which are still of its session.

An engine that is not ended keeps its memory, and the next one starts beside it.
"""

import os
import signal
import time
from contextlib import suppress

import psutil

from .supervisor import ORPHAN_WAIT_S

POLL_S = 0.05


def end_session(leader: int, grace_s: float) -> None:
    """End every process of the session that `leader` led: SIGTERM, `grace_s`, SIGKILL. Nothing happens where none is
    left."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, ORPHAN_WAIT_S)):
        for process in _members(leader):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        deadline = time.monotonic() + wait_s
        while _members(leader) and time.monotonic() < deadline:
            time.sleep(POLL_S)


def _members(leader: int) -> list[psutil.Process]:
    """The living processes of the session."""
    members = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members
