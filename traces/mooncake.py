"""slotune's own trace format: Mooncake's JSON lines (kvcache-ai/Mooncake, FAST25-release) with three optional keys.

`{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}`: one hash id for each 512 prompt tokens,
the last one clipped to the prompt. Optional: "id", "priority", and instead of hash_ids "prefix": [["name", tokens],
...], named leading runs of any length. Keys of other tools are passed over, but not misspelt ones of ours, nor those
that tell of images, audio, video or adapters.
"""

import gzip
import json
import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import from_json  # three times as fast as json.loads on short lines

from ..errors import InputError
from ..whole_file import whole_file
from .beyond_text import check_of_text, telling
from .columns import LATEST_S, MAX_TOKENS, BadRow, Columns, whole
from .doubts import Sessions
from .trace import NAMED, Trace

HASH_TOKENS = 512
LARGER_BLOCKS = (1024, 2048, 4096)
LEAST_COUNTS = 3
"""Different numbers of ids: a system prompt has the same number in every request, whatever the prompts' lengths."""
MAX_HASH_ID = 2**63 - 1
REQUIRED = ("timestamp", "input_length", "output_length")
KEYS = frozenset({*REQUIRED, "hash_ids", "prefix", "id", "priority"})
TYPO_SIMILARITY = 0.7  # takes "prefixes" for "prefix", leaves "chat_id" and "session_id" of other tools alone
OF_PROMPTS = re.compile("prompt|context|input|request", re.IGNORECASE)
LINE = (
    'a line is like {"timestamp": ms, "input_length": n, "output_length": n}; `slotune trace convert --help` tells more'
)


def read_mooncake(lines: Iterable[bytes], source: str) -> Trace:
    """Read JSON lines; blank ones are skipped. Raises InputError with `source`:line and what is wrong there."""
    columns = Columns()
    known, of_others, sessions = set(KEYS), dict[str, None](), Sessions()
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            row = from_json(line.rstrip())  # its end would be another line to the parser
            if type(row) is not dict:
                raise BadRow("not a JSON object")
            if not row.keys() <= known:
                known |= _checked_keys(row)
                of_others |= dict.fromkeys(telling(row))
            check_of_text((key, row.get(key)) for key in of_others)
            _add(columns, row)
            if row.get("session_id"):
                sessions.add(row["session_id"], row)
        except BadRow as error:
            raise InputError(f"{source}:{number}: {error}") from None
        except ValueError as error:
            problem = str(error).replace(" at line 1 column", " at column")
            mend = f": {LINE}" if number == 1 else ""
            raise InputError(f"{source}:{number}: not a line of JSON: {problem}{mend}") from None
    trace = columns.trace(source, doubts=sessions.doubts())
    _check_block_size(trace, source)
    return trace


def _check_block_size(trace: Trace, source: str) -> None:
    """Raise InputError where the hash ids of all requests cover their prompts in larger blocks than HASH_TOKENS, as
    GuideLLM's and Dynamo's may: half of what is shared would not be found."""
    runs = np.diff(trace.run_offsets)
    hashed = runs > 0
    hashed[hashed] = trace.run_name[trace.run_offsets[:-1][hashed]] >= 0
    ids = runs[hashed]
    if len(np.unique(ids)) < LEAST_COUNTS:
        return
    for size in LARGER_BLOCKS:
        if np.array_equal(ids, -(-trace.input_tokens[hashed] // size)):
            more = size // HASH_TOKENS
            told = (
                f"a hash id stands for {HASH_TOKENS} tokens, and these fit blocks of {size}: give {more} ids for each"
            )
            raise InputError(f"{source}: {told}")


def _checked_keys(row: dict[str, Any]) -> set[str]:
    """Keys of `row` that need not be looked at again; BadRow for one that looks like a misspelt key of ours which is
    not there."""
    absent = KEYS - row.keys()
    for key in sorted(row.keys() - KEYS):
        of_prompts = OF_PROMPTS.search(key) and "output" not in key.lower()
        likely = absent - {"output_length"} if of_prompts else absent
        near = get_close_matches(key.lower(), likely, n=1, cutoff=TYPO_SIMILARITY)
        if near:
            raise BadRow(f"unknown key {key!r}: did you mean {near[0]!r}?")
    return {key for key in row if not get_close_matches(key.lower(), KEYS, n=1, cutoff=TYPO_SIMILARITY)}


def _add(columns: Columns, row: dict[str, Any]) -> None:
    for key in REQUIRED:
        if key not in row:
            raise BadRow(f"no key {key!r}: {_instead(row)}")
    timestamp = row["timestamp"]
    if type(timestamp) not in (int, float) or not 0 <= timestamp <= 1000 * LATEST_S:
        raise BadRow(
            f"timestamp {repr(timestamp)[:40]} is not a number of milliseconds from 0 up to {1000 * LATEST_S:.0e}"
        )
    prompt = whole(row["input_length"], "input_length", 1)
    output = whole(row["output_length"], "output_length", 1)
    hash_ids, prefix = row.get("hash_ids"), row.get("prefix")
    if hash_ids is not None and prefix is not None:
        raise BadRow("both hash_ids and prefix: give one of them")
    if hash_ids is not None:
        _add_hash_ids(columns, hash_ids, prompt)
    if prefix is not None:
        _add_prefix(columns, prefix, prompt)
    request_id = row.get("id")
    if request_id is not None:
        if type(request_id) not in (str, int):
            raise BadRow(f"id {request_id!r} is not text")
        columns.name_row(str(request_id))
    priority = row.get("priority")
    columns.add(timestamp / 1000, prompt, output, 0 if priority is None else whole(priority, "priority", -MAX_TOKENS))


def _instead(row: dict[str, Any]) -> str:
    if "delay" in row:
        return "turns that are timed by 'delay' are not read; give each line its timestamp"
    return LINE


def _add_hash_ids(columns: Columns, hash_ids: Any, prompt: int) -> None:
    if type(hash_ids) is not list or not {int}.issuperset(map(type, hash_ids)):
        raise BadRow("hash_ids is not a list of whole numbers")
    if not hash_ids:
        return
    if min(hash_ids) < 0 or max(hash_ids) > MAX_HASH_ID:
        raise BadRow(f"hash_ids are not all from 0 to {MAX_HASH_ID}")
    blocks = -(-prompt // HASH_TOKENS)
    if len(hash_ids) > blocks:
        told = f"{prompt} prompt tokens are {blocks} blocks of {HASH_TOKENS}"
        mend = f"those of other tools may be smaller: keep the last of every {HASH_TOKENS} tokens"
        raise BadRow(f"{len(hash_ids)} hash_ids, but {told}; {mend}")
    lengths = array("i", [HASH_TOKENS]) * len(hash_ids)
    lengths[-1] = min(HASH_TOKENS, prompt - HASH_TOKENS * (len(hash_ids) - 1))
    columns.run_name.extend(hash_ids)
    columns.run_tokens.extend(lengths)


def _add_prefix(columns: Columns, prefix: Any, prompt: int) -> None:
    if type(prefix) is not list:
        raise BadRow('prefix is not a list of ["name", tokens]')
    left = prompt
    for run in prefix:
        if type(run) is not list or len(run) != 2 or type(run[0]) is not str:
            raise BadRow(f'prefix: {run!r} is not ["name", tokens]')
        tokens = whole(run[1], f"prefix {run[0]!r}: tokens", 1)
        left -= tokens
        columns.run_name.append(columns.intern(run[0]))
        columns.run_tokens.append(tokens)
    if left < 0:
        raise BadRow(f"prefix has {prompt - left} tokens, but input_length is {prompt}")


def write_trace(trace: Trace, path: Path) -> None:
    """Write JSON lines, gzipped if the name ends in .gz; arrivals to the nanosecond.

    What was read comes back as it was: runs made of hash ids as "hash_ids", named ones as "prefix". A file at `path` is
    replaced when the new one is complete.
    """
    # Neither the hour nor the name goes into an archive: same trace, same bytes.
    with (
        whole_file(path) as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else nullcontext(raw) as out,
    ):
        out.writelines(json.dumps(row).encode() + b"\n" for row in _rows(trace))


def _rows(trace: Trace) -> Iterator[dict[str, Any]]:
    milliseconds = np.round(trace.arrival_s * 1000, 6).tolist()
    prompts, outputs = trace.input_tokens.tolist(), trace.output_tokens.tolist()
    priorities, offsets = trace.priority.tolist(), trace.run_offsets.tolist()
    hashed = _made_of_hash_ids(trace)
    for i, timestamp in enumerate(milliseconds):
        row: dict[str, Any] = {} if trace.request_id is None else {"id": trace.request_id[i]}
        row["timestamp"] = int(timestamp) if timestamp.is_integer() else timestamp
        row |= {"input_length": prompts[i], "output_length": outputs[i]}
        if priorities[i]:
            row["priority"] = priorities[i]
        names = trace.run_name[offsets[i] : offsets[i + 1]].tolist()
        if names and hashed and names[0] >= 0:
            row["hash_ids"] = names
        elif names:
            lengths = trace.run_tokens[offsets[i] : offsets[i + 1]].tolist()
            row["prefix"] = [[_prefix(trace, name), tokens] for name, tokens in zip(names, lengths, strict=True)]
        yield row


def _prefix(trace: Trace, name: int) -> str:
    return trace.prefix_name[NAMED - name] if name <= NAMED else f"hash id {name}"


def _made_of_hash_ids(trace: Trace) -> bool:
    """Whether all runs without a name can be written as hash ids: 512 tokens each, the last one clipped."""
    request = trace.run_owner
    position = np.arange(len(request)) - trace.run_offsets[request]
    full = np.minimum(HASH_TOKENS, trace.input_tokens[request] - HASH_TOKENS * position)
    return bool(((trace.run_name < 0) | (trace.run_tokens == full)).all())
