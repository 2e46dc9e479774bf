"""Foreign traces that are one JSON document: results of `vllm bench serve`, and ShareGPT conversations."""

import json
import math
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from .beyond_text import check_of_text, telling
from .columns import BadRow, Columns, whole
from .tabular import VIDUR_LENGTHS
from .trace import Trace

# What vLLM's benchmark keeps of ShareGPT (vllm/benchmarks/datasets/datasets.py, is_valid_sequence)
MIN_TOKENS = 4
MAX_PROMPT_TOKENS = 1024
MAX_TOTAL_TOKENS = 2048
CLIENT_GAP_S = 2e-3
"""Between the requests of a client that sends all at once, at most: making and writing one takes some of it."""
OTHER_BACKENDS = re.compile("audio|embeddings|pooling|rerank")
"""In the names of the benchmark's backends that send no text or get none (ASYNC_REQUEST_FUNCS,
vllm/benchmarks/lib/endpoint_request_func.py)."""
NOT_SENT = "not of the turns and lengths that `vllm bench serve` sends"


def read_vllm_bench(stream: IO[bytes], source: str) -> Trace:
    """What `vllm bench serve --save-result --save-detailed` sent and got; failed requests are left out.

    A request arrives when its turn came, before any wait under --max-concurrency; the first one arrives at 0.
    Raises InputError with the request's number for a bad entry.
    """
    result = _document(stream, source, "; of what --append-result joined, give each result a file of its own")
    if not isinstance(result, dict):
        raise InputError(f"{source}: not one result of vllm bench serve: give each a file of its own")
    backend = str(result.get("backend") or result.get("endpoint_type"))
    if OTHER_BACKENDS.search(backend):
        told = (
            "audio and requests for which nothing is generated are not simulated; give a benchmark of text generation"
        )
        raise InputError(f"{source}: measured with --backend {backend}: {told}")
    starts, prompts, outputs = (_list(result, key, source) for key in ("start_times", "input_lens", "output_lens"))
    waits = result.get("queue_times") or [0.0] * len(starts)
    errors = result.get("errors") or [""] * len(starts)
    if not len(starts) == len(prompts) == len(outputs) == len(waits) == len(errors):
        raise InputError(f"{source}: its lists per request differ in length")
    columns = Columns()
    for i, row in enumerate(zip(starts, waits, prompts, outputs, errors, strict=True)):
        try:
            _add_measured(columns, *row)
        except BadRow as error:
            raise InputError(f"{source}: request {i}: {error}") from None
    at_once = _sent_at_once(result, columns.arrival_s)
    if at_once:
        columns.arrival_s = array("d", bytes(8 * len(columns.arrival_s)))
    return columns.trace(source, wall_clock=True, doubts=_doubts(result, at_once))


def _add_measured(columns: Columns, start: Any, wait: Any, prompt: Any, output: Any, error: Any) -> None:
    if error or output == 0:
        columns.left_out += 1
        return
    if type(start) is not float or type(wait) not in (int, float):
        raise BadRow(f"start time {start!r} and queue time {wait!r} are not numbers")
    if not math.isfinite(start - wait):
        raise BadRow(f"start time {start!r} and queue time {wait!r} are no time")
    columns.add(start - wait, whole(prompt, "input_lens", 1), whole(output, "output_lens", 1))


def _sent_at_once(result: dict[str, Any], arrival_s: Sequence[float]) -> bool:
    """Whether all requests were sent at once: their times then tell how fast the client was, or the engine that the
    next in turn waited for. Rising rates and traces that bring their times have no rate either, but gaps that no client
    makes, also before the first that had to wait."""
    if result.get("request_rate") != "inf" or result.get("ramp_up_strategy") or not arrival_s:
        return False
    places = None if result.get("queue_times") else _places(result)
    first = sorted(arrival_s)[:places]
    return first[-1] - first[0] < CLIENT_GAP_S * len(first)


def _places(result: dict[str, Any]) -> int | None:
    """How many requests --max-concurrency let in at a time; None where none had to wait for it."""
    places = result.get("max_concurrency")
    return places if type(places) is int and 0 < places < len(result["start_times"]) else None


def _doubts(result: dict[str, Any], at_once: bool) -> tuple[str, ...]:
    if (places := _places(result)) is None:
        return ()
    if at_once:
        return (f"sent without a rate, all arrive at once: with --max-concurrency {places} they are served as then",)
    if result.get("queue_times"):
        return ()
    told = (
        f"how long requests waited under --max-concurrency {places} is not in the file, which vLLM saves from 0.30 on"
    )
    mend = "`slotune trace convert FILE --rate R --cv 1 --out T.jsonl` makes others"
    return (f"{told}: arrivals follow the pace of the engine that was measured; {mend}",)


def _list(result: dict[str, Any], key: str, source: str) -> list[Any]:
    value = result.get(key)
    if isinstance(value, list):
        return value
    if key == "start_times" and isinstance(result.get("input_lens"), list):
        raise InputError(
            f"{source}: no list {key!r}: vLLM before 0.15 does not save when requests began; run it with a newer one, "
            f"or give the lengths alone as CSV with the columns {', '.join(VIDUR_LENGTHS)}"
        )
    raise InputError(f"{source}: no list {key!r}: save it with --save-result --save-detailed")


def read_sharegpt(stream: IO[bytes], source: str, tokenizer: Path | None) -> Trace:
    """First two turns of each conversation as prompt and answer, as `vllm bench serve` takes them; all arrive at 0.

    The file holds text, so its tokens are counted with the tokenizer.json in the folder `tokenizer`: an estimate from
    words would be off by tens of per cent. As in vLLM, conversations with fewer than 2 turns, prompts or answers under
    4 tokens, prompts over 1,024 and sums over 2,048 are left out. Raises InputError with the entry's number for a bad
    one, and where no tokenizer is given.
    """
    entries = _document(stream, source)
    if not isinstance(entries, list):
        raise InputError(f"{source}: not a list of conversations")
    if entries and not any(isinstance(entry, dict) and "conversations" in entry for entry in entries):
        told = "requests are read from JSON lines, one a line with timestamp, input_length and output_length"
        lengths = any(isinstance(entry, dict) and "input_length" in entry for entry in entries)
        mend = f": `jq -c '.[]' {source}` makes lines of a list" if lengths else ""
        raise InputError(f"{source}: a list without 'conversations' is not ShareGPT; {told}{mend}")
    if tokenizer is None:
        raise InputError(
            f"{source}: ShareGPT holds text, not lengths: count its tokens once with "
            f"`slotune trace convert {source} --tokenizer FOLDER --out T.jsonl`, FOLDER being the model's"
        )
    pairs = [pair for i, entry in enumerate(entries) if (pair := _pair(entry, f"{source}: entry {i}"))]
    columns = Columns(left_out=len(entries) - len(pairs), left_out_why=NOT_SENT)
    for prompt, output in zip(*(_token_counts([pair[k] for pair in pairs], tokenizer) for k in (0, 1)), strict=True):
        if min(prompt, output) >= MIN_TOKENS and prompt <= MAX_PROMPT_TOKENS and prompt + output <= MAX_TOTAL_TOKENS:
            columns.add(0.0, prompt, output)
        else:
            columns.left_out += 1
    return columns.trace(source)


def _pair(entry: Any, where: str) -> tuple[str, str] | None:
    """Texts of the first two turns; None where there are fewer."""
    turns = entry.get("conversations", []) if isinstance(entry, dict) else None
    if not isinstance(turns, list):
        raise InputError(f"{where}: not an object with a list 'conversations'")
    texts = [turn.get("value") if isinstance(turn, dict) else None for turn in turns[:2]]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}: a turn without the text 'value'")
    if len(texts) < 2:
        return None
    try:
        check_of_text((key, entry[key]) for key in telling(entry))
    except BadRow as error:
        raise InputError(f"{where}: {error}") from None
    return texts[0], texts[1]  # type: ignore[return-value]  # both are text, see above


def _token_counts(texts: list[str], folder: Path) -> list[int]:
    try:
        from tokenizers import Tokenizer  # type: ignore[import-not-found,unused-ignore]  # used here only: no dependency
    except ImportError:
        raise InputError("counting ShareGPT's tokens needs a library: pip install tokenizers") from None
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise InputError(f"{folder}: no tokenizer.json in it: give the folder of a model")
    with file.open("rb") as content:
        _document(content, str(file))  # the library's own error is of no kind that could be caught
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()  # a tokenizer that was saved after training pads every text to one length
    whole_texts = [text.encode("utf-8", "replace").decode() for text in texts]  # half a surrogate pair is no text
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(whole_texts)]


def _document(stream: IO[bytes], source: str, mend_of_several: str = "") -> Any:
    try:
        return json.load(stream)
    except (ValueError, RecursionError) as error:
        several = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        raise InputError(f"{source}: not JSON: {error}{mend_of_several if several else ''}") from None
