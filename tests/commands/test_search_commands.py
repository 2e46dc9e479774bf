"""tune, screen and plan as they are called: one JSON document or tables, the right exit code, one line for an error."""

import csv
import json

import pytest

from slotune.commands import simulate

LINEAR = ("--base-ms", 5, "--prefill-token-ms", 0.02, "--decode-seq-ms", 0.05, "--context-token-ms", 0.00002)


@pytest.fixture
def files(slotune, tmp_path):
    assert slotune("profile", "linear", *LINEAR, "--out", tmp_path / "p").code == 0
    lines = [{"timestamp": i * 50, "input_length": 100 + i * 37 % 500, "output_length": 5 + i % 30} for i in range(60)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ("--profile", tmp_path / "p", "--trace", tmp_path / "t.jsonl")


def test_tune_prints_one_document(slotune, files, tmp_path):
    out = tmp_path / "study"
    ran = slotune("tune", *files, "--slo", "p99:tpot:12", "--trials", 8, "--jobs", 1, "--out", out, "--json")
    assert ran.code == 0
    told = json.loads(ran.out)
    assert told["trials"] == 8
    assert {"engine", "predicted", "measured"} <= set(told["best"])
    assert sorted(told["files"]) == [str(out / name) for name in ("best.yaml", "study.json", "trials.sqlite")]


def test_tune_prints_the_recommendation_beside_the_default(slotune, files, tmp_path):
    ran = slotune("tune", *files, "--slo", "p99:tpot:12", "--trials", 4, "--jobs", 1, "--out", tmp_path / "study")
    assert ran.code == 0
    heads = ran.out.splitlines()[1].split()
    assert heads == ["default", "recommended"]
    for part in (
        "TTFT mean, ms",
        "TPOT p99, ms",
        "output tokens/s",
        "p99:tpot:12",
        "best.yaml",
        "not from a measurement",
    ):
        assert part in ran.out
    assert "4/4" in ran.err


def test_tune_exits_with_3_where_nothing_meets_the_targets(slotune, files, tmp_path):
    ran = slotune(
        "tune", *files, "--slo", "p99:tpot:1", "--trials", 4, "--jobs", 1, "--out", tmp_path / "study", "--json"
    )
    assert ran.code == 3
    assert json.loads(ran.out)["best"]["targets"] == {"p99:tpot:1": False}
    assert ran.err.splitlines()[-1].startswith("Error: none of 4 configurations meets the targets")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--slo", "p99:ttfx:1"), "unknown metric 'ttfx'"),
        (("--slo", "p99:ttft:500", "--engine", "max_num_seq=1"), "did you mean max_num_seqs"),
        (("--minimize", "p99_tttf_ms"), "did you mean p99_ttft_ms"),
        ((), "no target: give one"),
        (("--slo", "p99:ttft:500", "--trials", "0"), "--trials"),
    ],
)
def test_tune_refuses_what_makes_no_sense(slotune, files, tmp_path, words, message):
    ran = slotune("tune", *files, *words, "--out", tmp_path / "study")
    assert ran.code == 2
    assert message in ran.err.splitlines()[-1]
    assert not (tmp_path / "study").exists()


def test_tune_leaves_other_folders_alone(slotune, files, tmp_path):
    ran = slotune("tune", *files, "--slo", "p99:ttft:500", "--out", tmp_path)
    assert ran.code == 2
    assert "holds something that is not a study" in ran.err


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


def test_simulate_tells_the_value_that_a_target_is_for(slotune, files):
    told = json.loads(slotune("simulate", *files, "--slo", "p99.9:ttft:1", "--json").out)
    assert told["targets"] == {"p99.9:ttft:1": False}
    text = slotune("simulate", *files, "--slo", "p99.9:ttft:1").out
    value = told["metrics"]["p99.9_ttft_ms"]
    assert f"missed, {value:.4g} ms" in text


def test_simulate_tells_what_faster_and_slower_steps_would_give(slotune, files):
    words = ("simulate", "--profile", "h200-llama-3.1-8b", *files[2:], "--slo", "p99:ttft:100")
    told = json.loads(slotune(*words, "--json").out)
    sides = told["sensitivity"]
    assert sides["step_time_error"] == told["trust"]["expected_error"]["mean_tpot"] > 0
    faster, slower = (sides[side]["metrics"]["mean_tpot_ms"] for side in ("faster", "slower"))
    assert faster < told["metrics"]["mean_tpot_ms"] < slower
    assert sides["slower"]["targets"].keys() == told["targets"].keys()
    assert f"{faster:.4g} / {slower:.4g}" in slotune(*words).out


def test_simulate_runs_once_where_no_error_is_known_or_the_trace_is_long(slotune, files, monkeypatch):
    assert json.loads(slotune("simulate", *files, "--json").out)["sensitivity"] is None
    monkeypatch.setattr(simulate, "MOST_SIMULATED_AGAIN", 59)
    ran = slotune("simulate", "--profile", "h200-llama-3.1-8b", *files[2:], "--json")
    assert json.loads(ran.out)["sensitivity"] is None
    assert "over 59 requests times replicas: not simulated with faster and slower steps" in ran.err


def test_simulate_says_why_requests_were_not_answered(slotune, files):
    ran = slotune("simulate", *files, "--engine", "max_model_len=300", "--json")
    failed = json.loads(ran.out)["metrics"]["failed"]
    assert failed > 0
    told = (
        f"Warning: not answered, and a miss of every target: {failed} have prompts of max_model_len=300 tokens or more"
    )
    assert told in ran.err.splitlines()
    assert "Warning" not in slotune("simulate", *files).err


def test_simulate_says_where_answers_end_early(slotune, files):
    ran = slotune("simulate", *files, "--engine", "max_model_len=610")
    assert "answers end at max_model_len=610, before the trace's do" in ran.err
    assert "answers end" not in slotune("simulate", *files).err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("num_gpu_blocks_override=2", "num_gpu_blocks_override=2: no request of the trace could be served"),
        ("max_num_batched_tokens=2", "max_num_batched_tokens=2: must be at least max_num_seqs=4"),
    ],
)
def test_a_change_that_makes_no_sense_leaves_the_plan_alone(slotune, files, change, reason):
    words = ("plan", *files, "--slo", "p99:ttft:100", "--engine", "max_num_seqs=4", "--jobs", 1)
    ran = slotune(*words, "--what-if", change, "--json")
    told = json.loads(ran.out)
    assert ran.code == 0 and told["max_request_rate"] > 0
    assert told["what_if"][0]["reason"].startswith(reason)


@pytest.mark.parametrize(
    ("chunked", "reason"),
    [("true", "were turned away by max_num_queued_reqs"), ("false", "have prompts over the 64 tokens of a step")],
)
def test_a_long_prompt_that_is_turned_away_is_not_said_to_be_too_long_to_chunk(slotune, files, chunked, reason):
    limits = (
        "max_num_queued_reqs=1",
        "max_num_batched_tokens=64",
        "max_num_seqs=4",
        f"enable_chunked_prefill={chunked}",
    )
    settings = [word for limit in limits for word in ("--engine", limit)]
    ran = slotune("simulate", *files, *settings)
    assert ran.code == 0
    (warning,) = [line for line in ran.err.splitlines() if line.startswith("Warning: not answered")]
    assert reason in warning and ("have prompts" in warning) == (chunked == "false")


def test_a_prompt_over_the_scheduled_tokens_is_not_said_to_meet_a_queue_limit(slotune, files):
    """vllm-v0 takes whole prompts: max_num_scheduled_tokens bounds them too."""
    ran = slotune("simulate", *files, "--policy", "vllm-v0", "--engine", "max_num_scheduled_tokens=64")
    (warning,) = [line for line in ran.err.splitlines() if line.startswith("Warning: not answered")]
    assert "have prompts over the 64 tokens of a step" in warning and "turned away" not in warning


def test_metrics_to_sort_by_have_the_names_of_goals_and_targets(slotune, files, tmp_path):
    (tmp_path / "grid.yaml").write_text("max_num_seqs: [4, 8]\n")
    words = ("screen", *files, "--configs", tmp_path / "grid.yaml", "--slo", "p99.9:ttft:60000", "--json", "--jobs", 1)
    for name in ("throughput", "p99.9_ttft_ms"):
        assert slotune(*words, "--sort", name).code == 0
    refused = slotune(*words, "--sort", "goodput")
    assert refused.code == 2 and "--goodput" in refused.err


P31 = ("--slo", "p31:ttft:1e9", "--slo", "p31:itl:1e9")
"""A percentile that is reported for these targets alone."""


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


NGRAM = '{"method": "ngram", "num_speculative_tokens": 3}'


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


def test_what_is_assumed_of_drafts_is_told_in_few_words(slotune, files, tmp_path):
    words = ("--slo", "p99:ttft:1000", "--trials", 1, "--jobs", 1, "--out", tmp_path / "study")
    assert (
        slotune("tune", *files, *words, "--engine", f"speculative_config={NGRAM}", "--acceptance-rate", 0.7).code == 0
    )
    told = (tmp_path / "study" / "best.yaml").read_text()
    assert "# drafts assumed to be accepted, by position: 0.7, 0.49, 0.343\n" in told


def test_a_model_other_than_the_profile_s_is_told(slotune):
    ran = slotune("simulate", "--profile", "h200-llama-3.1-8b", "--trace", "chat", "--engine", "model=other/model")
    assert "model=other/model: profile h200-llama-3.1-8b was made with meta-llama/Meta-Llama-3.1-8B" in ran.err


def test_a_change_s_unknown_setting_is_named_as_a_change(slotune, files):
    ran = slotune("plan", *files, "--slo", "p99:ttft:100", "--what-if", "max_num_sequences=3")
    assert ran.code == 2 and "--what-if max_num_sequences=3" in ran.err


def test_a_setting_beyond_all_bounds_is_refused(slotune, files):
    ran = slotune("simulate", *files, "--engine", "max_num_batched_tokens=99999999999999999999")
    assert ran.code == 2
    assert "max_num_batched_tokens=99999999999999999999 is out of range" in ran.err


def test_plan_tells_of_a_fleet_beyond_all_bounds_beside_what_one_engine_takes(slotune, files):
    ran = slotune("plan", *files, "--slo", "p99:ttft:100", "--rate", 1e15, "--jobs", 1)
    assert ran.code == 3
    assert "at most 2,000 are simulated" in ran.err
    assert "base" in ran.out


def test_screen_refuses_a_bad_file(slotune, files, tmp_path):
    (tmp_path / "grid.yaml").write_text("max_num_seq: [1]\n")
    ran = slotune("screen", *files, "--configs", tmp_path / "grid.yaml")
    assert ran.code == 2
    assert "did you mean max_num_seqs" in ran.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("simulate", "--requests-out", "t.jsonl"), "--requests-out t.jsonl: is a file that is read; name another"),
        (("simulate", "--steps-out", "t.jsonl"), "--steps-out t.jsonl: is a file that is read"),
        (("simulate", "--steps-out", "p/profile.json"), "--steps-out p/profile.json: is a file that is read"),
        (("simulate", "--requests-out", "e.yaml", "--engine-config", "e.yaml"), "e.yaml: is a file that is read"),
        (("simulate", "--requests-out", "o", "--steps-out", "o"), "--steps-out o: is what --requests-out writes"),
        (("screen", "--configs", "e.yaml", "--out", "t.jsonl"), "--out t.jsonl: is a file that is read"),
        (("screen", "--configs", "e.yaml", "--out", "link"), "--out link: is a file that is read"),
        (("screen", "--configs", "e.yaml", "--out", "p/profile.json"), "p/profile.json: is a file that is read"),
        (("trace", "make", "--rate", 1, "--like", "t.jsonl", "--out", "t.jsonl"), "t.jsonl: is a file that is read"),
    ],
)
def test_no_file_that_is_read_is_written_over(slotune, files, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.yaml").write_text("max_num_seqs: 8\n")
    (tmp_path / "link").symlink_to("e.yaml")
    before = (tmp_path / "t.jsonl").read_text()
    ran = slotune(*words, *(files if words[0] != "trace" else ()))
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err and ran.err.count("\n") == 1
    assert (tmp_path / "t.jsonl").read_text() == before
    assert (tmp_path / "e.yaml").read_text() == "max_num_seqs: 8\n"


@pytest.mark.parametrize("folder", ["none", "t.jsonl"])
def test_an_output_that_cannot_be_written_is_told_before_the_work(slotune, files, tmp_path, folder):
    (tmp_path / "grid.yaml").write_text("max_num_seqs: [8]\n")
    lost = tmp_path / folder / "o"
    for words in (("simulate", "--steps-out", lost), ("screen", "--configs", tmp_path / "grid.yaml", "--out", lost)):
        ran = slotune(*words, *files)
        assert (ran.code, ran.out) == (2, "")
        assert f"{lost.parent} is no folder that can be written to" in ran.err and ran.err.count("\n") == 1


def test_a_goodput_without_a_metric_is_no_goodput(slotune, files):
    ran = slotune("simulate", *files, "--goodput", " ")
    assert ran.code == 2 and "' ' names no metric; write ttft:500" in ran.err


def test_no_output_hides_what_is_bundled_under_its_name(slotune, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = slotune("simulate", *files[:2], "--trace", "chat", "--requests-out", "chat")
    assert ran.code == 2 and "chat: would hide what is bundled under that name; name another" in ran.err


def test_an_output_in_a_loop_of_links_is_one_line(slotune, files, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    ran = slotune("simulate", *files, "--requests-out", tmp_path / "loop")
    assert ran.code == 1 and "loop: cannot be written: Too many levels of symbolic links" in ran.err


def test_outputs_may_both_go_nowhere(slotune, files):
    assert slotune("simulate", *files, "--requests-out", "/dev/null", "--steps-out", "/dev/null").code == 0


def test_plan_tells_rate_replicas_and_cost(slotune, files):
    ran = slotune(
        "plan", *files, "--slo", "p99:ttft:100", "--engine", "max_num_seqs=4", "--rate", 30, "--gpu-hour-cost", 2,
        "--jobs", 1, "--json",
    )  # fmt: skip
    assert ran.code == 0
    told = json.loads(ran.out)
    assert told["interval"][0] <= told["max_request_rate"] <= told["interval"][1]
    assert told["replicas"] >= 30 / told["interval"][1]
    assert told["cost_per_hour"] == 2 * told["gpus"] == 2 * told["replicas"] <= 2 * told["replicas_at_random"]


def test_plan_shows_no_column_without_an_answer(slotune, files):
    ran = slotune("plan", *files, "--slo", "p99:ttft:100", "--jobs", 1)
    assert ran.code == 0
    assert ran.out.splitlines()[1].split() == ["requests/s", "lowest", "highest", "binding", "gpus"]


def test_plan_without_hope_exits_with_3(slotune, files):
    ran = slotune("plan", *files, "--slo", "p99:tpot:1", "--jobs", 1, "--json")
    assert ran.code == 3
    assert json.loads(ran.out)["interval"] == [0.0, 0.0]
    assert ran.err.splitlines()[-1].startswith("Error: base: no rate meets the targets")


def test_plan_needs_targets(slotune, files):
    ran = slotune("plan", *files)
    assert ran.code == 2
    assert "no target: give one such as --slo" in ran.err
