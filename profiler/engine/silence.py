"""Whether an engine hangs: its connections stay open, and nothing comes of any request."""

import asyncio
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager

from ...errors import EngineError

SILENCE_S = 600.0
"""How long nothing may come of any request in flight. A step brings a token to everything that decodes: silence lasts
as long as a prefill while nothing does, minutes for hundreds of thousands of tokens, or while a kernel is compiled."""


class Pulse:
    """How many requests are in flight, and when something last came of one of them."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._last_s = 0.0

    def beat(self, now_s: float) -> None:
        """Something came, at this moment of `time.perf_counter`."""
        self._last_s = now_s

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A request is in flight. That more are sent is no sign of life: a server takes them while its engine hangs."""
        if not self._in_flight:
            self.beat(time.perf_counter())
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def stops(self, limit_s: float) -> None:
        """Return when nothing has come for `limit_s` although requests were in flight."""
        while (left_s := limit_s - self._silent_s()) > 0:
            await asyncio.sleep(left_s)

    def _silent_s(self) -> float:
        return time.perf_counter() - self._last_s if self._in_flight else 0.0


async def unless_silent(work: Coroutine[None, None, None], pulse: Pulse, limit_s: float) -> None:
    """Do `work`; raise EngineError where the pulse stops meanwhile."""
    working = asyncio.create_task(work)
    tasks = working, asyncio.create_task(pulse.stops(limit_s))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise EngineError(f"the engine hangs: no token came for any request in flight for {limit_s:g} s", "hang")
        working.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
