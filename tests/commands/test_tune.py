"""tune as it is called: one JSON document or tables, the right exit code, one line for an error."""

import json

import pytest

NGRAM = '{"method": "ngram", "num_speculative_tokens": 3}'


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


def test_tune_tells_how_many_requests_are_good_where_goodput_is_the_goal(slotune, files, tmp_path):
    words = ("--goodput", "ttft:0.1", "--trials", 1, "--jobs", 1, "--out", tmp_path / "study")
    shown = [line.split() for line in slotune("tune", *files, *words).out.splitlines()]
    assert ["requests", "good", "0.0%", "0.0%"] in shown
    assert ["in", "6", "other", "orders", "0.0%", "to", "0.0%", "0.0%", "to", "0.0%"] in shown
    assert "# requests good: 0.0% in simulation; in 6 other" in (tmp_path / "study" / "best.yaml").read_text()


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


def test_what_is_assumed_of_drafts_is_told_in_few_words(slotune, files, tmp_path):
    words = ("--slo", "p99:ttft:1000", "--trials", 1, "--jobs", 1, "--out", tmp_path / "study")
    assert (
        slotune("tune", *files, *words, "--engine", f"speculative_config={NGRAM}", "--acceptance-rate", 0.7).code == 0
    )
    told = (tmp_path / "study" / "best.yaml").read_text()
    assert "# drafts assumed to be accepted, by position: 0.7, 0.49, 0.343\n" in told


def test_the_model_of_a_config_file_is_the_one_that_is_deployed(slotune, files, tmp_path):
    (tmp_path / "prod.yaml").write_text("model: org/finetune\nserved-model-name: mine\n")
    study, words = tmp_path / "study", ("--slo", "p99:ttft:1000", "--trials", 1, "--jobs", 1)
    ran = slotune("tune", *files, *words, "--engine-config", tmp_path / "prod.yaml", "--out", study)
    assert ran.code == 0
    assert "model: org/finetune\n" in (study / "best.yaml").read_text()
    assert slotune("export", study, "--form", "command").out.startswith("vllm serve org/finetune ")
    assert slotune("tune", *files, *words, "--engine", "model=org/other", "--out", study).code == 2, "another setting"
    words = (*words, "--engine", "served_model_name=mine", "--engine", "model=org/other", "--out", study)
    assert slotune("tune", *files, *words).code == 0, "of what is simulated nothing changed"
    assert "model: org/other\n" in (study / "best.yaml").read_text()


def test_traffic_in_bursts_is_warned_of(slotune, files, tmp_path):
    trace = tmp_path / "bursts.jsonl"
    made = ("--requests", "200", "--prompt-tokens", "100/90/200", "--output-tokens", "9/8/20", "--seed", "1")
    assert slotune("trace", "make", *made, "--rate", "5", "--cv", "4", "--out", trace).code == 0
    words = ("tune", *files[:2], "--slo", "p99:ttft:5000", "--trials", "2", "--out")
    told = "requests come in bursts, and the trace holds few"
    assert told in slotune(*words, tmp_path / "s", "--trace", trace).out
    assert told in (tmp_path / "s" / "best.yaml").read_text()
    assert told not in slotune(*words, tmp_path / "t", *files[2:]).out
    asked = (*words, tmp_path / "s", "--trace", trace, "--json")
    (caution,) = [line for line in json.loads(slotune(*asked).out)["cautions"] if line.startswith(told)]
    assert slotune("report", tmp_path / "s").code == 0
    assert caution[1:] in (tmp_path / "s" / "report.html").read_text()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("--vllm-python", "nothing", "--model", "org/m"), "--vllm-python nothing: neither"),
        (("--model", "."), "no config.json"),
    ],
)
def test_an_engine_that_cannot_be_started_is_told_before_the_search(slotune, files, tmp_path, fake_vllm, wrong, told):
    engine = () if "--vllm-python" in wrong else ("--vllm-python", fake_vllm)
    asked = ("--slo", "p99:ttft:100", "--trials", 4, "--jobs", 1, "--validate", 1, "--out", tmp_path / "study")
    ran = slotune("tune", *files, *asked, *engine, *wrong)
    assert ran.code == 2 and told in ran.err
    assert not (tmp_path / "study").exists()


def test_what_is_not_in_the_numbers_of_the_recommended_settings_is_told(slotune, tmp_path):
    """Fewer seats lower the largest CUDA graph, and no kernel table tells what a step without one waits for."""
    words = ("--profile", "h200-llama-3.1-8b", "--trace", "chat", "--rate", 10, "--slo", "p99:ttft:1000")
    words += ("--slo", "p99:tpot:30", "--trials", 16, "--jobs", 1, "--out", tmp_path / "study")
    ran = slotune("tune", *words)
    seats = next(line.split() for line in ran.out.splitlines() if line.startswith("max_num_seqs"))
    assert int(seats[-1]) < 256
    (told,) = [line for line in ran.out.splitlines() if "moves the largest CUDA graph" in line]
    assert told.startswith(f"max_num_seqs={seats[-1]}: ") and "wait for the host is not in these numbers" in told
