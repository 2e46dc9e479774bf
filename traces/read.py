"""Read a trace: finds the file or the bundled trace, tells the format, calls its reader."""

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import InputError, unknown_name
from .documents import read_sharegpt, read_vllm_bench
from .mooncake import read_mooncake
from .tabular import AZURE, BURSTGPT, VIDUR_LENGTHS, read_azure, read_burstgpt, read_vidur
from .trace import Trace

FORMATS = ("mooncake", "azure", "burstgpt", "vidur", "sharegpt", "vllm-bench")
BUNDLED = Path(__file__).parent / "bundled"
HEAD_BYTES = 4096
VLLM_BENCH_KEYS = (b'"num_prompts"', b'"request_throughput"', b'"input_lens"')
"""One of them comes early: the first stands before whatever --metadata adds (vllm/benchmarks/serve.py)."""
GZIP_MAGIC = b"\x1f\x8b"
"""The first two bytes of a compressed file (RFC 1952, section 2.3.1)."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def bundled_traces() -> list[str]:
    """Names of the traces that come with slotune."""
    return sorted(file.stem for file in BUNDLED.glob("*.jsonl"))


def trace_file(path: Path | str) -> Path:
    """The file of that path, or of the bundled trace of that name, which no folder hides. Raises InputError for
    neither."""
    file = Path(path)
    if file.is_file():
        return file
    if str(path) in bundled_traces():
        return BUNDLED / f"{path}.jsonl"
    raise _missing(file)


def read_trace(path: Path | str, *, format: str | None = None, tokenizer: Path | None = None) -> Trace:
    """The trace in the file `path`, or the bundled one of that name; a gzipped file is unpacked on the way.

    `format` is one of FORMATS; None tells it from the content. `tokenizer` is a model's folder, needed for ShareGPT.
    Requests come in order of arrival, equal arrivals in the order of the file. Raises InputError, with the file and
    the line where there is one, for anything that is wrong.
    """
    file = trace_file(path)
    if format is not None and format not in FORMATS:
        raise unknown_name("trace format", format, FORMATS)
    source = str(path)
    try:
        with _opened(file) as stream:
            head = stream.read(HEAD_BYTES)
            stream.seek(len(BYTE_ORDER_MARK) if head.startswith(BYTE_ORDER_MARK) else 0)
            return _read(stream, source, format or sniffed(head, source), tokenizer)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{source}: cannot be read: {error}") from None


def sniffed(head: bytes, source: str) -> str:
    """The format of a file that starts with `head`; InputError where none is recognised."""
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    if not text:
        raise InputError(f"{source}: no request in it")
    if text.startswith(b"["):
        # A list of results is told by the reader of one.
        return "vllm-bench" if any(key in text for key in VLLM_BENCH_KEYS) else "sharegpt"
    if text.startswith(b"{"):
        return "vllm-bench" if any(key in text for key in VLLM_BENCH_KEYS) else "mooncake"
    first = text.splitlines()[0].decode(errors="replace")
    header = {name.strip() for name in next(csv.reader([first]))}
    for name, columns in (("azure", AZURE), ("burstgpt", BURSTGPT), ("vidur", VIDUR_LENGTHS)):
        if header.issuperset(columns):
            return name
    mend = f"a log as CSV has the columns {', '.join(AZURE)}; `slotune trace convert --help` has the rest"
    raise InputError(f"{source}:1: no known trace starts with {first[:60]!r}: {mend}")


def _missing(file: Path) -> InputError:
    if file.exists():
        why = "" if file.is_dir() else ", which a trace must be: it is read more than once"
        return InputError(f"{file}: not a file{why}")
    return InputError(f"{file}: no such trace file; bundled traces: {', '.join(bundled_traces())}")


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    with file.open("rb") as raw:
        zipped = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        raw.seek(0)
        if not zipped:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream  # type: ignore[misc]  # reads like any binary file


def _read(stream: IO[bytes], source: str, format: str, tokenizer: Path | None) -> Trace:
    match format:
        case "mooncake":
            return read_mooncake(stream, source)
        case "azure":
            return read_azure(stream, source)
        case "burstgpt":
            return read_burstgpt(stream, source)
        case "vidur":
            return read_vidur(stream, source)
        case "sharegpt":
            return read_sharegpt(stream, source, tokenizer)
        case _:
            return read_vllm_bench(stream, source)
