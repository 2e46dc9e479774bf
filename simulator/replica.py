"""One simulated engine as the outside sees it: requests go in, the step loop is advanced, steps and gaps come out."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from . import loop
from .features import TOTALS
from .state import FREE_BLOCKS, NEXT_ARRIVAL, NOW, NUM_ARRIVALS, NUM_EXTRAPOLATED, NUM_FINISHED, NUM_STEPS
from .state import Contents, Engine, Requests, Rules
from .step_time import StepTimeModel, new_memo

StepSink = Callable[["Replica"], None]
"""Takes the steps in a replica's log before the log is emptied."""


class Replica:
    """One engine. Its clock runs ahead of the fleet's, but never past a moment at which the outside could matter."""

    def __init__(
        self,
        index: int,
        rules: Rules,
        model: StepTimeModel,
        requests: Requests,
        contents: Contents,
        engine: Engine,
        sink: StepSink | None,
    ) -> None:
        self.index = index
        self.engine = engine
        self._fixed = (rules, model, requests, contents)
        self._requests = requests
        self._scratch = (new_memo(model), np.zeros(TOTALS))
        self._sink = sink
        self._gaps: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]] = []
        self.recorded_steps = 0

    def send(self, request: int) -> None:
        """A request is on its way; it reaches the engine at its ready_s."""
        arrivals, count, ready_s = self.engine.arrivals, self.engine.count, self._requests.ready_s
        place = int(count[NUM_ARRIVALS])
        while place > count[NEXT_ARRIVAL] and ready_s[arrivals[place - 1]] > ready_s[request]:
            arrivals[place] = arrivals[place - 1]
            place -= 1
        arrivals[place] = request
        count[NUM_ARRIVALS] += 1

    def send_all(self, requests: npt.NDArray[np.int64]) -> None:
        """Everything that will ever be sent, in any order."""
        order = np.argsort(self._requests.ready_s[requests], kind="stable")
        self.engine.arrivals[: len(requests)] = requests[order]
        self.engine.count[NUM_ARRIVALS] = len(requests)

    def advance(self, horizon_s: float, stop_after: int) -> int:
        """Run until the horizon or until `stop_after` requests have ended; returns the reason, as loop.advance."""
        while True:
            reason = loop.advance(
                *self._fixed, self.engine, *self._scratch, horizon_s, stop_after, self._sink is not None
            )
            if reason != loop.LOG_FULL:
                return int(reason)
            self.drain()

    def drain(self) -> None:
        """Hand over what is in the log."""
        log = self.engine.log
        gaps = int(log.counts[3])
        self._gaps.append((log.gap_s[:gaps].copy(), log.gap_count[:gaps].copy()))
        if self._sink is not None:
            self._sink(self)
            self.recorded_steps += int(log.counts[0])
        log.counts[:] = 0

    def gaps(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """All inter-token latencies so far and how often each occurred."""
        self.drain()
        return np.concatenate([g for g, _ in self._gaps]), np.concatenate([c for _, c in self._gaps])

    @property
    def next_s(self) -> float:
        """When the engine decides something next, given what it knows."""
        count = self.engine.count
        idle = not loop.has_work(self.engine)
        if idle and count[NEXT_ARRIVAL] < count[NUM_ARRIVALS]:
            return float(self._requests.ready_s[self.engine.arrivals[count[NEXT_ARRIVAL]]])
        return float(self.engine.clock[NOW])

    @property
    def ended(self) -> int:
        """Requests that have ended."""
        return int(self.engine.count[NUM_FINISHED])

    def ended_request(self, place: int) -> int:
        """The request that ended as number `place`."""
        return int(self.engine.finished[place])

    def outstanding(self, now_s: float) -> int:
        """Requests sent and not ended by `now_s`."""
        one_step = len(self.engine.running)  # the clock is at most one step ahead, which ends at most so many
        latest = self.engine.finished[max(0, self.ended - one_step) : self.ended]
        ahead = int(np.count_nonzero(self._requests.finish_s[latest] > now_s))
        return int(self.engine.count[NUM_ARRIVALS]) - self.ended + ahead

    @property
    def free_blocks(self) -> int:
        """KV blocks that are free."""
        return int(self.engine.count[FREE_BLOCKS])

    @property
    def steps(self) -> int:
        """Steps made."""
        return int(self.engine.count[NUM_STEPS])

    @property
    def extrapolated_steps(self) -> int:
        """Steps outside what the step-time model was measured on."""
        return int(self.engine.count[NUM_EXTRAPOLATED])
