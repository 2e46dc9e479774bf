"""Requests that come again in copies of a trace."""

import json
from pathlib import Path

import numpy as np

from slotune.traces.copies import in_copies
from slotune.traces.lasting_prefixes import lasting
from slotune.traces.mooncake import read_mooncake, write_trace
from slotune.traces.read import read_trace
from slotune.traces.trace import Trace

PREFIX = [[["system", 100]], [["system", 100], ["talk", 7]]]


def served(requests: int) -> Trace:
    rows = [
        {
            "timestamp": 1000 * i,
            "input_length": 200 + i,
            "output_length": 9,
            "id": f"r{i}",
            "prefix": PREFIX[i in (3, 4)],
        }
        for i in range(requests)
    ]
    return read_mooncake([json.dumps(row).encode() for row in rows], "t")


def test_a_copy_shares_system_prompts_and_has_conversations_of_its_own(tmp_path: Path) -> None:
    trace = served(20)
    rows, copy = np.array([3, 3, 4]), np.array([0, 1, 1])
    load = in_copies(trace, rows, copy, np.array([0.5, 1.5, 2.5]), lasting(trace))
    assert (load.arrival_s.tolist(), load.input_tokens.tolist()) == ([0.5, 1.5, 2.5], [203, 203, 204])
    first, second, third = load.run_name.reshape(3, 2).tolist()
    assert first[0] == second[0] == third[0] and load.prefix_name[-2 - first[0]] == "system"
    assert first[1] != second[1] == third[1]
    write_trace(load, tmp_path / "copies.jsonl")
    again = read_trace(str(tmp_path / "copies.jsonl"))
    assert [again.prefix_name[-2 - name] for name in again.run_name[::2]] == ["system"] * 3
    assert again.run_name[1] != again.run_name[3] == again.run_name[5]


def test_the_largest_hash_ids_are_no_names_of_prefixes() -> None:
    """A copy's numbers begin anew: beyond the largest one they would be negative, as those of named prefixes are."""
    row = {"timestamp": 0, "input_length": 1024, "output_length": 9, "hash_ids": [2**63 - 2, 2**63 - 1]}
    trace = read_mooncake([json.dumps(row).encode()] * 2, "t")
    load = in_copies(trace, np.zeros(3, np.int64), np.arange(3), np.arange(3.0), np.zeros(2, np.bool_))
    assert len(set(load.run_name.tolist())) == 6 and load.run_name.min() >= 0
