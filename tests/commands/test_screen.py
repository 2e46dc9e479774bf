"""screen as it is called: rows, files, and the reasons of those that cannot run."""

import csv
import json

import pytest

from slotune.commands.notes import note_ignored
from slotune.profiler.profile_folder import load_profile
from slotune.traces.read import read_trace

P31 = ("--slo", "p31:ttft:1e9", "--slo", "p31:itl:1e9")
"""A percentile that is reported for these targets alone."""
NGRAM = '{"method": "ngram", "num_speculative_tokens": 3}'


def test_screen_shows_writes_and_tells(slotune, files, tmp_path):
    (tmp_path / "grid.yaml").write_text("max_num_seqs: [1, 8, 64]\nmax_num_batched_tokens: [32, 512]\n")
    words = ("screen", *files, "--configs", tmp_path / "grid.yaml", "--jobs", 1, "--out", tmp_path / "s.csv")
    ran = slotune(*words, "--sort", "p99_tpot_ms", "--json")
    assert ran.code == 0
    rows = json.loads(ran.out)["configurations"]
    with (tmp_path / "s.csv").open() as file:
        assert [row["config"] for row in csv.DictReader(file)] == [str(row["config"]) for row in rows]
    latencies = [row["metrics"]["p99_tpot_ms"] for row in rows if row["metrics"]]
    assert latencies == sorted(latencies) and len(latencies) == 5
    assert rows[-1]["engine"] == {"max_num_seqs": 64, "max_num_batched_tokens": 32}
    assert rows[-1]["failure"] == "refused"
    shown = slotune(*words)
    assert shown.code == 0 and "must be at least max_num_seqs=64" in shown.out


def test_screen_exits_with_3_where_nothing_meets_the_targets(slotune, files, tmp_path):
    (tmp_path / "grid.yaml").write_text("max_num_seqs: [1, 8]\n")
    words = ("screen", *files, "--configs", tmp_path / "grid.yaml", "--jobs", 1, "--json")
    ran = slotune(*words, "--slo", "p99:tpot:1")
    assert ran.code == 3
    assert [row["meets"] for row in json.loads(ran.out)["configurations"]] == [False, False]
    assert ran.err.splitlines()[-1] == "Error: none of 2 configurations meets the targets"
    assert slotune(*words, "--slo", "p99:tpot:1000").code == 0


def test_metrics_to_sort_by_have_the_names_of_goals_and_targets(slotune, files, tmp_path):
    (tmp_path / "grid.yaml").write_text("max_num_seqs: [4, 8]\n")
    words = ("screen", *files, "--configs", tmp_path / "grid.yaml", "--slo", "p99.9:ttft:60000", "--json", "--jobs", 1)
    for name in ("throughput", "p99.9_ttft_ms"):
        assert slotune(*words, "--sort", name).code == 0
    assert "p97.5_tpot_ms" in slotune(*words[:-3], "--jobs", 1, "--sort", "p97.5_tpot_ms").out, "no target's"
    refused = slotune(*words, "--sort", "goodput")
    assert refused.code == 2 and "--goodput" in refused.err


def test_a_trace_too_short_for_its_percentiles_is_told_to_be(slotune, files, tmp_path):
    (tmp_path / "grid.yaml").write_text("max_num_seqs: [4]\n")
    screen = ("screen", *files, "--configs", tmp_path / "grid.yaml", "--jobs", 1)
    for words in (screen, ("simulate", *files)):
        assert "the trace has only" not in slotune(*words).err
        assert "fewer than the 1,000 that the percentiles" in slotune(*words, "--slo", "p99:ttft:60000").err
    assert "fewer than the 10,000 that" in slotune(*screen, "--sort", "p99.9_ttft_ms").err


@pytest.mark.parametrize("metric", ["mean_ttft_ms", "median_ttft_ms", "p95_ttft_ms", "p31_ttft_ms", "p31_itl_ms"])
def test_a_configuration_that_turns_requests_away_is_not_the_fastest(slotune, files, tmp_path, metric):
    (tmp_path / "list.yaml").write_text("- max_num_seqs: 2\n- {max_num_seqs: 2, max_num_queued_reqs: 3}\n")
    words = ("screen", *files, "--configs", tmp_path / "list.yaml", "--rate", 1000, *P31)
    ran = slotune(*words, "--sort", metric, "--json")
    best, last = json.loads(ran.out)["configurations"]
    assert last["metrics"]["failed"] > 0 == best["metrics"]["failed"]


@pytest.mark.parametrize(
    ("refused", "more"),
    [
        ("{max_num_batched_tokens: 8, max_num_seqs: 16}", ()),
        ("{max_num_batched_tokens: 8, max_num_seqs: 16}", ("--engine", "max_num_batched_tokens=256")),
        ("{max_cudagraph_capture_size: 0}", ()),
        ("{num_gpu_blocks_override: 300, max_num_seqs: 100000}", ()),
    ],
)
def test_a_configuration_that_is_refused_is_a_row_also_where_the_memory_is_modelled(slotune, tmp_path, refused, more):
    (tmp_path / "list.yaml").write_text(f"- {refused}\n- max_num_seqs: 64\n")
    words = ("--profile", "h200-llama-3.1-8b", "--trace", "chat", "--configs", tmp_path / "list.yaml", "--jobs", 1)
    ran = slotune("screen", *words, *more, "--json")
    assert ran.code == 0
    best, refused = json.loads(ran.out)["configurations"]
    assert best["metrics"]["completed"] == 1000 and refused["failure"] == "refused"


def test_a_row_is_doubted_together_with_the_settings_of_all(slotune, tmp_path):
    """So many blocks fit the memory in fp8, and not in the model's own format."""
    (tmp_path / "list.yaml").write_text("- num_gpu_blocks_override: 60000\n")
    words = ("--profile", "h200-llama-3.1-8b", "--trace", "chat", "--configs", tmp_path / "list.yaml", "--jobs", 1)
    doubt = "Warning: num_gpu_blocks_override=60000: takes"
    assert doubt in slotune("screen", *words).err
    assert doubt not in slotune("screen", *words, "--engine", "kv_cache_dtype=fp8").err


def test_drafts_are_accepted_where_a_configuration_has_any(slotune, files, tmp_path):
    (tmp_path / "grid.yaml").write_text(f"speculative_config: [null, {NGRAM}]\n")
    words = ("screen", *files, "--configs", tmp_path / "grid.yaml", "--acceptance-rate", 0.6, "--jobs", 1, "--json")
    ran = slotune(*words)
    assert ran.code == 0
    drafting, plain = json.loads(ran.out)["configurations"]
    assert plain["engine"] == {"speculative_config": None}
    assert drafting["engine"]["speculative_config"]["synthetic_acceptance_rates"] == pytest.approx([0.6, 0.36, 0.216])
    assert drafting["metrics"]["mean_tpot_ms"] < plain["metrics"]["mean_tpot_ms"]
    (tmp_path / "grid.yaml").write_text("speculative_config: [null]\n")
    ran = slotune(*words, "--engine", f"speculative_config={NGRAM}")
    assert ran.code == 2 and ran.err.startswith("Error: --acceptance-rate 0.6: needs --engine speculative_config")


def test_drafts_of_no_number_are_a_row_with_the_reason(slotune, files, tmp_path):
    (tmp_path / "list.yaml").write_text(f"- speculative_config: {NGRAM}\n- speculative_config: {{method: ngram}}\n")
    words = ("screen", *files, "--configs", tmp_path / "list.yaml", "--acceptance-rate", 0.6, "--jobs", 1)
    ran = slotune(*words)
    assert ran.code == 0
    assert "num_speculative_tokens=None: must" in ran.out


def test_where_nothing_failed_no_column_tells_failures(slotune, files, tmp_path):
    (tmp_path / "list.yaml").write_text("- max_num_seqs: 64\n- {}\n")
    words = ("screen", *files, "--configs", tmp_path / "list.yaml", "--jobs", 1)
    shown = slotune(*words).out
    assert "failure" not in shown and {line.split()[0] for line in shown.splitlines()[1:3]} == {"64", "default"}
    (tmp_path / "list.yaml").write_text("- max_num_seqs: 64\n- max_num_seqs: 0\n")
    assert "failure" in slotune(*words).out


def test_screen_refuses_a_bad_file(slotune, files, tmp_path):
    (tmp_path / "grid.yaml").write_text("max_num_seq: [1]\n")
    ran = slotune("screen", *files, "--configs", tmp_path / "grid.yaml")
    assert ran.code == 2
    assert "did you mean max_num_seqs" in ran.err


def test_rows_outside_what_was_measured_say_so(slotune, tmp_path):
    """Beside others that are not: one line for all would leave open which of them to believe."""
    (tmp_path / "list.yaml").write_text("[max_num_batched_tokens: 8192, max_num_batched_tokens: 65536]")
    asked = ("--requests", 60, "--rate", 100, "--prompt-tokens", 1000, "--output-tokens", 3)
    assert slotune("trace", "make", *asked, "--out", tmp_path / "t.jsonl").code == 0
    words = ("screen", "--profile", "h200-llama-3.1-8b", "--trace", tmp_path / "t.jsonl", "--jobs", 1)
    shown = slotune(*words, "--configs", tmp_path / "list.yaml").out.splitlines()
    assert shown[0].endswith("extrapolated")
    rows = {line.split()[0]: line for line in shown[1:3]}
    assert rows["65536"].endswith("%") and not rows["8192"].endswith("%")


def test_how_many_requests_are_good_is_shown_and_sorted_by(slotune, files, tmp_path):
    """A rate of good requests alone does not tell how many are not."""
    grid = tmp_path / "grid.yaml"
    grid.write_text("max_num_seqs: [1, 64]\n")
    shown = slotune("screen", *files, "--configs", grid, "--jobs", 1, "--goodput", "ttft:50").out.splitlines()
    assert "request_goodput, requests/s" in shown[0] and shown[0].endswith("requests good")
    shares = [float(line.split()[-1].rstrip("%")) for line in shown[1:3]]
    assert [line.split()[0] for line in shown[1:3]] == ["64", "1"] and shares[0] > shares[1]
    assert "requests good" not in slotune("screen", *files, "--configs", grid, "--jobs", 1).out


def test_what_many_configurations_are_warned_of_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    bundled = load_profile("h200-llama-3.1-8b")
    note_ignored(bundled, "vllm-v1", read_trace("chat"), *({"max_num_seqs": count} for count in (8, 16, 32, 512)))
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Warning")]
    assert "max_num_seqs=8: moves the largest CUDA graph" in told and told.endswith("(likewise in 2 more)")
