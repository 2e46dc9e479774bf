"""Replicas that something couples: a router that looks at them, clients that wait for answers, or outages. SimPy.

Each replica is a process that advances its step loop to the next moment at which the outside can matter and then sleeps
until its own clock; the client is a process that sends; an outage is a process that takes its replica away and brings
it back.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from . import loop
from .clock import on_clock
from .outage import Outage
from .replica import Replica
from .request_table import FAILED, REJECTED
from .routing import Router
from .timing import Overhead

RETRIES = 1
"""How often a request whose replica died is sent again before it counts as failed: what proxies do by default."""


class Service:
    """A fleet at work. `sent_s` and `placed` (an entry a request) are told when and where each request went."""

    def __init__(
        self,
        fleet: Sequence[Replica],
        choose: Router,
        overhead: Overhead,
        sent_s: npt.NDArray[np.float64],
        placed: npt.NDArray[np.int64],
        max_concurrency: float,
        outages: Mapping[int, Sequence[Outage]],
    ) -> None:
        self._environment = simpy.Environment()
        self._fleet = fleet
        self._choose = choose
        self._overhead = overhead
        self._requests = fleet[0].engine.requests
        self._never_served = fleet[0].never_served()  # replicas are alike
        self._before_s = self._requests.ready_s - sent_s
        self._sent_s = sent_s
        self._placed = placed
        self._outages = outages
        self._up = [True] * len(fleet)
        self._losses = np.zeros(len(sent_s), np.int64)
        self.lost = np.zeros(len(sent_s), np.bool_)
        """(requests,): which have failed because they were lost with their replica, once `run` is over."""
        self._planned_rank = self._requests.rank.copy()
        _, self._priority_class, members = np.unique(self._requests.priority, return_inverse=True, return_counts=True)
        self._moment_s = np.full(len(members), -1.0)
        self._moments = (1 + RETRIES) * (np.cumsum(members) - members)  # a class has as many moments as it has sendings
        self._free_places = max_concurrency
        self._answered: simpy.Event | None = None  # what the client waits for while no place is free
        self._next_sending_s = 0.0
        self._failures_s = sorted(outage.start_s for plan in outages.values() for outage in plan)
        self._wake = [self._environment.event() for _ in fleet]

    def run(self) -> npt.NDArray[np.int64]:
        """Until every request has ended; returns how often each was lost with its replica."""
        for replica in self._fleet:
            outages = self._outages.get(replica.index, ())
            replica.starts(0.0, outages[0].start_s if outages else math.inf)
            self._environment.process(self._fail(replica, outages))
        self._environment.process(self._client())
        for replica in self._fleet:
            self._environment.process(self._serve(replica))
        self._environment.run()
        return self._losses

    def _client(self) -> Generator[simpy.Event, Any, None]:
        environment = self._environment
        for request, planned_s in enumerate(self._sent_s.tolist()):
            self._next_sending_s = planned_s
            yield from self._until_moment(planned_s)
            if self._free_places == 0:
                self._answered = environment.event()
                yield self._answered
                self._answered = None
            self._free_places -= 1
            self._sent_s[request] = environment.now
            self._send(request)
        self._next_sending_s = math.inf

    def _until_moment(self, moment_s: float) -> Generator[simpy.Event, Any, None]:
        """Sleep until then, to the last digit: now + (moment - now) may lie beside it, and what was planned for one
        moment would come apart."""
        while (left_s := moment_s - self._environment.now) > 0:
            is_beyond = self._environment.now + left_s > moment_s
            yield self._environment.timeout(math.nextafter(left_s, 0.0) if is_beyond else left_s)

    def _send(self, request: int) -> None:
        """Send to one of the replicas that are up; without any, or lost too often, the request has failed."""
        now_s = self._environment.now
        up = [replica for replica in self._fleet if self._up[replica.index]]
        if not up or self._losses[request] > RETRIES:
            self._requests.status[request] = FAILED
            self.lost[request] = self._losses[request] > 0
            self._requests.finish_s[request] = now_s
            self._answer(now_s)
            return
        self._requests.stamp_s[request] = now_s
        self._requests.rank[request] = self._rank(request)
        self._requests.ready_s[request] = on_clock(now_s + self._before_s[request])
        replica = up[self._choose(up, request, now_s)]
        self._placed[request] = replica.index
        ready_s = float(self._requests.ready_s[request])
        if self._never_served[request]:
            self._requests.status[request], self._requests.finish_s[request] = REJECTED, ready_s
            self._answer(ready_s)
            return
        replica.send(request)
        self._rouse(replica)
        if replica.sheds:
            self._environment.process(self._judge(replica, ready_s))

    def _judge(self, replica: Replica, ready_s: float) -> Generator[simpy.Event, Any, None]:
        """A client learns of a refusal when the request reaches the engine, not when the step in flight ends."""
        yield self._environment.timeout(max(0.0, ready_s - self._environment.now))
        told = replica.ended
        replica.admit(ready_s)
        for place in range(told, replica.ended):
            self._answer(float(self._requests.finish_s[replica.ended_request(place)]))

    def _rank(self, request: int) -> int:
        """The place in vLLM's order of (priority, arrival, id), by when it is sent: of two sent at one moment, the one
        that was to be sent first."""
        kind = self._priority_class[request]
        if self._environment.now > self._moment_s[kind]:
            self._moment_s[kind] = self._environment.now
            self._moments[kind] += 1
        return int(self._moments[kind]) * len(self._planned_rank) + int(self._planned_rank[request])

    def _rouse(self, replica: Replica) -> None:
        if not self._wake[replica.index].triggered:
            self._wake[replica.index].succeed()

    def _serve(self, replica: Replica) -> Generator[simpy.Event, Any, None]:
        environment = self._environment
        while True:
            told = replica.ended
            until_s, ended = self._until(told)
            reason = replica.advance(max(until_s, replica.next_s), ended)  # of two at one moment the engine is first
            for place in range(told, replica.ended):
                self._answer(float(self._requests.finish_s[replica.ended_request(place)]))
            if reason in (loop.IDLE, loop.DIED):
                self._wake[replica.index] = environment.event()
                yield self._wake[replica.index]
            else:
                yield environment.timeout(max(0.0, replica.next_s - environment.now))

    def _until(self, ended: int) -> tuple[float, int]:
        """How far a replica may go on its own: until when, and until how many requests have ended.

        A client that waits for a place sends as soon as a request ends, on whichever replica.
        """
        if self._answered is not None:
            return self._environment.peek(), ended + 1
        return min([self._next_sending_s, *self._failures_s[:1]]), len(self._sent_s) + 1

    def _answer(self, ended_s: float) -> None:
        """The client learns of the end of a request, and its place is free."""
        told_s = ended_s + self._overhead.after_s
        answer = self._environment.timeout(max(0.0, told_s - self._environment.now))
        answer.callbacks.append(self._free_place)

    def _free_place(self, _: simpy.Event) -> None:
        self._free_places += 1
        if self._answered is not None and not self._answered.triggered:
            self._answered.succeed()

    def _fail(self, replica: Replica, outages: Sequence[Outage]) -> Generator[simpy.Event, Any, None]:
        """Take the replica away in each of its outages; what it had is sent again."""
        for k, outage in enumerate(outages):
            yield from self._until_moment(outage.start_s)
            self._up[replica.index] = False
            lost = replica.lose()
            self._losses[lost] += 1
            yield self._environment.timeout(0)  # what dies at the same moment must be given nothing
            self._failures_s.pop(0)
            for request in lost.tolist():
                self._send(request)
            if math.isinf(outage.end_s):
                return
            yield from self._until_moment(outage.end_s)
            replica.starts(self._environment.now, outages[k + 1].start_s if k + 1 < len(outages) else math.inf)
            self._up[replica.index] = True
            self._rouse(replica)
