"""JSON documents: results of vllm bench serve, ShareGPT."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from slotune.errors import InputError
from slotune.traces.read import read_trace

RESULT: dict[str, Any] = {
    "request_throughput": 1.0,
    "input_lens": [10, 20, 30],
    "output_lens": [1, 2, 3],
    "start_times": [100.5, 101.0, 103.0],
    "queue_times": [0.0, 0.0, 2.25],
    "errors": ["", "", ""],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "t.json"


def test_a_bench_result_gives_arrivals_before_the_wait_for_concurrency(file: Path) -> None:
    file.write_text(json.dumps(RESULT))
    trace = read_trace(file)
    assert trace.arrival_s.tolist() == [0.0, 0.25, 0.5]
    assert trace.input_tokens.tolist() == [10, 30, 20]
    assert trace.output_tokens.tolist() == [1, 3, 2]


def test_failed_requests_of_a_bench_result_are_left_out(file: Path) -> None:
    file.write_text(json.dumps({**RESULT, "errors": ["", "refused", ""], "output_lens": [1, 0, 3]}))
    assert read_trace(file).input_tokens.tolist() == [10, 30]
    file.write_text(json.dumps({**RESULT, "errors": ["", "", ""], "output_lens": [1, 0, 3]}))
    assert read_trace(file).input_tokens.tolist() == [10, 30], "whose error has no text"
    assert read_trace(file).left_out == 1


@pytest.mark.parametrize("key", ["backend", "endpoint_type"])
@pytest.mark.parametrize(
    ("backend", "text"),
    [
        ("openai-audio", False),
        ("openai-embeddings-chat", False),
        ("infinity-embeddings", False),
        ("vllm-pooling", False),
        ("vllm-rerank", False),
        ("vllm", True),
        ("openai-chat", True),
        ("openai-responses", True),
        ("tgi", True),
    ],
)
def test_a_benchmark_of_anything_but_text_generation_is_refused(file: Path, key: str, backend: str, text: bool) -> None:
    of_pooling = {name: value for name, value in RESULT.items() if name != "start_times"}
    for result in (RESULT,) if text else (RESULT, of_pooling):
        file.write_text(json.dumps(result | {key: backend}))
        if text:
            assert len(read_trace(file)) == 3
            continue
        with pytest.raises(InputError, match=rf"^{file}: measured with --backend {backend}: audio and requests for"):
            read_trace(file)


def test_older_results_have_no_queue_times(file: Path) -> None:
    file.write_text(json.dumps({key: value for key, value in RESULT.items() if key != "queue_times"}))
    assert read_trace(file).arrival_s.tolist() == [0.0, 0.5, 2.5]


def test_a_client_that_sends_all_at_once_makes_no_arrivals(file: Path) -> None:
    """Its times are its own: a rate would stretch the pauses between them to a load that nobody sent."""
    jitter = RESULT | {"request_rate": "inf", "start_times": [100.0, 100.0001, 100.005], "queue_times": 3 * [0.0]}
    file.write_text(json.dumps(jitter))
    assert read_trace(file).arrival_s.tolist() == [0.0, 0.0, 0.0] and not read_trace(file).doubts
    file.write_text(json.dumps(jitter | {"request_rate": 20000.0}))
    assert read_trace(file).arrival_s.max() > 0, "at a rate that was asked for"
    file.write_text(json.dumps(jitter | {"start_times": [100.0, 100.5, 103.0]}))
    assert read_trace(file).arrival_s.tolist() == [0.0, 0.5, 3.0], "of a trace that brings its times"


def test_waits_that_are_not_in_the_file_are_told(file: Path) -> None:
    """Under --max-concurrency each begins when another ends: at the pace of the engine that was measured."""
    capped = {key: value for key, value in RESULT.items() if key != "queue_times"} | {"max_concurrency": 2}
    file.write_text(json.dumps(capped | {"request_rate": 4.0}))
    read = read_trace(file)
    assert read.arrival_s.tolist() == [0.0, 0.5, 2.5]
    assert "arrivals follow the pace of the engine that was measured" in read.doubts[0]
    two_at_once = {"request_rate": "inf", "start_times": [100.0, 100.0001, 103.0]}
    file.write_text(json.dumps(capped | two_at_once))
    read = read_trace(file)
    assert read.arrival_s.tolist() == [0.0, 0.0, 0.0] and "with --max-concurrency 2 they" in read.doubts[0]
    for rising in ({"ramp_up_strategy": "linear"}, {}):  # a trace that brings its times is not told apart
        file.write_text(json.dumps(capped | {"request_rate": "inf"} | rising))
        read = read_trace(file)
        assert read.arrival_s.tolist() == [0.0, 0.5, 2.5] and "follow the pace of the engine" in read.doubts[0]
    file.write_text(json.dumps(capped | two_at_once | {"queue_times": [0.0, 0.0, 3.0]}))
    assert "with --max-concurrency 2 they" in read_trace(file).doubts[0]
    file.write_text(json.dumps(capped | {"request_rate": "inf", "max_concurrency": 0}))
    assert read_trace(file).arrival_s.tolist() == [0.0, 0.5, 2.5]
    for waited_for_none in ({"max_concurrency": None}, {"max_concurrency": 3}, {"queue_times": [0.0, 0.0, 2.25]}):
        file.write_text(json.dumps(capped | {"request_rate": 4.0} | waited_for_none))
        assert not read_trace(file).doubts


def test_a_list_of_something_else_is_not_called_sharegpt(file: Path) -> None:
    file.write_text(json.dumps([{"timestamp": 0, "input_length": 1, "output_length": 1}]))
    with pytest.raises(InputError, match=r"without 'conversations' is not ShareGPT.*`jq -c"):
        read_trace(file)
    file.write_text(json.dumps([{"messages": []}]))
    with pytest.raises(InputError) as caught:
        read_trace(file)
    assert "jq" not in str(caught.value), "whose lines would have no lengths"


def test_a_result_is_known_by_what_stands_before_its_metadata(file: Path) -> None:
    """`--metadata` comes fifth, at any length."""
    file.write_text(json.dumps({"date": "20261129-041500", "num_prompts": 3, "notes": 5000 * "x", **RESULT}))
    assert len(read_trace(file)) == 3


def test_results_that_were_appended_to_one_another_are_to_be_given_one_by_one(file: Path) -> None:
    file.write_text("\n".join(2 * [json.dumps(RESULT)]))
    with pytest.raises(InputError, match=r"not JSON: Extra data.*give each result a file of its own"):
        read_trace(file)
    file.write_text("[]\n[]")
    with pytest.raises(InputError) as caught:
        read_trace(file, tokenizer=file.parent)
    assert "--append-result" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (
            {"start_times": None, "input_lens": None},
            "no list 'start_times': save it with --save-result --save-detailed",
        ),
        (
            {"start_times": None},
            "no list 'start_times': vLLM before 0.15 does not save when requests began; run it with a newer one, or "
            "give the lengths alone as CSV with the columns num_prefill_tokens, num_decode_tokens",
        ),
        ({"input_lens": [10, 20]}, "its lists per request differ in length"),
        ({"output_lens": [1, -1, 3]}, "request 1: output_lens -1 is below 1"),
        ({"start_times": [100.5, "x", 103.0]}, "request 1: start time 'x' and queue time 0.0 are not numbers"),
    ],
)
def test_a_bad_result_is_refused(file: Path, change: dict[str, Any], wrong: str) -> None:
    file.write_text(json.dumps({**RESULT, **change}))
    with pytest.raises(InputError) as caught:
        read_trace(file)
    assert str(caught.value) == f"{file}: {wrong}"


def test_a_cut_off_document_is_refused(file: Path) -> None:
    file.write_text(json.dumps(RESULT)[:-20])
    with pytest.raises(InputError, match=r"t\.json: not JSON: "):
        read_trace(file)


def conversation(*texts: Any) -> dict[str, Any]:
    return {"id": "x", "conversations": [{"from": "human", "value": text} for text in texts]}


@pytest.fixture
def tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder, and in place of the tokenizers library one that counts words, of padded texts unless told."""

    class Words:
        padded = 99_999

        @staticmethod
        def from_file(path: str) -> "Words":
            assert Path(path).name == "tokenizer.json"
            return Words()

        def no_truncation(self) -> None:
            pass

        def no_padding(self) -> None:
            self.padded = 0

        def encode_batch(self, texts: list[str]) -> list[SimpleNamespace]:
            return [SimpleNamespace(ids=text.split() + [""] * self.padded) for text in texts]

    module = ModuleType("tokenizers")
    module.Tokenizer = Words  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tokenizers", module)
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def test_sharegpt_takes_the_first_two_turns_that_vllm_would_take(file: Path, tokenizer: Path) -> None:
    entries = [
        conversation("a b c d e", "a b c d", "more"),
        conversation("only one turn"),
        conversation("a b c", "prompt too short here"),
        conversation("w " * 1025, "prompt too long here"),
        conversation("w " * 1024, "w " * 1025),
        conversation("w " * 1024, "w " * 1024),
    ]
    file.write_text(json.dumps(entries))
    trace = read_trace(file, tokenizer=tokenizer)
    assert trace.input_tokens.tolist() == [5, 1024]
    assert trace.output_tokens.tolist() == [4, 1024]
    assert trace.arrival_s.tolist() == [0.0, 0.0]
    assert (trace.left_out, trace.left_out_why) == (4, "not of the turns and lengths that `vllm bench serve` sends")


def test_sharegpt_is_never_guessed(file: Path) -> None:
    file.write_text(json.dumps([conversation("a b c d", "a b c d")]))
    with pytest.raises(InputError, match=r"ShareGPT holds text, not lengths: .*--tokenizer FOLDER"):
        read_trace(file)


def test_sharegpt_needs_a_tokenizer_that_is_there(file: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(json.dumps([conversation("a b c d", "a b c d")]))
    (tokenizer / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"no tokenizer\.json in it: give the folder of a model"):
        read_trace(file, tokenizer=tokenizer)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match="pip install tokenizers"):
        read_trace(file, tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("entries", "wrong"),
    [
        ([conversation("a", "b"), 5], "entry 1: not an object with a list 'conversations'"),
        ([conversation("a", None)], "entry 0: a turn without the text 'value'"),
        (
            [
                conversation("a", "b") | {"image": []},
                conversation("a") | {"image": "a.jpg"},
                conversation("a", "b") | {"image": "a.jpg"},
            ],
            "entry 2: image 'a.jpg': images, audio, video and adapters are not simulated; leave such requests out, "
            "or that key or column if it means something else",
        ),
        ([], "no request in it"),
    ],
)
def test_a_bad_conversation_is_named(file: Path, tokenizer: Path, entries: list[Any], wrong: str) -> None:
    file.write_text(json.dumps(entries))
    with pytest.raises(InputError) as caught:
        read_trace(file, tokenizer=tokenizer)
    assert str(caught.value) == f"{file}: {wrong}"


def test_several_results_in_one_file_are_told_apart_from_conversations(file: Path) -> None:
    file.write_text(json.dumps([{"num_prompts": 3}, {"num_prompts": 4}]))
    with pytest.raises(InputError, match="not one result of vllm bench serve: give each a file of its own"):
        read_trace(file)
