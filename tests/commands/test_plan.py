"""plan as it is called: one JSON document or a table, the right exit code, one line for an error."""

import json
import shutil

import pytest


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


def test_a_refused_change_is_a_row_without_numbers_and_its_reason(slotune, files):
    ran = slotune("plan", *files, "--slo", "p99:ttft:100", "--jobs", 1, "--what-if", "tensor_parallel_size=2")
    assert ran.code == 0, ran.err
    assert "tensor_parallel_size=2" in ran.out.splitlines(), "a row with nothing beside its name"
    assert any(line.startswith("tensor_parallel_size=2: ") for line in ran.out.splitlines())


def test_a_change_s_unknown_setting_is_named_as_a_change(slotune, files):
    ran = slotune("plan", *files, "--slo", "p99:ttft:100", "--what-if", "max_num_sequences=3")
    assert ran.code == 2 and "--what-if max_num_sequences=3" in ran.err


def test_plan_tells_of_a_fleet_beyond_all_bounds_beside_what_one_engine_takes(slotune, files):
    ran = slotune("plan", *files, "--slo", "p99:ttft:100", "--rate", 1e15, "--jobs", 1)
    assert ran.code == 3
    assert "at most 2,000 are simulated" in ran.err
    assert "base" in ran.out


def test_plan_tells_rate_replicas_and_cost(slotune, files):
    ran = slotune(
        "plan", *files, "--slo", "p99:ttft:100", "--engine", "max_num_seqs=4", "--rate", 30, "--gpu-hour-cost", 2,
        "--jobs", 1, "--json",
    )  # fmt: skip
    assert ran.code == 0
    told = json.loads(ran.out)
    assert told["interval"][0] <= told["max_request_rate"] <= told["interval"][1]
    assert told["replicas"] >= 30 / told["interval"][1]
    assert told["replicas_interval"][0] <= told["replicas"] <= told["replicas_interval"][1]
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


def test_plan_promises_an_interval_where_there_is_one(slotune, files, tmp_path):
    enough = tmp_path / "enough.jsonl"
    lengths = ("--prompt-tokens", "100-300", "--output-tokens", "2-9")
    assert slotune("trace", "make", "--requests", 120, "--rate", 5, *lengths, "--out", enough).code == 0
    promised = "lowest to highest: for traffic like this trace, with 90% confidence"
    assert promised not in slotune("plan", *files, "--slo", "p99:tpot:1", "--jobs", 1).out, "no rate meets that"
    assert promised not in slotune("plan", *files, "--slo", "p90:ttft:100", "--jobs", 1).out, "60 requests are few"
    asked = ("plan", *files[:2], "--trace", enough, "--slo", "p50:ttft:100", "--jobs", 1)
    assert promised in slotune(*asked).out
    assert "lowest to highest, and replicas in brackets: for traffic" in slotune(*asked, "--rate", 30).out


def test_plan_needs_targets(slotune, files):
    ran = slotune("plan", *files)
    assert ran.code == 2
    assert "no target: give one such as --slo" in ran.err


@pytest.mark.parametrize(
    ("own", "told"), [({}, "vLLM's defaults"), ({"max_num_seqs": 4}, "the settings of the profile")]
)
def test_plan_tells_whose_settings_it_took(slotune, files, tmp_path, own, told):
    profile = shutil.copytree(files[files.index("--profile") + 1], tmp_path / "own")
    document = json.loads((profile / "profile.json").read_text())
    (profile / "profile.json").write_text(json.dumps(document | {"defaults": own}))
    trace = files[files.index("--trace") + 1]
    ran = slotune("plan", "--profile", profile, "--trace", trace, "--slo", "p99:ttft:100", "--jobs", 1)
    assert ran.code == 0 and f"Note: planned with {told}; find better settings" in ran.err


def test_one_progress_counts_the_plans_for_other_step_times_from_the_start(slotune, files):
    short = ("--slo", "p99:ttft:2000", "--engine", "max_num_seqs=2", "--jobs", 1)
    told = slotune("plan", "--profile", "h200-llama-3.1-8b", *files[2:], *short).err.splitlines()
    lines = [line for line in told if line.startswith("plan: ")]
    assert lines[0] == "plan: 0/39 (0 %), base" and lines[-1].startswith("plan: 39/39 (100 %)")
    lines = [line for line in slotune("plan", *files, *short).err.splitlines() if line.startswith("plan: ")]
    assert lines[0] == "plan: 0/13 (0 %), base" and lines[-1].startswith("plan: 13/13 (100 %)")
