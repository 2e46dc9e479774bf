"""Runs one command so that nothing of it outlives its user: `python -P supervisor.py PARENT_PID GRACE_S COMMAND...`.

An engine is a tree of processes, and a parent that is killed with SIGKILL cannot clean up. So this process stands
between: it adopts whatever the command's processes leave behind (PR_SET_CHILD_SUBREAPER), waits for a signal and looks
now and then whether its parent is still the same (pidfds would tell at once, but older kernels and some sandboxes have
none), and when the parent dies, the command ends or SIGTERM comes, it ends the whole tree: SIGTERM to the command,
`GRACE_S` seconds, then SIGKILL to every process that is left.
The command itself dies with this process (PR_SET_PDEATHSIG). Exits as the command did; 128 + n for signal n.

It imports psutil and nothing of slotune, so that it starts in no time and under any working directory.
"""

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""linux/prctl.h"""
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AWAITED = (*STOPS, signal.SIGCHLD)
PARENT_POLL_S = 0.2
"""How late a dead parent may be noticed."""
ORPHAN_WAIT_S = 5.0
"""How long a process may take to vanish after SIGKILL (a driver may be freeing GPU memory)."""


def main() -> int:
    parent, grace_s, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)  # kept until they are waited for: none comes too early
    if os.getppid() != parent:  # it died already
        return 0
    me = os.getpid()
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=lambda: _die_with(libc, me),  # noqa: PLW1509 - this process has one thread
    )
    while os.getppid() == parent and child.poll() is None:
        came = signal.sigtimedwait(AWAITED, PARENT_POLL_S)
        if came is not None and came.si_signo in STOPS:
            break
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    child.kill()
    code = child.wait()  # before psutil, which would take the exit code for itself
    _kill_descendants()
    return code if code >= 0 else 128 - code


def _die_with(libc: ctypes.CDLL, supervisor: int) -> None:
    for number in STOPS:  # the command may be stopped, whatever this process was started to ignore
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:
        os._exit(1)


def _kill_descendants() -> None:
    """SIGKILL every descendant until there is none: one that forks meanwhile leaves its child to this process."""
    while left := psutil.Process().children(recursive=True):
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        _, alive = psutil.wait_procs(left, timeout=ORPHAN_WAIT_S)
        if len(alive) == len(left):
            return  # in the kernel's hands: uninterruptible


if __name__ == "__main__":
    sys.exit(main())
