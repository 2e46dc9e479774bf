"""What commands print on stdout, one JSON document or tables, and the files that they write."""

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..errors import SlotuneError
from ..figures import figure


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
