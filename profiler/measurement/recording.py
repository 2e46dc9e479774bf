"""Reading the steps that an engine writes as they come, also when it was killed in the middle of a line."""

import time
from collections.abc import Mapping
from pathlib import Path

from ...simulator.steps import StepRecord, parse_step

POLL_S = 0.01


class StepTail:
    """The new records of a growing file; a line that is not yet whole is left for later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._lines = 0

    def read(self) -> list[StepRecord]:
        """Records that came since the last call; none as long as there is no file."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        records = []
        for line in whole.decode().splitlines():
            self._lines += 1
            records.append(parse_step(line, f"{self._path}:{self._lines}"))
        return records

    def read_until(self, computed: Mapping[str, int], timeout_s: float) -> list[StepRecord]:
        """New records, up to the steps in which each of these requests has so many tokens computed.

        The engine's recorder writes a moment after the client has its answer. What has not come by the timeout is left
        out: the recorder stops on a full disk.
        """
        missing = dict(computed)
        records: list[StepRecord] = []
        deadline = time.monotonic() + timeout_s
        while True:
            fresh = self.read()
            records += fresh
            for record in fresh:
                for name, tokens, context in record.rows:
                    if context + tokens >= missing.get(name, context + tokens + 1):
                        del missing[name]
            if not missing or time.monotonic() > deadline:
                return records
            time.sleep(POLL_S)
