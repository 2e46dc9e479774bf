"""The command line as a whole: every command explains itself, every error is one line and the right exit code."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from slotune import cli
from slotune.commands import options, output, progress
from slotune.errors import EngineError, InfeasibleError, InputError, SlotuneError

Slotune = Callable[..., Any]
HEAVY = ("ConfigSpace", "jinja2", "lightgbm", "matplotlib", "numba", "numpy", "pyarrow", "pydantic", "rich", "scipy")


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command that does something."""
    if not isinstance(command, click.Group):
        yield path
        return
    with click.Context(command) as context:
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            yield from leaves(child or click.Command(name), (*path, name))


COMMANDS = list(leaves(cli.root))


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Put a command `doctor` in place that raises `error`."""

    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: command)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...], slotune: Slotune) -> None:
    code, out, err = slotune(*words, "--help")
    assert (code, err) == (0, "")
    assert f"slotune {' '.join(words)}" in out.split("Example")[1], "its example calls it"
    assert len(words) == 1 or slotune(words[0], "--help").out.count(words[1]) > 0


def test_help_lists_every_command_in_the_order_of_the_work(slotune: Slotune) -> None:
    code, out, err = slotune("--help")
    listed = re.findall(r"^  (\w+)  +\S", out.split("Commands:")[1], re.MULTILINE)
    assert (code, err) == (0, "")
    assert listed == list(cli.COMMANDS)
    for group in ((), ("profile",), ("profile", "import"), ("trace",)):
        assert "..." not in slotune(*group, "--help").out.split("Commands:")[1], "a short help is cut off"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from slotune.cli import main; assert main(['--help']) == 0; print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.split(".")[0] for name in done.stderr.split()}.isdisjoint(HEAVY)


def test_version(slotune: Slotune) -> None:
    assert re.fullmatch(r"slotune \d+\.\d+\.\d+\n", slotune("--version").out)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["simulat"], "No such command 'simulat'"),
        (["simulate", "--profil", "x"], "--profil"),
        (["simulate"], "Missing option '--profile'"),
        (["simulate", "--profile", "p", "--trace", "t", "--rate", "-1"], "'-1' must be a finite number above 0"),
        (["simulate", "--profile", "p", "--trace", "t", "--rate", "nan"], "'nan' must be a finite number above 0"),
        (["simulate", "--profile", "p", "--trace", "t", "--policy", "fifo"], "'fifo' is not one of"),
        (["simulate", "--profile", "p", "--trace", "t", "--goodput", "ttft"], "ttft"),
        (["tune", "--profile", "p", "--trace", "t", "--out", "o", "--slo", "p99:ttft"], "p99:ttft"),
    ],
)
def test_wrong_usage_is_one_line_and_2(args: list[str], named: str, slotune: Slotune) -> None:
    code, out, err = slotune(*args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("Error: ")
    assert named in err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (SlotuneError("it broke"), 1, "Error: it broke"),
        (InputError("t.jsonl:3: no timestamp\nadd one"), 2, "Error: t.jsonl:3: no timestamp add one"),
        (EngineError("the engine died", "died"), 1, "Error: the engine died"),
        (InfeasibleError("nothing meets p99:ttft:1"), 3, "Error: nothing meets p99:ttft:1"),
        (OSError(28, "No space left on device", "a/b"), 1, "Error: a/b: No space left on device"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (KeyError("x"), 1, "Error: internal error, KeyError: 'x' (run again with --debug to see where)"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    error: BaseException, code: int, line: str, slotune: Slotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, error)
    outcome = slotune("doctor")
    assert (outcome.code, outcome.out, outcome.err.strip()) == (code, "", line)


@pytest.mark.parametrize("args", [["--debug", "doctor"], ["doctor", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(
    args: list[str], slotune: Slotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, InputError("bad"))
    code, _, err = slotune(*args)
    assert code == 2
    assert err.startswith("Traceback")
    assert err.endswith("Error: bad\n")


def test_a_full_disk_under_stdout_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "slotune.cli", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: output, or compiled code in ")
    assert done.stderr.endswith(": No space left on device\n") and done.stderr.count("\n") == 1


def test_a_reader_that_has_gone_gets_no_message() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "slotune.cli", "--version"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_closed_stdout_is_no_error() -> None:
    words = ["sh", "-c", 'exec "$0" -m slotune.cli trace stats chat >&-', sys.executable]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_files_are_utf_8_in_every_locale(slotune: Slotune, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(
        '{"timestamp": 0, "input_length": 9, "output_length": 2, "id": "日本"}\n', "utf-8"
    )
    (tmp_path / "e.yaml").write_text("max-num-seqs: 4  # größer\n", "utf-8")
    (tmp_path / "grid.yaml").write_text("max_num_seqs: [4, 8]  # größer\n", "utf-8")
    terms = ("--base-ms", 5, "--prefill-token-ms", 1, "--decode-seq-ms", 1, "--context-token-ms", 0)
    assert slotune("profile", "linear", *terms, "--out", tmp_path / "p").code == 0
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    for words in (
        ["simulate", "--engine-config", "e.yaml", "--requests-out", "r.csv"],
        ["screen", "--configs", "grid.yaml", "--jobs", "1"],
        ["tune", "--slo", "p99:ttft:50", "--trials", "1", "--jobs", "1", "--out", "study"],
        ["report", "study"],
    ):
        more = ["--profile", "p", "--trace", "t.jsonl"] if words[0] != "report" else []
        command = [sys.executable, "-m", "slotune.cli", *words, *more]
        done = subprocess.run(command, cwd=tmp_path, env=ascii_only, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "\n日本,0.0,9,2," in (tmp_path / "r.csv").read_text("utf-8")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("10m", 600.0), ("2h", 7200.0), ("1.5m", 90.0)])
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert options.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-1s", "10 minutes", "1e3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write it like 90s, 10m or 2h"):
        options.duration(text)


@pytest.mark.parametrize("text", ["0s", "0.0h"])
def test_no_time_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time at all"):
        options.duration(text)


def test_goodput_is_taken_repeated_and_quoted() -> None:
    @click.command()
    @options.goodput_option
    def command(goodput: dict[str, float]) -> None:
        click.echo(json.dumps(goodput, sort_keys=True))

    for args in (["--goodput", "ttft:200", "--goodput", "tpot:50"], ["--goodput", "ttft:200 tpot:50"]):
        with command.make_context("test", list(args)) as context:
            assert context.params["goodput"] == {"ttft": 200.0, "tpot": 50.0}


def test_json_has_no_nan_and_takes_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    output.emit_json(
        {"a": np.float32(0.5), "b": [np.nan, np.inf, 1], "c": np.arange(2), "d": Path("x"), 3: (None, True)}
    )
    document = json.loads(capsys.readouterr().out)
    assert document == {"a": 0.5, "b": [None, None, 1], "c": [0, 1], "d": "x", "3": [None, True]}


def test_a_table_is_aligned_and_its_cells_short(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["name", "ms"], [["a", 1234.5], ["long name", 0.123456], ["b", None]], title="Times")
    assert capsys.readouterr().out.splitlines() == [
        "Times",
        "name           ms",
        "a           1,234",
        "long name  0.1235",
        "b",
    ]


def test_priorities_that_nothing_heeds_are_named(slotune: Slotune, tmp_path: Path) -> None:
    trace, line = tmp_path / "t.jsonl", '{"timestamp": %d, "input_length": 10, "output_length": 3, "priority": %d}\n'
    terms = ("--base-ms", 5, "--prefill-token-ms", 0.02, "--decode-seq-ms", 0.05, "--context-token-ms", 0)
    assert slotune("profile", "linear", *terms, "--out", tmp_path / "p").code == 0
    files = ("--profile", tmp_path / "p", "--trace", trace)
    targets = (*files, "--slo", "p99:ttft:900", "--jobs", 1)
    (tmp_path / "c.yaml").write_text("- {}\n")
    commands = {
        "simulate": files,
        "plan": targets,
        "tune": (*targets, "--trials", 1, "--out", tmp_path / "s"),
        "screen": (*targets, "--configs", tmp_path / "c.yaml"),
    }
    told = "Note: the priorities of the trace's requests are without effect: scheduling_policy=priority heeds them\n"
    for command, words in commands.items():
        trace.write_text("".join(line % (k, k % 2) for k in range(4)))
        assert told in slotune(command, *words).err
        if command in ("simulate", "screen"):  # the others take long, or keep what they were asked
            assert told not in slotune(command, *words, "--engine", "scheduling_policy=priority").err
            trace.write_text("".join(line % (k, 3) for k in range(4)))
            assert told not in slotune(command, *words).err


def test_settings_that_another_policy_does_not_obey_are_named(slotune: Slotune, tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 10, "output_length": 3}\n')
    terms = ("--base-ms", 5, "--prefill-token-ms", 0.02, "--decode-seq-ms", 0.05, "--context-token-ms", 0)
    assert slotune("profile", "linear", *terms, "--out", tmp_path / "p").code == 0
    words = ("simulate", "--profile", tmp_path / "p", "--trace", trace, "--json", "--policy")
    given = ("--engine", "enable_prefix_caching=true", "--engine", "max_num_seqs=8")
    ran = slotune(*words, "sarathi", *given)
    assert "Note: the sarathi policy does not schedule by enable_prefix_caching\n" in ran.err
    assert json.loads(ran.out)["policy"] == "sarathi"
    assert "scheduled by the sarathi policy, not as vLLM does\n" in slotune(*words[:-2], "--policy", "sarathi").out
    asked = ("--profile", tmp_path / "p", "--trace", trace, "--slo", "p99:ttft:900", "--policy", "orca", "--json")
    plan = slotune("plan", *asked, "--jobs", 1)
    tuned = slotune("tune", *asked, "--trials", 2, "--jobs", 1, "--out", tmp_path / "s")
    assert {json.loads(one.out)["policy"] for one in (plan, tuned)} == {"orca"}
    assert "without effect" not in slotune(*words, "vllm-v1", *given).err


def test_progress_in_a_log_is_a_line_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now_s = 0.0
    told = progress.PlainProgress("tune", total=10, clock=lambda: now_s)
    for done in range(11):
        now_s = 2.0 * done
        told.update(done, note=f"step {done}")
    assert capsys.readouterr().err.splitlines() == [
        "tune: 0/10 (0 %), step 0",
        "tune: 3/10 (30 %), 14 s left, step 3",
        "tune: 6/10 (60 %), 8 s left, step 6",
        "tune: 9/10 (90 %), 2 s left, step 9",
        "tune: 10/10 (100 %), 20 s, step 10",
    ]
