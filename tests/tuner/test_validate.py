"""Measuring a study's best on an engine: what is measured, what is concluded, what is told."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slotune.errors import EngineError, InfeasibleError, InputError
from slotune.simulator.slo import parse_slo
from slotune.tests.tuner.validating import DEFAULT, run
from slotune.tuner.conclusion import concluded
from slotune.tuner.finalists.longer_load import LongerLoad
from slotune.tuner.hardware.engine_run import model_to_serve
from slotune.tuner.hardware.shortlist import promising, shortlist
from slotune.tuner.hardware.validation import Validation, measured_yaml, require_targets, validation_of
from slotune.tuner.hardware.verdict import decide
from slotune.tuner.objective import Objective
from slotune.tuner.pages.recommendation_page import measured_lines
from slotune.tuner.pages.tables import Side, Table, answer_table
from slotune.tuner.pages.validation_page import TITLE, cache_lines, document, forced_lines, notes, rows, trust_of
from slotune.tuner.recommendation import best_yaml_of, called
from slotune.tuner.study import ranking
from slotune.tuner.study.best_yaml import best_yaml
from slotune.tuner.study.comparison import Compared, default_trial
from slotune.tuner.study.export import read_recommendation
from slotune.tuner.study.study import Study, settings_key
from slotune.tuner.study.task import load_task
from slotune.tuner.validate import round_order


@pytest.mark.parametrize("repeats", [2, 3, 5])
@pytest.mark.parametrize("others", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("faster", [0.98, 1.02])
def test_of_equals_on_a_machine_that_steadily_changes_none_is_proven_better(faster: float, others: int, repeats: int):
    members: list[dict[str, Any]] = [{}, *({"max_num_seqs": 1 + one} for one in range(others))]
    order = [(number, settings) for number in range(repeats) for settings in round_order(members, number)]
    served = {"request_throughput": 10.0, "completed": 100.0, "failed": 0.0}
    found = [
        Compared(
            f"#{one}" if one else "default",
            settings,
            None,
            {r: served | {"p99_ttft_ms": 100 * faster**k} for k, (r, ran) in enumerate(order) if ran == settings},
        )
        for one, settings in enumerate(members)
    ]
    verdict = decide(found, Objective(slos=(parse_slo("p99:ttft:500"),)))
    assert verdict is not None
    assert verdict.recommended.name == "default"


def test_what_is_measured_is_the_recommendation_and_the_next_best_that_differ(study: Path, fake_engine: Any):
    with Study.open(study) as opened:
        task = load_task(opened.asked)
        candidates = shortlist(opened, task)
        predicted = {settings_key(t.settings): t.metrics for t in opened.trials("simulation")}
        best = ranking.recommended(opened.trials(), task.objective, task.space, default_trial(opened).metrics or {})
    assert best is not None
    assert candidates[0] == dict(best.settings)
    assert {"block_size": 32} | DEFAULT not in candidates
    assert DEFAULT not in candidates
    shown = [predicted[settings_key(settings)] for settings in candidates]
    keys = ("p99_ttft_ms", "p99_itl_ms", "mean_e2el_ms")
    assert len({tuple(round(metrics[key]) for key in keys) for metrics in shown if metrics}) == len(shown)


def test_the_prediction_error_is_told_and_drift_cancels_in_the_comparison(study: Path, fake_engine: Any):
    validation, _ = run(study, fake_engine)
    ttft = next(q for q in validation.quantities if q.key == "mean_ttft_ms")
    default, best = validation.found[:2]
    # 10 % slower on average over rounds of 1.0, 1.1 and 1.2: measured 1.1 * 1.097 times the prediction.
    assert default.prediction_error(ttft) == pytest.approx(1 / (1.1 * (1.0 * 1.1 * 1.2) ** (1 / 3)) - 1, abs=0.01)
    assert validation.drift(ttft) == pytest.approx(0.18, abs=0.02)
    wide, narrow = best.measured(ttft), best.against(default, ttft)
    assert narrow.high / narrow.low < 1.03 < wide.high / wide.low
    assert validation.verdict is not None
    assert validation.verdict.proven


@pytest.mark.parametrize("runs", [0, 1])
def test_too_few_runs_of_the_default_leave_the_drift_unknown(study: Path, fake_engine: Any, runs: int):
    validation, _ = run(
        study, fake_engine, top=1, repeats=1, fails=lambda settings: None if runs or settings != DEFAULT else "crashed"
    )
    assert len(validation.found[0].runs) == runs
    assert "Machine: two runs of the default would tell how far the machine drifts" in notes(validation)


def test_what_was_measured_before_somebody_stopped_it_is_recommended(study: Path, fake_engine: Any):
    with pytest.raises(KeyboardInterrupt):
        run(study, fake_engine, stop_after=5)
    assert "after 2 runs on the engine" in (study / "best.yaml").read_text()


@pytest.mark.parametrize(("blocks", "told"), [(20000, 0), (19000, 0), (8192, 1), (80000, 1)])
def test_an_engine_with_another_kv_cache_than_was_simulated_is_told(study: Path, blocks: int, told: int):
    with Study.open(study) as opened:
        task = load_task(opened.asked)
    ran = Compared("#1", task.asked.engine, runs={0: {}}, cache_tokens={0: blocks * 16})
    lines = cache_lines([ran], task.profile)
    assert lines == [f"#1: the engine's KV cache held {blocks * 16:,} tokens, 320,000 were simulated"][:told]
    assert cache_lines([replace(ran, settings={})], task.profile) == [], "without a model of the memory"


def test_best_yaml_tells_which_targets_were_met_and_on_what(study: Path, fake_engine: Any):
    validation, _ = run(study, fake_engine, repeats=2)
    assert validation.verdict is not None
    head = [line for line in (study / "best.yaml").read_text().splitlines() if line.startswith("# ")]
    assert head[0].endswith("after 2 runs on the engine")
    assert "# measured: org/model, vLLM 0.32.0" in head
    assert [" met (" in line for line in head if line.endswith(", mean over the runs")] == [True, True]
    served, _ = run(study, fake_engine, repeats=3, model="org/model")
    assert "after 3 runs" in (study / "best.yaml").read_text()
    assert served.ran == {"model": "org/model", "vllm_version": "0.32.0"}


def test_the_served_model_is_the_exported_one(study: Path, fake_engine: Any):
    run(study, fake_engine, repeats=1, model="org/served")
    assert read_recommendation(study)[1] == "org/served"


def test_failures_alone_recommend_nothing_where_nothing_was_recommended(study: Path, fake_engine: Any):
    (study / "best.yaml").unlink(missing_ok=True)
    validation, _ = run(study, fake_engine, top=1, fails=lambda settings: "crashed")
    assert validation.verdict is None and not (study / "best.yaml").exists()


def test_what_failed_on_the_engine_is_recommended_no_more(study: Path, fake_engine: Any):
    with Study.open(study, writable=True) as opened:
        opened.write_best(best_yaml_of(concluded(opened, load_task(opened.asked))))
    for _ in range(2):
        validation, _ = run(study, fake_engine, top=1, fails=lambda settings: "crashed")
    text = (study / "best.yaml").read_text()
    assert text.count("# default failed on the engine in round 1, crashed: it said crashed\n") == 1
    failed = [one.settings for one in validation.found if one.failures]
    assert not any(
        read_recommendation(study)[0].items() >= settings.items() for settings in failed if len(settings) > 1
    )


def test_when_nothing_runs_the_first_reason_is_the_error(study: Path, fake_engine: Any):
    validation, fake = run(study, fake_engine, top=1, fails=lambda settings: "crashed")
    assert validation.verdict is None
    assert len(fake.calls) > 2  # each candidate was given its chance
    with pytest.raises(EngineError, match="crashed: it said crashed"):
        require_targets(validation)


def test_proof_is_said_to_be_of_the_requests_that_were_served(study: Path, fake_engine: Any):
    validation, _ = run(study, fake_engine)
    served = f"every run served the same {len(validation.task.trace):,} requests: intervals and proof are of these"
    assert any(line.startswith(served) for line in notes(validation))
    assert f"# {served}" in (study / "best.yaml").read_text()
    assert "mean over runs of the same requests" in TITLE


def test_an_engine_that_misses_every_target_is_infeasible(study: Path, fake_engine: Any):
    validation, _ = run(study, fake_engine, slower=100)
    with pytest.raises(InfeasibleError, match="No measured configuration meets the targets"):
        require_targets(validation)
    text = (study / "best.yaml").read_text()
    assert text.startswith("# nearest by slotune") and "THE NEAREST OF THOSE THAT ALL MISS A TARGET" in text
    assert validation.verdict is not None
    assert notes(validation)[-1].startswith(f"Nearest: {validation.verdict.recommended.name}. No measured")
    with Study.open(study) as opened:
        found = concluded(opened, validation.task)
    assert called(found) == "nearest"
    assert measured_lines(found)[0].startswith("Nearest from measurements on the engine: No measured")


def test_failures_on_the_engine_make_nothing_recommended_that_was_the_nearest(study: Path, fake_engine: Any):
    validation, _ = run(study, fake_engine, top=1, fails=lambda settings: "crashed")
    with Study.open(study) as opened:
        found = concluded(opened, validation.task)
    missed = replace(found, best=replace(found.best, metrics={**(found.best.metrics or {}), "p99_itl_ms": 1e6}))
    assert found.measured is not None and (called(found), called(missed)) == ("recommended", "nearest")
    assert best_yaml_of(missed).startswith("# nearest by slotune")


def test_no_pile_of_requests_that_is_chance_is_told(study: Path, fake_engine: Any):
    validation, _ = run(study, fake_engine, repeats=1)
    found = [replace(one, predicted={**(one.predicted or {}), "piled_up_share": 0.2}) for one in validation.found]
    piled = replace(validation, found=tuple(found), longer_loads={})
    assert trust_of(piled)["piled_up_share"] == 0.2
    steady = {one.key: LongerLoad(30, {"piled_up_share": 0.0}) for one in found}
    assert trust_of(replace(piled, longer_loads=steady))["piled_up_share"] == 0.0
    some = dict(list(steady.items())[:1])
    assert trust_of(replace(piled, longer_loads=some))["piled_up_share"] == 0.2


def test_drafts_of_the_profile_s_own_are_told_as_those_of_the_study_are(study: Path):
    config = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 4}
    drafts = config | {"rejection_sample_method": "synthetic", "synthetic_acceptance_rates": [0.5, 0.25]}
    with Study.open(study) as opened:
        task = load_task(opened.asked)
    plain, told = forced_lines(task), "# drafts assumed to be accepted, by position: 0.5, 0.25"
    drafting = replace(task, profile=replace(task.profile, defaults={"speculative_config": drafts}))
    assert plain == [] and forced_lines(drafting)[0].startswith("drafts were accepted as assumed")
    assert told in best_yaml(drafting, DEFAULT, ["found"]) and told not in best_yaml(task, DEFAULT, ["found"])
    off = task.asked.model_copy(update={"engine": {**task.asked.engine, "speculative_config": None}})
    assert forced_lines(replace(drafting, asked=off)) == []


def test_runs_of_another_engine_are_not_mixed_in(study: Path, fake_engine: Any):
    run(study, fake_engine, repeats=1)
    with pytest.raises(InputError, match="measured with model org/model, now it is other/model"):
        run(study, fake_engine, repeats=2, model="other/model")


def test_a_model_folder_is_the_same_by_its_relative_path(
    study: Path, fake_engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.chdir(tmp_path)
    whole = model_to_serve("llama", None, "p")
    assert whole == model_to_serve(None, str(folder), "p") == str(folder)
    run(study, fake_engine, repeats=1, model="llama")  # as earlier versions kept it
    _, again = run(study, fake_engine, repeats=1, model=whole)
    assert again.calls == []


def test_best_yaml_and_the_document_carry_what_was_measured(study: Path, fake_engine: Any):
    validation, _ = run(study, fake_engine)
    assert validation.verdict is not None
    assert read_recommendation(study)[0] == {"max_model_len": 8192} | dict(validation.verdict.recommended.settings)
    assert validation.verdict.sentence in (study / "best.yaml").read_text()
    limited = replace(validation.task, asked=validation.task.asked.model_copy(update={"max_concurrency": 64}))
    assert "# at most 64 requests in flight" in measured_yaml(replace(validation, task=limited), validation.verdict)
    told = document(validation)
    assert told["best"]["engine"] == dict(validation.verdict.recommended.settings)
    assert [run["round"] for run in told["best"]["measured"]["runs"]] == [1, 2, 3]
    assert told["best"]["measured"]["metrics"]["mean_ttft_ms"]["runs"] == 3
    assert told["default"]["measured"]["against_default"] == {}
    assert len(rows(validation)) == 3 * len(validation.quantities)


def test_an_engine_that_serves_less_than_predicted_promises_as_much(study: Path, fake_engine: Any):
    """All of it, the default too: nobody owes a latency to that."""
    found = []
    for number, throughput in enumerate((1.0, 0.85)):
        folder = shutil.copytree(study, study.with_name(f"copy{number}"))
        run(folder, fake_engine, ttft_slower=1.7, throughput=throughput)
        with Study.open(folder) as opened:
            found.append(promising(opened, load_task(opened.asked), 3))
    assert found[0] and found[1] == found[0]


def test_a_validation_that_was_stopped_after_the_default_says_nothing(study: Path, fake_engine: Any):
    with pytest.raises(KeyboardInterrupt):
        run(study, fake_engine, stop_after=1)
    with Study.open(study) as opened:
        cut = validation_of(opened, load_task(opened.asked))
    assert cut.verdict is None
    assert "Only the default has run on the engine so far" in notes(cut)[-1]
    with pytest.raises(EngineError, match="Only the default has run"):
        require_targets(cut)
    whole, _ = run(study, fake_engine)
    assert whole.verdict is not None


def test_requests_that_were_not_answered_are_told(study: Path, fake_engine: Any):
    validation, _ = run(study, fake_engine, unanswered=8)
    assert "default: 24 of 240 requests were not answered, the first because: 400 no" in notes(validation)
    assert validation.verdict is not None
    assert validation.verdict.sentence.endswith("the nearest leaves more requests unanswered than they allow.")
    cells = [row.cells[-1].status for row in _answer(validation).rows if row.labels[1]]
    assert cells == ["missed", "missed"]


def _answer(validation: Validation) -> Table:
    one = validation.found[0]
    return answer_table(validation.task.objective, validation.quantities, [Side(one.name, one.predicted, one)])


def test_intervals_in_json_hold_together_as_those_in_the_text_do(study: Path, fake_engine: Any):
    validation, _ = run(study, fake_engine, top=3)
    told = document(validation)["configurations"][1]["measured"]["against_default"]["mean_ttft_ms"]
    ttft = next(q for q in validation.quantities if q.key == "mean_ttft_ms")
    assert (told["low"], told["high"]) == pytest.approx(
        (lambda change: (change.low, change.high))(validation.found[1].against(validation.found[0], ttft, 3))
    )
