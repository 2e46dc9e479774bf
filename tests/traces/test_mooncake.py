"""The JSON lines: what is read, what is refused and where, what comes back."""

import gzip
import json
import os
import re
import resource
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotune.errors import InputError
from slotune.traces.mooncake import read_mooncake, write_trace
from slotune.traces.read import read_trace
from slotune.traces.trace import Trace
from slotune.whole_file import whole_file

GOOD = {"timestamp": 1500, "input_length": 600, "output_length": 7}


def lines(*rows: dict[str, Any]) -> list[bytes]:
    return [json.dumps(row).encode() + b"\n" for row in rows]


def read(*rows: dict[str, Any]) -> Trace:
    return read_mooncake(lines(*rows), "t.jsonl")


def columns(trace: Trace) -> dict[str, Any]:
    names = ("arrival_s", "input_tokens", "output_tokens", "priority", "run_offsets", "run_name", "run_tokens")
    values = {name: getattr(trace, name).tolist() for name in names}
    return values | {"request_id": trace.request_id, "prefix_name": trace.prefix_name}


def test_hash_ids_of_larger_blocks_are_not_taken_for_ours() -> None:
    """Half of what is shared would not be found."""

    def rows(size: int) -> list[dict[str, Any]]:
        return [GOOD | {"input_length": n, "hash_ids": list(range(-(-n // size)))} for n in (900, 2048, 3000, 5000)]

    with pytest.raises(InputError, match=r"t.jsonl: .* these fit blocks of 1024: give 2 ids for each"):
        read(*rows(1024))
    assert len(read(*rows(512))) == 4
    system = {"hash_ids": [1, 2]}
    assert len(read(*({**GOOD, "input_length": n, **system} for n in (1100, 1500, 2048)))) == 3, "a system prompt"
    named = {**GOOD, "prefix": [["a", 9]]}
    assert len(read(named, *rows(512), GOOD)) == 6


def test_all_columns_of_hash_ids_prefixes_and_plain_requests() -> None:
    trace = read(
        {"timestamp": 0, "input_length": 1030, "output_length": 5, "hash_ids": [9, 4, 7]},
        {"timestamp": 0.5, "input_length": 90, "output_length": 6, "priority": -2, "prefix": [["a", 30], ["b", 60]]},
        {"timestamp": 2000, "input_length": 1, "output_length": 1, "hash_ids": [], "session": "of another tool"},
    )
    assert columns(trace) == {
        "arrival_s": [0.0, 0.0005, 2.0],
        "input_tokens": [1030, 90, 1],
        "output_tokens": [5, 6, 1],
        "priority": [0, -2, 0],
        "run_offsets": [0, 3, 5, 5],
        "run_name": [9, 4, 7, -2, -3],
        "run_tokens": [512, 512, 6, 30, 60],
        "request_id": None,
        "prefix_name": ("a", "b"),
    }
    assert trace.arrival_s.dtype == np.float64
    assert trace.input_tokens.dtype == trace.run_tokens.dtype == np.int32
    assert trace.run_name.dtype == trace.run_offsets.dtype == np.int64


def test_out_of_order_lines_are_sorted_and_equal_times_keep_the_order_of_the_file() -> None:
    rows = [
        {**GOOD, "timestamp": 20, "id": "late", "prefix": [["x", 3]]},
        {**GOOD, "timestamp": 10, "id": "first"},
        {**GOOD, "timestamp": 20, "id": "later", "hash_ids": [1, 2]},
        {**GOOD, "timestamp": 10, "id": "second", "prefix": [["y", 1], ["x", 2]]},
    ]
    trace = read(*rows)
    assert trace.request_id == ("first", "second", "late", "later")
    assert trace.run_offsets.tolist() == [0, 0, 2, 3, 5]
    assert trace.run_name.tolist() == [-3, -2, -2, 1, 2]
    assert trace.run_tokens.tolist() == [1, 2, 3, 512, 88]


@pytest.mark.parametrize(
    ("start_ms", "gap_ms", "first_s"),
    [
        (0, 100, 0.0),
        (59_000, 100, 59.0),
        (61_000, 100, 0.0),
        (100_000, 10_000, 100.0),
        (300_000, 10_000, 0.0),
        (3_600_000, 0, 0.0),
    ],
)
def test_a_trace_keeps_its_own_zero_unless_no_load_would_begin_so_late(
    start_ms: int, gap_ms: int, first_s: float
) -> None:
    """A piece that was cut out of a longer trace begins with its first request: its rate is that of the piece."""
    arrival_s = read(*({**GOOD, "timestamp": start_ms + gap_ms * k} for k in range(20))).arrival_s
    assert arrival_s[0] == first_s
    assert np.diff(arrival_s) == pytest.approx(gap_ms / 1e3)


def test_epochs_are_no_arrival_times() -> None:
    epoch = [{**GOOD, "timestamp": 1_700_000_000_000 + extra} for extra in (0, 250)]
    assert read(*epoch).arrival_s.tolist() == [0.0, 0.25]


def test_rows_without_an_id_are_named_by_their_number() -> None:
    assert read({**GOOD, "id": "a"}, GOOD, {**GOOD, "id": 17}).request_id == ("a", "1", "17")


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ({"timestamp": 1, "input_length": 5}, "no key 'output_length'"),
        ({**GOOD, "timestamp": -1}, "timestamp -1 is not a number of milliseconds from 0 up"),
        ({**GOOD, "timestamp": "1"}, "timestamp '1' is not a number"),
        ({**GOOD, "timestamp": True}, "timestamp True is not a number"),
        ({**GOOD, "timestamp": float("nan")}, "timestamp nan is not a number"),
        ({**GOOD, "input_length": 0}, "input_length 0 is below 1"),
        ({**GOOD, "input_length": 5.5}, "input_length 5.5 is not a whole number"),
        ({**GOOD, "input_length": None}, "input_length None is not a whole number"),
        ({**GOOD, "output_length": 2**31}, "output_length 2147483648 is above 2147483647"),
        ({**GOOD, "priority": "high"}, "priority 'high' is not a whole number"),
        ({**GOOD, "id": ["a"]}, "id ['a'] is not text"),
        ({**GOOD, "hash_ids": [1, 2, 3]}, "3 hash_ids, but 600 prompt tokens are 2 blocks of 512"),
        ({**GOOD, "hash_ids": [1, "2"]}, "hash_ids is not a list of whole numbers"),
        ({**GOOD, "hash_ids": [-1]}, "hash_ids are not all from 0 to"),
        ({**GOOD, "hash_ids": [2**63]}, "hash_ids are not all from 0 to 9223372036854775807"),
        ({**GOOD, "hash_ids": 0}, "hash_ids is not a list"),
        ({**GOOD, "prefix": ""}, "prefix is not a list"),
        ({**GOOD, "prefix": [["a", 500], ["b", 101]]}, "prefix has 601 tokens, but input_length is 600"),
        ({**GOOD, "prefix": [["a", 0]]}, "prefix 'a': tokens 0 is below 1"),
        ({**GOOD, "prefix": [["a"]]}, "prefix: ['a'] is not [\"name\", tokens]"),
        ({**GOOD, "prefix": {"a": 5}}, 'prefix is not a list of ["name", tokens]'),
        ({**GOOD, "prefix": [["a", 5]], "hash_ids": [1]}, "both hash_ids and prefix"),
        ({**GOOD, "hash_id": [1]}, "unknown key 'hash_id': did you mean 'hash_ids'?"),
        ({"timestamp": 1, "input_len": 5, "output_len": 2}, "unknown key 'input_len': did you mean 'input_length'?"),
        (
            {"timestamp": 1, "prompt_length": 5, "completion_length": 2},
            "unknown key 'prompt_length': did you mean 'input",
        ),
        ({"timestamp": 1, "tokens": 5}, "no key 'input_length': a line is like {"),
        ({"delay": 1, "input_length": 5, "output_length": 2}, "no key 'timestamp': turns that are timed by 'delay'"),
        ({**GOOD, "Priority": 1}, "unknown key 'Priority': did you mean 'priority'?"),
        ({**GOOD, "prefixes": [["a", 5]]}, "unknown key 'prefixes': did you mean 'prefix'?"),
    ],
)
def test_a_bad_line_is_named_with_its_number(row: dict[str, Any], wrong: str) -> None:
    with pytest.raises(InputError) as caught:
        read(GOOD, {**GOOD, "chat_id": 1, "type": "text", "turn": 2}, row, GOOD)
    assert str(caught.value).startswith(f"t.jsonl:3: {wrong}")


@pytest.mark.parametrize(
    ("key", "told", "plain"),
    [
        ("images", ["http://a/b.png", None], []),
        ("image_count", 3, 0),
        ("NumImages", 2, 0),
        ("has_audio", True, False),
        ("video_url", "http://a/b.mp4", None),
        ("lora_name", "sql", ""),
        ("lora_id", 3, -1),
        ("lora_name", "sql", float("nan")),
        ("modalities", ["image", "text"], ["text"]),
        ("useLora", True, "none"),
        ("adapter", "sql", "base"),
        ("images", {"count": 1}, {"count": 0}),
        ("multimodal", ["http://a/b.png"], [None]),
        ("modality", "image", "text"),
        ("type", "image", "search"),
        ("type", ["text", "image"], ["text"]),
    ],
)
def test_requests_that_are_not_text_for_the_base_model_are_refused(key: str, told: Any, plain: Any) -> None:
    assert len(read({**GOOD, key: plain}, GOOD, {**GOOD, key: plain})) == 3
    with pytest.raises(InputError) as caught:
        read({**GOOD, key: plain}, {**GOOD, "chat_id": 1}, {**GOOD, key: told})
    assert re.match(rf"t\.jsonl:3: {key} '[^']+': images, audio, video and adapters are not sim", str(caught.value))


@pytest.mark.parametrize(
    "key", ["exploration", "EXPLORATION", "container_image", "container.image.name", "imageTag", "model_revision"]
)
def test_a_key_that_only_holds_such_letters_is_passed_over(key: str) -> None:
    assert len(read({**GOOD, key: "v1"})) == 1


@pytest.mark.parametrize("text", [b'{"timestamp": 1', b"timestamp", b"[1]", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_a_line_that_is_no_json_object_is_named_with_its_number(text: bytes) -> None:
    with pytest.raises(InputError, match=r"^t\.jsonl:2: not a (line of JSON|JSON object)"):
        read_mooncake([*lines(GOOD), text], "t.jsonl")


def test_an_id_may_be_used_once() -> None:
    with pytest.raises(InputError, match=r"t\.jsonl:3: id 'a' was used before, for request 0"):
        read({**GOOD, "id": "a"}, GOOD, {**GOOD, "id": "a"})
    with pytest.raises(InputError, match=r"t\.jsonl: an id is the number of a request that has none"):
        read(GOOD, {**GOOD, "id": "0"})


def test_blank_lines_are_skipped_and_an_empty_file_is_refused() -> None:
    assert len(read_mooncake([b"\n", *lines(GOOD), b"  \n"], "t.jsonl")) == 1
    with pytest.raises(InputError, match=r"t\.jsonl: no request in it"):
        read_mooncake([b"\n"], "t.jsonl")


prefix = st.lists(st.tuples(st.text(max_size=3), st.integers(1, 40)), max_size=3)
row = st.fixed_dictionaries(
    {
        "timestamp": st.integers(0, 10**9).map(lambda microseconds: microseconds / 1000),
        "input_length": st.integers(130, 3000),
        "output_length": st.integers(1, 100),
    },
    optional={"priority": st.integers(-5, 5)},
)
shared = st.one_of(
    st.fixed_dictionaries({"prefix": prefix}),
    st.fixed_dictionaries({"hash_ids": st.lists(st.integers(0, 2**63 - 1), max_size=1)}),
)


@given(st.lists(st.tuples(row, shared), min_size=1, max_size=6), st.booleans())
def test_what_was_read_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[dict[str, Any], dict[str, Any]]], named: bool
) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    rows.sort(key=lambda row: row[0]["timestamp"])
    trace = read(*({**a, **b, **({"id": f"r{i}"} if named else {})} for i, (a, b) in enumerate(rows)))
    write_trace(trace, path)
    again = read_trace(path)
    assert columns(again) == columns(trace)
    text = path.read_bytes()
    write_trace(again, path)
    assert path.read_bytes() == text


def test_a_written_file_reads_like_mooncakes(tmp_path: Path) -> None:
    write_trace(
        read({**GOOD, "hash_ids": [3, 5]}, {**GOOD, "timestamp": 1500.25, "prefix": [["a", 1]]}), tmp_path / "t"
    )
    assert (tmp_path / "t").read_text() == (
        '{"timestamp": 1500, "input_length": 600, "output_length": 7, "hash_ids": [3, 5]}\n'
        '{"timestamp": 1500.25, "input_length": 600, "output_length": 7, "prefix": [["a", 1]]}\n'
    )


def test_hash_ids_that_are_not_512_tokens_become_prefixes(tmp_path: Path) -> None:
    """Runs built by hand may be named by any number; none of what they share is lost."""
    built = Trace(
        arrival_s=np.zeros(2),
        input_tokens=np.array([90, 90], np.int32),
        output_tokens=np.array([1, 1], np.int32),
        priority=np.zeros(2, np.int32),
        run_offsets=np.array([0, 2, 3]),
        run_name=np.array([4, 5, 4]),
        run_tokens=np.array([10, 20, 10], np.int32),
    )
    write_trace(built, tmp_path / "t")
    again = read_trace(tmp_path / "t")
    assert again.prefix_name == ("hash id 4", "hash id 5")
    assert again.run_name.tolist() == [-2, -3, -2]
    assert again.run_tokens.tolist() == [10, 20, 10]


def test_gzip_comes_out_the_same_every_time(tmp_path: Path) -> None:
    trace = read(GOOD)
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_trace(trace, tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert json.loads(gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes())) == GOOD
    assert columns(read_trace(tmp_path / "a.jsonl.gz")) == columns(trace)


def test_a_link_stays_one_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    trace = read(GOOD)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "target.jsonl")
    write_trace(trace, tmp_path / "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink() and json.loads((tmp_path / "target.jsonl").read_text()) == GOOD
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    write_trace(trace, tmp_path / "pipe")
    assert json.loads(reader.communicate()[0]) == GOOD and (tmp_path / "pipe").is_fifo()


def test_where_writing_fails_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{path}'"):
            write_trace(read(*[GOOD] * 2000), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("t.jsonl", "old")]


def test_no_other_file_is_touched_and_two_writers_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl.part").write_text("somebody's")
    with whole_file(tmp_path / "t.jsonl") as first:
        first.write(b"first")
        with whole_file(tmp_path / "t.jsonl") as second:
            second.write(b"second")
    files = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert files == {"t.jsonl": "first", "t.jsonl.part": "somebody's"}


@pytest.mark.parametrize("timestamp", [1e19, 10**400])
def test_a_time_that_no_clock_shows_is_refused(timestamp: float) -> None:
    with pytest.raises(InputError, match=r"1: timestamp 1e\+?1|1: timestamp 1000000"):
        read({**GOOD, "timestamp": timestamp})


def test_seconds_since_1970_are_read_and_a_span_of_centuries_is_not() -> None:
    epoch_ms = 1_700_000_000_000
    assert read(*({**GOOD, "timestamp": epoch_ms + 1000 * k} for k in range(3))).arrival_s.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match=r"arrive over 2e\+10 s"):
        read(GOOD, {**GOOD, "timestamp": 2e13})
