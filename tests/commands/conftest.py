"""A profile and a trace for commands."""

import json

import pytest

LINEAR = ("--base-ms", 5, "--prefill-token-ms", 0.02, "--decode-seq-ms", 0.05, "--context-token-ms", 0.00002)


@pytest.fixture
def files(slotune, tmp_path):
    assert slotune("profile", "linear", *LINEAR, "--out", tmp_path / "p").code == 0
    lines = [{"timestamp": i * 50, "input_length": 100 + i * 37 % 500, "output_length": 5 + i % 30} for i in range(60)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ("--profile", tmp_path / "p", "--trace", tmp_path / "t.jsonl")
