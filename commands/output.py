"""What commands print: one JSON document or tables on stdout, progress on stderr."""

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from ..errors import SlotuneError
from ..figures import figure

if TYPE_CHECKING:
    import rich.progress

    from ..profiler.profile import Profile
    from ..traces.trace import Trace

MOST_PER_SECOND = 500.0
"""Requests, of a service that is traced; half a request a second is as many where seconds are read as milliseconds."""
FEW = 100
"""Requests, whose rate says little."""
PLAIN_INTERVAL_S = 5.0  # without a terminal a line at most this often: a log stays readable


def emit_json(document: Any) -> None:
    """Print `document` as the one JSON document on stdout.

    NaN and infinities become null (JSON has neither); numpy scalars and arrays, paths, tuples and dataclass-free
    mappings are taken. Raises TypeError for anything else.
    """
    click.echo(json.dumps(_plain(document), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's scalars and arrays, without importing numpy
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "__fspath__"):
        return str(value)
    return value


def tell_trust(trust: Mapping[str, Any], policy: str) -> None:
    """Print how far to believe what was printed: whose schedule it is where it is not vLLM's, the source, the error to
    expect, what is extrapolated."""
    from ..profiler.trust_page import lines
    from ..simulator.policy_names import policy_note

    for line in [*filter(None, [policy_note(policy)]), *lines(trust)]:
        click.echo(line)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print rows under their columns on stdout; numbers to the right, None as an empty cell."""
    from rich.console import Console
    from rich.table import Table

    body = [list(row) for row in rows]
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        numeric = any(isinstance(row[index], (int, float)) for row in body)
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in body:
        grid.add_row(*[cell(value) for value in row])
    # A pipe or file has no width of its own: wide enough that no cell is folded.
    console = Console(width=None if sys.stdout and sys.stdout.isatty() else 200, highlight=False, markup=False)
    with console.capture() as drawn:
        console.print(grid)
    click.echo("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def table_of_answers(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table without the columns in which no row has an answer."""
    told = [place for place in range(len(columns)) if any(row[place] is not None for row in rows)]
    table([columns[place] for place in told], [[row[place] for place in told] for row in rows], title=title)


def labelled(metric: str) -> str:
    """A metric's name and, where it does not say it, its unit."""
    from ..simulator.metrics import UNITS

    return f"{metric}, {UNITS[metric]}" if metric in UNITS else metric


def cell(value: object) -> str:
    """A value as it stands in a table: four significant digits, thousands whole, None and NaN empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return figure(value)
    return str(value)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in the error that ends the writing of it, as on a full disk."""
    try:
        yield
    except OSError as error:
        raise SlotuneError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_outputs(written: Mapping[str, Path | None], *read: str | Path | None) -> None:
    """Raise a usage error where a file that is to be written, by its option, is also read or named by another option,
    or where its folder takes none: after the work it would be too late.

    A profile is read with all files of its folder. Devices and pipes, such as /dev/null, may be named twice.
    """
    read_files = {_real(file) for path in read if path is not None for file in _files(Path(path))}
    options: dict[Path, str] = {}
    for option, path in written.items():
        if path is None or (path.exists() and not path.is_file()):
            continue
        file = _real(path)
        if file in read_files and not path.exists():
            raise click.UsageError(f"{option} {path}: would hide the bundled one of that name; choose another name")
        if file in read_files:
            raise click.UsageError(f"{option} {path}: is also an input; choose another name")
        if file in options:
            raise click.UsageError(f"{option} {path}: is also what {options[file]} writes; choose another name")
        if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
            raise click.UsageError(f"{option} {path}: {file.parent} is not a folder that can be written to")
        options[file] = option


def _real(path: Path) -> Path:
    """Behind all links; unlike Path.resolve it leaves a loop of links to whoever opens it."""
    return Path(os.path.realpath(path))


def _files(path: Path) -> Iterable[Path]:
    return path.iterdir() if path.is_dir() else [path]


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
        self._first = self._first or (done, now_s)
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


def note_ignored(profile: "Profile", policy: str, *settings: Mapping[str, Any]) -> None:
    """Say on stderr which settings the predictions do not depend on: a warning where they would change the times."""
    from ..simulator.policy_names import disobeyed
    from ..simulator.versions import version_note

    if note := version_note(profile.engine.version):
        click.echo(f"Warning: {note}", err=True)
    trust = profile.trust(*settings)
    for text in _once(trust["not_represented"]):
        click.echo(f"Warning: {text}", err=True)
    ignored = dict.fromkeys(name for one in settings for name in profile.ignored(one) if name not in trust["left_out"])
    if ignored:
        click.echo(f"Note: without effect on what profile {profile.name} predicts: {', '.join(ignored)}", err=True)
    others = dict.fromkeys(name for one in settings for name in one if name in disobeyed(policy))
    if others:
        click.echo(f"Note: without effect under the {policy} policy: {', '.join(others)}", err=True)


def _once(lines: Iterable[str]) -> Iterator[str]:
    """One of the lines that say the same of many configurations, whose settings stand before a colon."""
    alike: dict[str, list[str]] = {}
    for line in lines:
        alike.setdefault(re.sub(r"^\w+=\S+(, \w+=\S+)*: |\d+", "", line), []).append(line)
    for first, *others in alike.values():
        yield first + (f" (likewise in {len(others)} more)" if others else "")


def note_read(trace: "Trace", rescaled: bool = False) -> None:
    """Say on stderr how many requests of a trace's file are not simulated, what its reader doubts, and where its times
    seem to be of another unit, unless they are `rescaled`."""
    from ..traces.stats import request_rate

    if trace.left_out:
        count = "1 request of the file is" if trace.left_out == 1 else f"{trace.left_out:,} requests of the file are"
        click.echo(f"Note: {count} left out: {trace.left_out_why}", err=True)
    for doubt in trace.doubts:
        click.echo(f"Note: {doubt}", err=True)
    if len(trace) >= FEW and (rate := request_rate(trace)) > MOST_PER_SECOND and not rescaled:
        told = (
            f"{figure(rate)} requests/s: timestamps of JSON lines are milliseconds here, and some tools write seconds"
        )
        click.echo(f"Note: {told}; if so, --rate sets the true rate", err=True)


def note_load(trace: "Trace", rate: float | None) -> None:
    """Say on stderr what of a trace is not simulated as it was: requests left out, arrivals that a rate gives to a
    trace without, a late beginning."""
    from ..traces.arrivals import idle_s, span_s

    note_read(trace, rescaled=bool(rate))
    if rate and not span_s(trace.arrival_s):
        click.echo("Note: all requests of the trace arrive at once: --rate gives them Poisson arrivals", err=True)
    if not rate and (late_s := idle_s(trace.arrival_s)):
        late = figure(late_s, 2)
        click.echo(f"Note: nothing arrives in the first {late} s; throughputs count them, as in vLLM", err=True)


def note_few_requests(trace: "Trace", percentiles: "Sequence[float]") -> None:
    """Say on stderr where a trace is too short for the percentiles that were asked for."""
    from ..tuner.traffic.sample import few_requests

    if few := few_requests(trace, percentiles):
        click.echo(f"Note: {few}", err=True)


def announce_compilation() -> None:
    """Say on stderr, once, that the simulator is being compiled, if that happens in this process.

    Call it before the first simulation. Code found in the cache on disk is not compiled and not announced.
    """
    from numba.core import event

    class Announcer(event.Listener):
        said = False

        def on_start(self, event: object) -> None:
            if not self.said:
                click.echo("Compiling the simulator, once for this version ...", err=True)
            self.said = True

        def on_end(self, event: object) -> None:
            pass

    event.register("numba:compile", Announcer())
