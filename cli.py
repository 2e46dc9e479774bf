"""The command line: finds the command, runs it, and turns every error into one line and an exit code.

Only click is imported here; a command's module is imported when it is called or listed, and imports what is heavy
inside its function, so that `slotune --help` answers at once.

Exit codes: 0 done, 1 failed, 2 wrong usage or bad input, 3 no configuration meets the targets, 130 interrupted.
"""

import contextlib
import errno
import gc
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from .errors import SlotuneError

COMMANDS = ("doctor", "profile", "trace", "simulate", "screen", "tune", "validate", "plan", "report", "export")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Where a disk takes no more."""
GARBAGE_THRESHOLD = 500_000
"""New objects between searches for garbage: at Python's own 700 they take a tenth of the start."""


class LazyGroup(click.Group):
    """A group whose command NAME is the attribute `command` of the module commands/NAME.py."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".commands.{cmd_name}", __package__)
        command: click.Command = module.command
        return command


def _show_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from .release import own_version

        click.echo(f"slotune {own_version()}")
        context.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error; accepted anywhere on the line."
)
def root() -> None:
    """Find the vLLM settings that meet a service's latency targets.

    \b
    Example:
      slotune tune --profile h200-llama-3.1-8b --trace chat --slo p99:ttft:500 --slo p99:tpot:30 --out studies/chat
      slotune export studies/chat
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run `slotune ARGS` (default: the process's own) and return its exit code; it raises nothing."""
    words = list(sys.argv[1:] if args is None else args)
    gc.set_threshold(GARBAGE_THRESHOLD)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _run(words)
    except KeyboardInterrupt:
        return _report(click.Abort())
    except BrokenPipeError:  # the reader of our output has gone, as in `slotune ... | head`
        _drop_stdout()
        return 1
    except Exception as error:  # noqa: BLE001 - the only one: a person gets a line, not a traceback
        if debug:
            traceback.print_exc()
        if isinstance(error, OSError):
            _drop_stdout()
        return _report(error)


def _run(words: list[str]) -> int:
    try:
        code = root.main(args=words, prog_name="slotune", standalone_mode=False)
        if sys.stdout:  # None where it was closed before the start
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    return code if isinstance(code, int) else 0


def _report(error: Exception) -> int:
    """Print the one line of `error` on stderr; return the exit code it stands for."""
    message, code = _line_and_code(error)
    click.echo(" ".join(part.strip() for part in message.splitlines() if part.strip()), err=True)
    return code


def _line_and_code(error: Exception) -> tuple[str, int]:
    if isinstance(error, SlotuneError):
        return f"Error: {error}", error.exit_code
    if isinstance(error, click.Abort):
        return "Interrupted", 130
    if isinstance(error, click.UsageError):
        where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        return f"Error: {error.format_message().rstrip('.')}{where}", error.exit_code
    if isinstance(error, click.ClickException):
        return f"Error: {error.format_message()}", error.exit_code
    if isinstance(error, OSError):
        full = f", or compiled code in {os.environ.get('NUMBA_CACHE_DIR')}" if error.errno in FULL else ""
        return f"Error: {error.filename or f'output{full}'}: {error.strerror or error}", 1
    return f"Error: internal error, {type(error).__name__}: {error} (run again with --debug to see where)", 1


def _drop_stdout() -> None:
    """Send what is still buffered for an unwritable stdout nowhere, so that Python's exit does not complain again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
