"""A Dask cluster on this machine that ends with the block that started it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client

STARTS_WITHIN_S = 120


class Loopback:
    """A scheduler and workers of one thread, each a process of its own that ends with the test."""

    def __init__(self, folder: Path, allowed_failures: int = 3) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(allowed_failures),
        }
        port = _free_port()
        self.address = f"tcp://127.0.0.1:{port}"
        self.scheduler = self._start("scheduler", "--port", str(port))
        self.workers: list[subprocess.Popen[bytes]] = []

    def _start(self, what: str, *words: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "dask", what, *words, "--host", "127.0.0.1", "--no-dashboard"]
        with (self._folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)

    def start_workers(self, count: int) -> None:
        """Start workers and wait until they are there."""
        words = (self.address, "--nthreads", "1", "--no-nanny", "--local-directory", str(self._folder))
        self.workers = [self._start("worker", *words) for _ in range(count)]
        with Client(self.address, timeout=STARTS_WITHIN_S, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=STARTS_WITHIN_S)

    def stop(self) -> None:
        """Nothing of it is left."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def loopback(folder: Path, workers: int, allowed_failures: int = 3) -> Iterator[Loopback]:
    """A cluster of so many workers; `folder` has its logs, and modules in it are found by the workers."""
    started = Loopback(folder, allowed_failures)
    try:
        started.start_workers(workers)
        yield started
    finally:
        started.stop()
