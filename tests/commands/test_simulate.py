"""simulate as it is called: what it tells of targets, of other step times, and of requests without an answer."""

import json

import pytest

from slotune.commands import simulate
from slotune.simulator.slo import milliseconds


def test_simulate_tells_the_value_that_a_target_is_for(slotune, files):
    told = json.loads(slotune("simulate", *files, "--slo", "p99.9:ttft:1", "--json").out)
    assert told["targets"] == {"p99.9:ttft:1": False}
    text = slotune("simulate", *files, "--slo", "p99.9:ttft:1").out
    value = told["metrics"]["p99.9_ttft_ms"]
    assert f"missed ({milliseconds(value)})" in text


def test_goodput_beside_targets_is_one(slotune, files):
    words = ("simulate", *files, "--slo", "p99:ttft:100000", "--goodput", "ttft:0.1")
    assert json.loads(slotune(*words, "--json").out)["targets"] == {"p99:ttft:100000": True, "goodput": False}
    assert "99% of requests good" in slotune(*words).out and "missed (0.0%)" in slotune(*words).out
    alone = json.loads(slotune("simulate", *files, "--goodput", "ttft:0.1", "--json").out)
    assert alone["metrics"]["request_goodput"] == 0 and "targets" not in alone


def test_the_share_of_good_requests_is_told_without_targets_too(slotune, files):
    text = slotune("simulate", *files, "--goodput", "ttft:0.1").out
    assert text.splitlines()[-3].split() == ["requests", "good", "0.0%"]
    assert "requests good" not in slotune("simulate", *files).out


def test_simulate_tells_what_faster_and_slower_steps_would_give(slotune, files):
    words = ("simulate", "--profile", "h200-llama-3.1-8b", *files[2:], "--slo", "p99:ttft:100")
    told = json.loads(slotune(*words, "--json").out)
    sides = told["sensitivity"]
    assert sides["step_time_error"] == told["trust"]["expected_error"]["mean_tpot"] > 0
    faster, slower = (sides[side]["metrics"]["mean_tpot_ms"] for side in ("faster", "slower"))
    assert faster < told["metrics"]["mean_tpot_ms"] < slower
    assert sides["slower"]["targets"].keys() == told["targets"].keys()
    assert f"{faster:.4g} / {slower:.4g}" in slotune(*words).out


def test_answers_of_one_token_have_no_other_step_times_between_tokens(slotune, files, tmp_path):
    trace = tmp_path / "one.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 50, "output_length": 1}\n')
    shown = slotune("simulate", "--profile", "h200-llama-3.1-8b", "--trace", trace).out.splitlines()
    assert [line.split()[0] for line in shown[1:7]] == ["TTFT", "steps", "TPOT", "ITL", "E2EL", "steps"]


def test_simulate_runs_once_where_no_error_is_known_or_the_trace_is_long(slotune, files, monkeypatch):
    assert json.loads(slotune("simulate", *files, "--json").out)["sensitivity"] is None
    monkeypatch.setattr(simulate, "MOST_SIMULATED_AGAIN", 59)
    ran = slotune("simulate", "--profile", "h200-llama-3.1-8b", *files[2:], "--json")
    assert json.loads(ran.out)["sensitivity"] is None
    note = "over 59 requests times replicas: not simulated with faster and slower steps"
    assert note in ran.err and note not in slotune("simulate", *files).err, "those would not be simulated anyway"


def test_simulate_says_why_requests_were_not_answered(slotune, files):
    ran = slotune("simulate", *files, "--engine", "max_model_len=300", "--json")
    failed = json.loads(ran.out)["metrics"]["failed"]
    assert failed > 0
    why = f"{failed} have prompts of max_model_len=300 tokens or more"
    told = f"Warning: not answered, which counts as missing every target: {why}"
    assert told in ran.err.splitlines()
    assert "Warning" not in slotune("simulate", *files).err


def test_latencies_of_those_answered_are_headed_so(slotune, files):
    """Beside them stand targets, which are held against all requests: two numbers of one percentile."""
    some, every = (slotune("simulate", *files, *more).out for more in (("--engine", "max_model_len=300"), ()))
    assert some.startswith("ms, of those answered ") and every.startswith("ms  ")


def test_simulate_says_that_more_is_asked_for_than_there_can_be(slotune, files, tmp_path):
    trace = tmp_path / "long.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 50, "output_length": 300}\n')
    ran = slotune("simulate", *files[:2], "--trace", trace, "--engine", "max_model_len=128")
    assert "not answered, which counts as missing every target: 1 ask for more than max_model_len=128 tokens" in ran.err


def test_simulate_says_where_answers_end_early(slotune, files):
    ran = slotune("simulate", *files, "--engine", "max_model_len=610")
    assert "answers are cut at max_model_len=610, shorter than in the trace" in ran.err
    assert "answers are cut" not in slotune("simulate", *files).err


@pytest.mark.parametrize(
    ("chunked", "reason"),
    [("true", "were turned away by max_num_queued_reqs"), ("false", "have more tokens to compute than the 64 of")],
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
    assert reason in warning and ("have more tokens" in warning) == (chunked == "false")


def test_a_prompt_over_the_scheduled_tokens_is_not_said_to_meet_a_queue_limit(slotune, files):
    """vllm-v0 takes whole prompts: max_num_scheduled_tokens bounds them too."""
    ran = slotune("simulate", *files, "--policy", "vllm-v0", "--engine", "max_num_scheduled_tokens=64")
    (warning,) = [line for line in ran.err.splitlines() if line.startswith("Warning: not answered")]
    assert "have more tokens to compute than the 64 of a step" in warning and "turned away" not in warning


def test_a_model_other_than_the_profile_s_is_told(slotune):
    ran = slotune("simulate", "--profile", "h200-llama-3.1-8b", "--trace", "chat", "--engine", "model=other/model")
    assert "model=other/model: profile h200-llama-3.1-8b was made with meta-llama/Meta-Llama-3.1-8B" in ran.err


def test_a_setting_beyond_all_bounds_is_refused(slotune, files):
    ran = slotune("simulate", *files, "--engine", "max_num_batched_tokens=99999999999999999999")
    assert ran.code == 2
    assert "max_num_batched_tokens=99999999999999999999 is out of range" in ran.err


def test_a_goodput_without_a_metric_is_no_goodput(slotune, files):
    ran = slotune("simulate", *files, "--goodput", " ")
    assert ran.code == 2 and "' ' names no metric; write ttft:500" in ran.err


def test_a_version_whose_rules_are_not_known_is_warned_of(slotune, files, tmp_path):
    made = ("--base-ms", 5, "--prefill-token-ms", 0.02, "--decode-seq-ms", 0.05, "--context-token-ms", 0.00002)
    for version, warned in (("0.99", True), ("0.31", False)):
        profile = tmp_path / version
        assert slotune("profile", "linear", *made, "--vllm-version", version, "--out", profile).code == 0
        ran = slotune("simulate", "--profile", profile, *files[2:])
        assert (f"Warning: vLLM {version} is newer than what slotune knows" in ran.err) == warned


def test_a_run_that_does_not_come_to_its_end_leaves_the_steps_of_the_last_one(slotune, files, tmp_path):
    steps = tmp_path / "steps.jsonl"
    assert slotune("simulate", *files, "--steps-out", steps).code == 0
    before = steps.read_bytes()
    ran = slotune("simulate", *files, "--steps-out", steps, "--replicas", 2, "--outage", "5:0")
    assert ran.code == 2 and steps.read_bytes() == before and list(tmp_path.glob(".slotune-*")) == []


def test_an_outage_that_comes_after_the_run_is_told_to_change_nothing(slotune, files):
    words = ("simulate", *files, "--replicas", 2, "--json")
    without, late = slotune(*words), slotune(*words, "--outage", "0:1s:2s", "--outage", "1:5000s")
    duration_s = json.loads(late.out)["metrics"]["duration"]
    told = "Note: the outage of replica 1 from 5,000 s on begins after the run"
    why = "changes nothing; times count from the start of the trace"
    assert [line for line in late.err.splitlines() if "outage" in line] == [f"{told} ({duration_s:.4g} s) and {why}"]
    assert "outage" not in without.err


def test_a_latency_of_good_requests_is_named_once(slotune, files):
    ran = slotune("simulate", *files, "--goodput", "ttft:500", "--goodput", "ttft:1")
    assert ran.code == 2 and "ttft is named twice" in ran.err


def test_a_trace_that_begins_late_is_told_to_count_the_time_before(slotune, files, tmp_path):
    trace = tmp_path / "late.jsonl"
    rows = (json.dumps({"timestamp": 50_000 + 50 * k, "input_length": 50, "output_length": 5}) for k in range(100))
    trace.write_text("\n".join(rows))
    told = "Note: nothing arrives in the first 50 s; throughputs count them, as in vLLM"
    assert told in slotune("simulate", *files[:2], "--trace", trace).err
    assert told not in slotune("simulate", *files[:2], "--trace", trace, "--rate", 20).err
