"""How far a command is, on stderr: a live bar on a terminal, plain lines otherwise."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click

if TYPE_CHECKING:
    import rich.progress

PLAIN_INTERVAL_S = 5.0  # without a terminal a line at most this often: a log stays readable


class Progress(Protocol):
    """How far a piece of work is, told to a person on stderr."""

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """`done` of `total` units are done; `note` is a few words on what goes on now."""

    def line(self, text: str) -> None:
        """A line that stays, such as a result found on the way."""


@contextmanager
def progress(what: str, total: float | None = None) -> Iterator[Progress]:
    """A live bar with the time left on a terminal; plain lines, one every few seconds at most, otherwise."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield PlainProgress(what, total)
        return
    from rich import progress as live
    from rich.console import Console

    columns = (
        live.TextColumn("{task.description}", markup=False),
        live.BarColumn(),
        live.MofNCompleteColumn(),
        live.TimeElapsedColumn(),
        live.TextColumn("left"),
        live.TimeRemainingColumn(),
        live.TextColumn("{task.fields[note]}", markup=False),
    )
    with live.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _LiveProgress(bar, bar.add_task(what, total=total, note=""))


class _LiveProgress:
    def __init__(self, bar: "rich.progress.Progress", task: "rich.progress.TaskID") -> None:
        self._bar = bar
        self._task = task

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        self._bar.update(self._task, completed=done, total=total, note=note)

    def line(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)


class PlainProgress:
    """Progress as lines on stderr: `tune: 12/64 (19 %), 41 s left, note`. `clock` gives seconds."""

    def __init__(self, what: str, total: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._total = total
        self._clock = clock
        self._start_s = clock()
        self._last_s = -math.inf
        self._first: tuple[float, float] | None = None
        self._ended = False

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        self._total = self._total if total is None else total
        now_s = self._clock()
        self._first = self._first or ((done, now_s) if done else None)
        finished = self._total is not None and done >= self._total and not self._ended
        if now_s - self._last_s < PLAIN_INTERVAL_S and not finished:
            return
        self._ended = self._ended or finished
        self._last_s = now_s
        parts = [self._amount(done), self._left(done, now_s), note]
        self.line(f"{self._what}: " + ", ".join(part for part in parts if part))

    def line(self, text: str) -> None:
        click.echo(text, err=True)

    def _amount(self, done: float) -> str:
        if not self._total:
            return f"{done:g}"
        return f"{done:g}/{self._total:g} ({100 * done / self._total:.0f} %)"

    def _left(self, done: float, now_s: float) -> str:
        """Time left, by the pace since the first was done: that one may have had to wait for a compilation."""
        if not self._total or self._first is None:
            return ""
        if done >= self._total:
            return f"{now_s - self._start_s:.0f} s"
        first, first_s = self._first
        return f"{(now_s - first_s) * (self._total - done) / (done - first):.0f} s left" if done > first else ""
