"""CSV traces: Azure, BurstGPT, Vidur."""

from pathlib import Path

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.traces.read import read_trace
from slotune.traces.stats import trace_stats
from slotune.traces.trace import Trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


def read(file: Path, text: str | bytes) -> Trace:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_trace(file)


def shape(trace: Trace) -> list[tuple[float, int, int]]:
    return list(zip(trace.arrival_s.tolist(), trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True))


def test_azure_2023_starts_at_zero_whatever_the_order_and_line_ends(file: Path) -> None:
    text = "2023-11-16 18:15:50.9951690,396,109\r\n2023-11-16 18:15:46.6805900,374,44"
    assert shape(read(file, AZURE + text)) == [(0.0, 374, 44), (4.314579, 396, 109)]


def test_azure_2024_has_time_zones(file: Path) -> None:
    text = "2024-05-10 23:59:59.500000+00:00,10,1\n2024-05-11 00:00:00.009930+00:00,20,2\n"
    assert shape(read(file, AZURE + text)) == [(0.0, 10, 1), (0.50993, 20, 2)]


@pytest.mark.parametrize(
    ("column", "told", "plain"),
    [("NumImages", "2", " 00"), ("lora_name", "sql", "N/A"), ("images", "['a.png']", "[]"), ("Type", " image", "API")],
)
def test_requests_that_are_not_text_for_the_base_model_are_refused(
    file: Path, column: str, told: str, plain: str
) -> None:
    header = f"TIMESTAMP,{column},ContextTokens,GeneratedTokens,{column}\n"
    at = "2024-10-01 00:00:00.009930+00:00"
    assert shape(read(file, f"{header}{at},{plain},20,2,{plain}\n{at},,20,2\n")) == [(0.0, 20, 2), (0.0, 20, 2)]
    for images in ((told, plain), (plain, told)):
        with pytest.raises(InputError, match=rf"t\.csv:2: {column} .*: images, audio, video and adapters are not sim"):
            read(file, f"{header}{at},{images[0]},20,2,{images[1]}\n")


def test_burstgpt_leaves_out_failed_requests_and_keeps_all_models(file: Path) -> None:
    text = "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,0,1087,API log\n118.5,GPT-4,417,276,693,API log\n"
    trace = read(file, BURSTGPT + text)
    assert shape(trace) == [(5.0, 472, 18), (118.5, 417, 276)]
    assert trace.left_out == trace_stats(trace)["left_out"] == 1
    with pytest.raises(InputError, match="no request in it that counts: 1 without an answer"):
        read(file, BURSTGPT + text.splitlines()[1])


def test_vidur_with_and_without_arrivals(file: Path) -> None:
    assert shape(read(file, VIDUR + "0.25,3,4\n\n0.5,5,6\n")) == [(0.25, 3, 4), (0.5, 5, 6)]
    assert shape(read(file, "num_prefill_tokens,num_decode_tokens,pd_ratio\n3,4,0.75\n5,6,0.8\n")) == [
        (0.0, 3, 4),
        (0.0, 5, 6),
    ]


def test_a_byte_order_mark_and_spaces_in_the_header_do_no_harm(file: Path) -> None:
    assert shape(read(file, "\ufeffarrived_at, num_prefill_tokens, num_decode_tokens\n1,2,3\n")) == [(1.0, 2, 3)]


def test_failed_requests_are_counted_and_left_out(file: Path) -> None:
    trace = read(file, AZURE + "2023-11-16 18:15:46,374,0\n2023-11-16 18:15:47,374,44.0\n")
    assert shape(trace) == [(0.0, 374, 44)] and trace.left_out == 1


def test_quotes_and_empty_lines_before_the_header_do_no_harm(file: Path) -> None:
    header = ",".join(f'"{name}"' for name in AZURE.strip().split(","))
    assert shape(read(file, f"\n\n{header}\n2023-11-16 18:15:46,374,44\n")) == [(0.0, 374, 44)]


def at(*moments: str) -> str:
    """A log of requests at these moments."""
    return AZURE + "".join(f"{moment},374,44\n" for moment in moments)


def test_local_times_that_step_back_by_an_hour_are_doubted(file: Path) -> None:
    trace = read(file, at("2025-10-26 01:00:00", "2025-10-26 02:59:58.5", "2025-10-26 02:00:01", "2025-10-26 03:10:00"))
    (doubt,) = trace.doubts
    assert doubt.startswith("times step back from 2025-10-26 02:59:58 to 2025-10-26 02:00:01: local time where summer")
    assert trace.taken(np.arange(2)).doubts == trace.doubts


def test_a_log_with_the_newest_line_first_steps_back_only_where_its_clock_does(file: Path) -> None:
    quiet = ("2025-10-26 03:10:00", "2025-10-26 03:05:00", "2025-10-26 02:20:00", "2025-10-26 02:18:00")
    assert not read(file, at(*quiet)).doubts
    changed = ("2025-10-26 03:10:00", "2025-10-26 02:00:01", "2025-10-26 02:59:58.5", "2025-10-26 02:50:00")
    assert "step back from 2025-10-26 02:59:58 to 2025-10-26 02:00:01" in read(file, at(*changed)).doubts[0]


@pytest.mark.parametrize(
    "text",
    [
        at("2025-10-26 01:59:58", "2025-10-26 03:00:01"),
        at("2025-10-26 02:59:58", "2025-10-26 02:51:01", "2025-10-26 03:00:01"),  # written when they ended
        at("2025-10-26 02:59:58+02:00", "2025-10-26 02:00:01+01:00"),
        at("2025-10-26 02:59:58+00:00", "2025-10-26 02:00:01+00:00"),
        at("2025-10-26 02:59:58", "2025-10-26 02:00:01", "2025-10-26 00:30:00"),  # in no order
        at("2025-10-26 02:59:58", "2025-10-26 02:39:58"),
    ],
)
def test_other_times_are_not(file: Path, text: str) -> None:
    assert read(file, text).doubts == ()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (AZURE + "2023-11-16 18:15:46,374,44\n18:15,374,44\n", "3: TIMESTAMP '18:15' is not like 2023-11-16"),
        (AZURE + "2023-11-16 18:15:46,374,44\n2023-11-16 18:15:46+00:00,3,4\n", "3: TIMESTAMP '2023-11-16 18:15:46+"),
        (AZURE + "2023-11-16 18:15:46,374,\n", "2: GeneratedTokens is empty: give a failed request 0"),
        (BURSTGPT + "5,GPT-4,472, ,490,API log\n", "2: Response tokens is empty: give a failed request 0"),
        (AZURE + "2023-11-16 18:15:46,374,x\n", "2: GeneratedTokens 'x' is not a whole number"),
        (AZURE + "2023-11-16 18:15:46,0,4\n", "2: ContextTokens 0 is below 1"),
        (AZURE + "2023-11-16 18:15:46,374\n", "2: 2 fields, the header has 3"),
        (BURSTGPT + "x,GPT-4,1,1,2,API log\n", "2: Timestamp 'x' is not a number of seconds from 0 up"),
        (BURSTGPT + "1,GPT-4,1,-1,2,API log\n", "2: Response tokens -1 is below 0"),
        (VIDUR + "1,2,3\n-1,2,3\n", "3: arrived_at '-1' is not a number of seconds"),
        (VIDUR + "inf,2,3\n", "2: arrived_at 'inf' is not a number of seconds"),
        (VIDUR + "1,2.5,3\n", "2: num_prefill_tokens '2.5' is not a whole number"),
        (VIDUR.encode() + b"1,2,3\n\xff,1,1\n", "3: not CSV text: not UTF-8"),
        (VIDUR, " no request in it"),
    ],
)
def test_a_bad_line_is_named_with_its_number(file: Path, text: str | bytes, wrong: str) -> None:
    with pytest.raises(InputError) as caught:
        read(file, text)
    assert str(caught.value).startswith(f"{file}:")
    assert wrong in str(caught.value)


def test_a_missing_column_is_named(file: Path) -> None:
    file.write_text("TIMESTAMP,ContextTokens\n")
    with pytest.raises(InputError, match=r"t\.csv:1: no column 'GeneratedTokens' in the header"):
        read_trace(file, format="azure")


def test_a_bad_byte_far_down_has_the_number_of_its_line(file: Path) -> None:
    with pytest.raises(InputError, match=r":2002: not CSV text: not UTF-8"):
        read(file, VIDUR.encode() + b"1,2,3\n" * 2000 + b"1,\xff,3\n")


def test_a_field_too_long_for_csv_has_the_number_of_its_line(file: Path) -> None:
    with pytest.raises(InputError, match=r":3: not CSV text: field larger"):
        read(file, VIDUR + "1,2,3\n1,2," + "3" * 140_000 + "\n")
