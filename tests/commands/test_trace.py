"""`slotune trace` from the outside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slotune.commands import trace as trace_command
from slotune.traces.mooncake import LINE
from slotune.traces.read import BUNDLED, read_trace

Slotune = Callable[..., Any]


def test_the_bundled_chat_trace_is_made_by_the_example_of_trace_make(slotune: Slotune, tmp_path: Path) -> None:
    example = trace_command.make.help.split("slotune trace make", 1)[1].replace("\\\n", " ").split()
    assert example[-2:] == ["--out", "chat.jsonl"]
    assert slotune("trace", "make", *example[:-1], tmp_path / "chat.jsonl").code == 0
    assert (tmp_path / "chat.jsonl").read_bytes() == (BUNDLED / "chat.jsonl").read_bytes()


def test_the_bundled_chat_trace_has_the_statistics_of_azures(slotune: Slotune) -> None:
    done = slotune("trace", "stats", "chat", "--json")
    assert (done.code, done.err) == (0, "")
    stats = json.loads(done.out)
    assert stats["request_rate"] == pytest.approx(5.5, rel=0.001)
    assert stats["interarrival_cv"] == pytest.approx(1.09, rel=0.02)
    for name, figures in (("prompt_tokens", (1155, 1020, 4142)), ("output_tokens", (211, 129, 601))):
        assert [stats[name][key] for key in ("mean", "p50", "p99")] == pytest.approx(figures, rel=0.02)


def test_stats_as_tables(slotune: Slotune) -> None:
    done = slotune("trace", "stats", "chat")
    assert done.code == 0
    told = [["requests", "1000"], ["left_out", "0"], ["duration_s", "181.8"]]
    assert [line.split() for line in done.out.splitlines()[1:4]] == told
    assert "mean    p50    p90    p99   max" in done.out


def test_make_convert_and_stats_follow_each_other(slotune: Slotune, tmp_path: Path) -> None:
    made, converted = tmp_path / "made.jsonl", tmp_path / "converted.jsonl.gz"
    words = ["--requests", 60, "--rate", 2, "--group", 5, "--prompt-tokens", "100-200", "--output-tokens", 7]
    shared = ["--turns", 3, "--users", 4, "--system-prompts", 2, "--system-prompt-tokens", 30]
    done = slotune("trace", "make", *words, *shared, "--seed", 3, "--out", made)
    assert (done.code, done.out) == (0, f"{made}: 60 requests over 30 s\n")
    done = slotune("trace", "convert", made, "--spread", "--rate", 4, "--out", converted)
    assert (done.code, done.out) == (0, f"{converted}: 60 requests over 15 s\n")
    before, after = (json.loads(slotune("trace", "stats", path, "--json").out) for path in (made, converted))
    assert (before["distinct_arrivals"], after["distinct_arrivals"]) == (12, 60)
    assert after["request_rate"] == pytest.approx(4)
    assert after["output_tokens"]["max"] == 7
    assert after["prefix_hit_share"] == before["prefix_hit_share"] > 0.3
    done = slotune("trace", "make", "--like", made, "--rate", 1, "--requests", 5, "--out", tmp_path / "like.jsonl")
    assert done.code == 0


def test_more_users_are_copies_of_the_trace(slotune: Slotune, tmp_path: Path) -> None:
    done = slotune("trace", "convert", "chat", "--rate", 30, "--superpose", "--out", tmp_path / "more.jsonl")
    assert (done.code, done.out) == (0, f"{tmp_path / 'more.jsonl'}: 5455 requests over 182 s\n")


def test_the_busy_minutes_are_cut_out(slotune: Slotune, tmp_path: Path) -> None:
    out = tmp_path / "busy.jsonl"
    begin_s = json.loads(slotune("trace", "stats", "chat", "--json").out)["busiest_minute_at_s"]
    done = slotune("trace", "convert", "chat", "--from", f"{begin_s}s", "--duration", "1m", "--out", out)
    assert done.code == 0
    cut, whole = read_trace(out), read_trace("chat")
    begin = np.searchsorted(whole.arrival_s, begin_s)
    assert cut.input_tokens.tolist() == whole.input_tokens[begin : begin + len(cut)].tolist()
    assert cut.arrival_s.tolist() == pytest.approx((whole.arrival_s[begin : begin + len(cut)] - begin_s).tolist())
    assert 59 < cut.arrival_s[-1] < 60


@pytest.mark.parametrize("zero", ["0s", "0h", "0"])
def test_the_first_hour_begins_at_0(slotune: Slotune, tmp_path: Path, zero: str) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert slotune("trace", "convert", "chat", "--duration", "1m", "--out", whole).code == 0
    assert slotune("trace", "convert", "chat", "--from", zero, "--duration", "1m", "--out", cut).code == 0
    assert cut.read_text() == whole.read_text()


def test_convert_reads_foreign_formats(slotune: Slotune, tmp_path: Path) -> None:
    (tmp_path / "azure.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.5,374,44\n2023-11-16 18:15:47.25,396,109\n"
    )
    out = tmp_path / "t.jsonl"
    assert slotune("trace", "convert", tmp_path / "azure.csv", "--format", "azure", "--out", out).code == 0
    assert out.read_text() == (
        '{"timestamp": 0, "input_length": 374, "output_length": 44}\n'
        '{"timestamp": 750, "input_length": 396, "output_length": 109}\n'
    )


def test_the_formats_in_the_help_of_convert_are_read_as_it_says(slotune: Slotune, tmp_path: Path) -> None:
    lines = [line.strip() for line in slotune("trace", "convert", "--help").out.splitlines()]
    header = next(k for k, line in enumerate(lines) if line.startswith("TIMESTAMP,"))
    (tmp_path / "t.csv").write_text("\n".join([*lines[header : header + 2], "2026-03-02 09:15:47.681+00:00,9,0"]))
    (tmp_path / "t.jsonl").write_text(next(line for line in lines if line.startswith("{")))
    for file, left_out, runs in (("t.csv", 1, 0), ("t.jsonl", 0, 1)):
        trace = read_trace(tmp_path / file)
        assert (trace.input_tokens.tolist(), trace.output_tokens.tolist()) == ([374], [44])
        assert (trace.left_out, len(trace.run_name)) == (left_out, runs)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("stats", "nowhere"), "nowhere: no such trace file; bundled traces: chat"),
        (("stats", "chat", "--format", "csv"), "unknown trace format 'csv'"),
        (("make", "--rate", "1"), "give --prompt-tokens and --output-tokens, or --like"),
        (("make", "--rate", "1", "--prompt-tokens", "5"), "give --prompt-tokens and --output-tokens, or --like"),
        (("make", "--rate", "1", "--like", "chat", "--prompt-tokens", "5", "--output-tokens", "5"), "or --like"),
        (("make", "--rate", "0", "--like", "chat"), "'0' must be a finite number above 0"),
        (("make", "--rate", "1", "--prompt-tokens", "x", "--output-tokens", "5"), "token lengths 'x': write N"),
        (("make", "--rate", "1", "--cv", "1e9", "--like", "chat"), "give a cv that leaves gaps"),
        (("make", "--rate", "1", "--cv", "nan", "--like", "chat"), "give a cv that leaves gaps"),
        (("make", "--rate", "1", "--cv", "1e200", "--like", "chat"), "give a cv that leaves gaps"),
        (("make", "--rate", "1", "--group", str(10**12), "--like", "chat"), "not in the range"),
        (("make", "--rate", "1", "--users", str(10**12), "--like", "chat"), "not in the range"),
        (("make", "--rate", "1", "--system-prompts", str(10**12), "--like", "chat"), "not in the range"),
        (("make", "--rate", "1e-300", "--like", "chat"), "a rate at which they come within"),
        (("convert", "chat", "--cv", "1"), "--cv needs --rate"),
        (("convert", "chat", "--superpose"), "--superpose needs --rate"),
        (("convert", "chat", "--rate", 9, "--cv", 1, "--superpose"), "--superpose keeps the trace's arrivals"),
        (("convert", "chat", "--duration", "10"), "'10' is not a duration"),
        (("convert", "chat", "--from", "1h"), "no request arrives after the first 3600 s; the last one at 181.8"),
    ],
)
def test_wrong_usage_is_one_line_and_2(slotune: Slotune, tmp_path: Path, words: tuple[str, ...], wrong: str) -> None:
    out = () if words[0] == "stats" else ("--out", tmp_path / "t.jsonl")
    done = slotune("trace", *words, *out)
    assert (done.code, done.out) == (2, "")
    assert wrong in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "t.jsonl").exists()


@pytest.mark.parametrize("command", [("make", "--rate", 5, "--like", "chat"), ("convert", "chat")])
def test_a_folder_is_no_file_to_write(slotune: Slotune, tmp_path: Path, command: tuple[object, ...]) -> None:
    done = slotune("trace", *command, "--out", tmp_path)
    assert done.code == 2 and "is a directory" in done.err


def test_seconds_that_are_read_as_milliseconds_are_asked_about(slotune: Slotune, tmp_path: Path) -> None:
    trace = tmp_path / "seconds.jsonl"
    rows = ({"timestamp": 0.5 * k, "input_length": 50, "output_length": 5} for k in range(1000))
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = "requests/s: timestamps of JSON lines are milliseconds here, and some tools write seconds"
    assert f"Note: 2,002 {told}; if so, --rate sets the true rate" in slotune("trace", "stats", trace).err
    convert = ("trace", "convert", trace, "--out", tmp_path / "out.jsonl")
    assert told in slotune(*convert).err
    assert told not in slotune(*convert, "--rate", 2).err


def test_requests_of_a_log_that_are_left_out_got_no_answer(slotune: Slotune, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2025-10-26 02:59:58,374,0\n2025-10-26 03:00:01,396,109\n"
    )
    told = slotune("trace", "stats", tmp_path / "log.csv").err
    assert told == "Note: 1 request of the file is left out: without an answer\n"


def test_what_the_reader_doubts_is_told(slotune: Slotune, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2025-10-26 02:59:58,374,44\n2025-10-26 02:00:01,396,109\n"
    )
    for command in (("stats",), ("convert", "--out", tmp_path / "t.jsonl")):
        told = slotune("trace", *command, tmp_path / "log.csv").err
        assert told.startswith("Note: times step back from 2025-10-26 02:59:58 to 2025-10-26 02:00:01")


def test_a_trace_is_not_converted_onto_itself(slotune: Slotune, tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 1, "output_length": 1}\n' * 2)
    done = slotune("trace", "convert", trace, "--requests", 1, "--out", trace)
    assert done.code == 2 and "is also an input" in done.err
    assert trace.read_text().count("\n") == 2


def test_rounded_times_are_told_unless_each_request_gets_another(slotune: Slotune, tmp_path: Path) -> None:
    rows = [f"{second},ChatGPT,10,5" for second in range(50) for _ in range(3)]
    (tmp_path / "b.csv").write_text("Timestamp,Model,Request tokens,Response tokens\n" + "\n".join(rows))
    convert, told = ("trace", "convert", tmp_path / "b.csv", "--out", tmp_path / "o.jsonl"), "come at 50 of them"
    assert told in slotune("trace", "stats", tmp_path / "b.csv").err and told in slotune(*convert, "--rate", 5).err
    for mend in (("--spread",), ("--rate", 5, "--cv", 1)):
        assert told not in slotune(*convert, *mend).err
    assert len(np.unique(read_trace(tmp_path / "o.jsonl").arrival_s)) == 150


def test_a_cut_of_a_trace_that_begins_late_tells_from_when_its_times_count(slotune: Slotune, tmp_path: Path) -> None:
    line = '{{"timestamp": {}, "input_length": 1, "output_length": 1}}\n'
    (tmp_path / "t.jsonl").write_text("".join(line.format(42_000 + 10 * i) for i in range(100)))
    cut = ("trace", "convert", tmp_path / "t.jsonl", "--out", tmp_path / "cut.jsonl")
    told = "nothing arrives in the first 42 s of the file, which --from and --duration count"
    assert told in slotune(*cut, "--duration", "60s").err and told in slotune(*cut, "--from", "42s").err
    assert told not in slotune(*cut, "--requests", 5).err


def test_a_bad_line_is_named_on_stderr(slotune: Slotune, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"timestamp": 0, "input_length": 1, "output_length": 1}\n{"timestamp": 0}\n')
    done = slotune("trace", "stats", tmp_path / "t.jsonl", "--json")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"Error: {tmp_path}/t.jsonl:2: no key 'input_length': {LINE}\n"


def test_an_output_that_cannot_be_written_fails_in_one_line(slotune: Slotune, tmp_path: Path) -> None:
    done = slotune("trace", "convert", "chat", "--out", tmp_path / "no" / "such" / "folder.jsonl")
    assert done.code in (1, 2)
    assert done.err.count("\n") == 1
    assert "folder.jsonl" in done.err
