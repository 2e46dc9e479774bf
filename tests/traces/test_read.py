"""Finding a trace and telling its format."""

import gzip
from pathlib import Path

import pytest

from slotune.errors import InputError
from slotune.traces.read import bundled_traces, read_trace

LINE = b'{"timestamp": 1, "input_length": 2, "output_length": 3}\n'


def test_a_bundled_trace_is_read_by_name_and_a_file_of_that_name_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundled_traces() == ["chat"]
    assert len(read_trace("chat")) == 1000
    Path("chat").write_bytes(LINE)
    assert len(read_trace("chat")) == 1


def test_a_gzipped_file_is_unpacked_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(gzip.compress(LINE))
    assert read_trace(tmp_path / "t").input_tokens.tolist() == [2]


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", ": no request in it"),
        (b" \n", ": no request in it"),
        (b"a,b\n1,2\n", ":1: no known trace starts with 'a,b': a log as CSV has the columns TIMESTAMP, ContextTokens"),
        (b"{broken\n", ":1: not a line of JSON"),
        (b"\x00\x01\x02", ":1: no known trace starts with"),
        (gzip.compress(LINE)[:-9], ": cannot be read: "),
        (gzip.compress(LINE * 99)[:30] + b"garbage", ": cannot be read: "),
    ],
)
def test_what_is_no_trace_is_refused_in_one_line(tmp_path: Path, content: bytes, wrong: str) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_trace(tmp_path / "t")
    assert str(caught.value).startswith(f"{tmp_path / 't'}{wrong}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_folder_and_an_unknown_format_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such trace file; bundled traces: chat"):
        read_trace("nowhere")
    with pytest.raises(InputError, match="not a file"):
        read_trace(tmp_path)
    with monkeypatch.context() as context:
        context.chdir(tmp_path)
        (tmp_path / "chat").mkdir()
        assert len(read_trace("chat")) == 1000, "a study may be named so"
    with pytest.raises(InputError, match=r"unknown trace format 'mooncak': did you mean mooncake\?"):
        read_trace("chat", format="mooncak")


def test_a_file_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(InputError, match=r"/proc/self/mem: cannot be read: .*Input/output error"):
        read_trace("/proc/self/mem")  # Linux: a file whose first page is never mapped


def test_the_given_format_is_kept_to(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(LINE)
    with pytest.raises(InputError, match="no column 'TIMESTAMP' in the header"):
        read_trace(tmp_path / "t", format="azure")
