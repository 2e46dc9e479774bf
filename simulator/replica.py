"""One simulated engine as the outside sees it: requests go in, the step loop is advanced, steps and gaps come out."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..arrays import Mask
from . import loop
from .features import TOTALS
from .request_table import FINISHED
from .state import VLLM_V1, Engine, forget, start
from .step_time import StepTimeModel, new_memo

StepSink = Callable[["Replica"], None]
"""Takes the steps in a replica's log before the log is emptied."""


class Replica:
    """One engine. Its clock runs ahead of the fleet's, but never past a moment at which the outside could matter."""

    def __init__(self, index: int, engine: Engine, model: StepTimeModel, sink: StepSink | None) -> None:
        self.index = index
        self.engine = engine
        self.next_s = 0.0
        """When the engine decides something next, given what it knows."""
        self._model = model
        policy = int(engine.rules[0].policy)
        self._compared_policy = None if policy == VLLM_V1 else policy
        self._scratch = (new_memo(model), np.zeros(TOTALS))
        self._state = engine.state[0]
        # Routers ask for these at every request: a column is read twenty times faster than an attribute of a record.
        self._num_ended, self._num_arrivals = engine.state["num_ended"], engine.state["num_arrivals"]
        self._free_blocks, self._free_before = engine.state["free_blocks"], engine.state["free_before"]
        self._now_s, self._finish_s = engine.state["now_s"], engine.requests["finish_s"]
        self._sink = sink
        self._gaps: list[npt.NDArray[np.void]] = []
        self.recorded_steps = 0
        self._ended_before = 0

    def send(self, request: int) -> None:
        """A request is on its way; it reaches the engine at its ready_s."""
        arrivals, ready_s = self.engine.arrivals, self.engine.requests["ready_s"]
        place, reached = self._num_arrivals.item(), self.engine.state["next_arrival"].item()
        while place > reached and ready_s[arrivals[place - 1]] > ready_s[request]:
            arrivals[place] = arrivals[place - 1]
            place -= 1
        arrivals[place] = request
        self._num_arrivals += 1

    def send_all(self, requests: npt.NDArray[np.int64]) -> None:
        """Everything that will ever be sent, in any order."""
        order = np.argsort(self.engine.requests.ready_s[requests], kind="stable")
        self.engine.arrivals[: len(requests)] = requests[order]
        self._state.num_arrivals = len(requests)

    def starts(self, now_s: float, dies_s: float) -> None:
        """Up from `now_s` on, with nothing cached; what its steps would end after `dies_s` is lost."""
        start(self.engine, now_s, dies_s)
        self.next_s = now_s
        self._ended_before = self.ended

    def lose(self) -> npt.NDArray[np.int64]:
        """Forget every request that was sent and has not ended, as a process that dies does; returns them."""
        sent = self.engine.arrivals[: self._state.num_arrivals]
        lost: npt.NDArray[np.int64] = sent[self.engine.requests.status[sent] < FINISHED]
        forget(self.engine, lost)
        self._state.next_arrival = self._state.num_arrivals  # what was on its way is lost too
        return lost

    def advance(self, horizon_s: float, stop_after: int) -> int:
        """Run until the horizon or until `stop_after` requests have ended; returns the reason, as loop.advance."""
        recording = self._sink is not None
        while True:
            reason, self.next_s = loop.advance(
                self.engine, self._model, *self._scratch, horizon_s, stop_after, recording, self._compared_policy
            )
            if reason != loop.LOG_FULL:
                return int(reason)
            self.drain()

    def never_served(self) -> Mask:
        """(requests,): which ones it will refuse whenever they get here."""
        never = np.zeros(len(self.engine.requests), np.bool_)
        loop.mark_never_served(self.engine, never)
        return never

    @property
    def sheds(self) -> bool:
        """Whether it may refuse what it could serve."""
        return bool(self.engine.rules[0].max_queued_reqs or self.engine.rules[0].max_queued_tokens)

    def admit(self, until_s: float) -> None:
        """Let in, or refuse, what has arrived by `until_s`."""
        loop.admit_arrivals(self.engine, until_s)

    def drain(self) -> None:
        """Hand over what is in the log."""
        state = self._state
        self._gaps.append(self.engine.gap_log[: state.logged_gaps].copy())
        if self._sink is not None:
            self._sink(self)
            self.recorded_steps += int(state.logged_steps)
        state.logged_steps = state.logged_rows = state.logged_preempted = state.logged_gaps = 0

    def gaps(self) -> list[npt.NDArray[np.void]]:
        """All inter-token latencies so far and how often each occurred, as GAP_LOG records, piece by piece."""
        self.drain()
        return self._gaps

    @property
    def ended(self) -> int:
        """Requests that have ended."""
        return int(self._num_ended.item())

    def ended_request(self, place: int) -> int:
        """The request that ended as number `place`."""
        return int(self.engine.ended[place])

    def outstanding(self, now_s: float) -> int:
        """Requests sent since it started and not ended by `now_s`."""
        by_now = self.ended
        while by_now > 0 and self._finish_s[self.engine.ended[by_now - 1]] > now_s:
            by_now -= 1  # the clock is at most one step ahead: what ended in it ended last
        return int(self._num_arrivals.item()) - (by_now - self._ended_before)

    def free_at(self, now_s: float) -> int:
        """KV blocks that are free at `now_s`: those of what ends in a step are so when the step has ended."""
        free = self._free_before if self._now_s.item() > now_s else self._free_blocks  # at most one step ahead
        return int(free.item())
