"""From what is asked to a recommendation, with everything real but small."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml

from slotune.errors import InfeasibleError, InputError
from slotune.profiler.kv_capacity import KvCapacity
from slotune.profiler.profile_folder import profile_folder, write_profile
from slotune.simulator.slo import parse_slo
from slotune.tests.tuner.asking import asked
from slotune.tuner.finalists.idle_changes import take_back
from slotune.tuner.finalists.variation import VariedRun
from slotune.tuner.objective import parse_goal
from slotune.tuner.pages.recommendation_page import comparison, document
from slotune.tuner.recommendation import (
    best_yaml_of,
    called,
    edge_lines,
    require_targets,
    unlimited_lines,
)
from slotune.tuner.study.study import Study, Trial
from slotune.tuner.study.task import ask, load_task, profile_digest
from slotune.tuner.tune import tune


@pytest.fixture(scope="module")
def found(small_files, tmp_path_factory):
    return tune(asked(small_files, "p99:itl:20", "p99:ttft:300"), tmp_path_factory.mktemp("found") / "study", jobs=1)


def test_the_recommendation_is_better_than_the_default(found):
    objective = found.task.objective
    assert objective.worst_ratio(found.best.metrics) < objective.worst_ratio(found.default.metrics) - 0.02
    assert found.default.settings == {}
    assert found.trials == 24


def test_the_study_holds_everything(found):
    with Study.open(found.folder) as study:
        trials = study.trials("simulation")
    assert len([trial for trial in trials if trial.origin != "plain"]) == 24
    origins = [trial.origin for trial in trials]
    assert origins[:2] == ["default", "sarathi"] and origins.count("budget") in (3, 4)
    assert origins[origins.index("sobol") - 1] == "budget"
    plain = [trial.settings["max_num_batched_tokens"] for trial in trials if trial.origin == "budget"]
    assert set(plain) <= {4096, 2048, 1024, 512} and len(set(plain)) == len(plain)
    assert (found.folder / "best.yaml").is_file()


def test_no_recommended_change_is_without_effect(found):
    run, settings = found.task.simulated(), found.best.settings
    predicted = run(settings).metrics
    assert settings
    for name in settings:
        without = {key: value for key, value in settings.items() if key != name}
        if not found.task.space.allowed(found.task.space.vector(without)[None])[0]:
            continue  # vLLM would lower the default of what is left out
        less = run({key: value for key, value in settings.items() if key != name}).metrics
        assert less is None or any(less[key] != predicted[key] for key in predicted), f"{name} does nothing"


def test_what_the_policy_does_not_obey_is_taken_back(small_files, tmp_path):
    """Earlier versions searched all knobs under every policy, and a study of theirs may have been cut off."""
    question = asked(small_files, "p99:tpot:10", policy="sarathi")
    task, kept = load_task(question), {"max_num_batched_tokens": 256, "max_num_seqs": 128}
    run = task.simulated()
    with Study.create(tmp_path / "study", question) as study:
        study.add(Trial(kept | {"enable_prefix_caching": False}, run(kept).metrics))
        take_back(study, task, lambda variations: map(VariedRun(run), variations))
        assert [trial.settings for trial in study.trials("simulation")][1:] == [kept]


def test_a_study_continued_with_fewer_trials_counts_what_it_holds(found, small_files, tmp_path):
    shutil.copytree(found.folder, tmp_path / "study")
    again = tune(asked(small_files, "p99:itl:20", "p99:ttft:300", trials=2), tmp_path / "study", jobs=1)
    assert again.trials == 24
    assert again.best.settings == found.best.settings


def test_best_yaml_is_what_vllm_reads(found):
    text = (found.folder / "best.yaml").read_text()
    named = {key.removeprefix("no-").replace("-", "_"): value for key, value in yaml.safe_load(text).items()}
    assert {name: named[name] for name in found.best.settings} == found.best.settings
    assert "not from a measurement" in text


def test_goodput_beside_targets_is_one_of_them(found):
    objective = replace(found.task.objective, goodput={"ttft": 1.0})
    metrics = dict(found.best.metrics) | {"request_goodput": 0.25 * found.best.metrics["request_throughput"]}
    alone = replace(found, orders={}, longer_loads={}, sensitivities={}, best=replace(found.best, metrics=metrics))
    few = replace(alone, task=replace(found.task, objective=objective))
    with pytest.raises(InfeasibleError, match=r"25.0% of the requests are good where 99% are needed"):
        require_targets(few)
    assert "# 99% of requests good: missed (25.0%) in simulation" in best_yaml_of(few)


def test_the_document_has_what_the_design_promises(found):
    told = json.loads(json.dumps(document(found)))
    assert told["trials"] == 24
    assert told["best"]["engine"] == found.best.settings
    assert told["best"]["predicted"]["p99_ttft_ms"] == found.best.metrics["p99_ttft_ms"]
    assert told["best"]["measured"] is None
    assert told["default"]["engine"] == {}
    assert told["default"]["resolved"]["max_num_batched_tokens"] == 8192
    assert told["best"]["resolved"].items() >= found.best.settings.items()
    assert told["best"]["targets"] == {"p99:itl:20": True, "p99:ttft:300": True}
    others = told["best"]["other_orders"]
    assert others["orders"] == 6 and 0 <= others["targets_met"]["p99:ttft:300"] <= 6
    spread = others["metrics"]["p99_ttft_ms"]
    assert spread["low"] < spread["mean"] < spread["high"]
    longer = told["best"]["longer_load"]
    assert longer["times"] == 30 and longer["targets"].keys() == told["best"]["targets"].keys()
    assert longer["metrics"]["completed"] == 2400


def test_a_model_that_the_profile_is_not_of_is_in_the_trust_of_the_document(found):
    task = found.task
    profile = replace(task.profile, engine=replace(task.profile.engine, model="own/model"))
    for model, told in (("own/model", 0), ("other/model", 1)):
        asked = task.asked.model_copy(update={"model": model})
        document_of = document(replace(found, task=replace(task, profile=profile, asked=asked)))
        assert len(document_of["trust"]["not_represented"]) == told


def test_the_table_tells_settings_metrics_and_targets(found):
    rows = {row[0]: row[1:] for row in comparison(found)}
    for name, value in found.best.settings.items():
        assert rows[name][1] == str(value)
    assert rows["TTFT p99, ms"] == (found.default.metrics["p99_ttft_ms"], found.best.metrics["p99_ttft_ms"])
    assert rows["p99:ttft:300"][1].startswith("met (")
    assert all(text.startswith("met in ") for text in rows["  in 6 other orders"])
    assert all(text.startswith(("met (", "missed (")) for text in rows["  30 times as long"])


def test_a_study_from_before_longer_loads_is_told_without(found):
    before = replace(found, longer_loads={})
    assert "  30 times as long" not in [row[0] for row in comparison(before)]
    assert document(before)["best"]["longer_load"] is None
    assert "times as long" not in best_yaml_of(before)


def test_workers_change_nothing(found, small_files, tmp_path):
    again = tune(asked(small_files, "p99:itl:20", "p99:ttft:300"), tmp_path / "study", jobs=3)
    with Study.open(found.folder) as one, Study.open(tmp_path / "study") as other:
        assert [(t.settings, t.metrics) for t in one.trials()] == [(t.settings, t.metrics) for t in other.trials()]
    assert again.best.settings == found.best.settings


def test_what_becomes_much_longer_and_nobody_named_is_told(found):
    best, default = found.best, found.default
    slow = {**(best.metrics or {}), "mean_ttft_ms": 3 * default.metrics["mean_ttft_ms"], "mean_tpot_ms": 1e4}
    alone = replace(found, best=replace(best, metrics=slow))
    (line,) = unlimited_lines(alone)
    assert "mean TPOT goes from " in line and " to 10,000 ms: no target limits it" in line
    assert line in best_yaml_of(alone) and unlimited_lines(found) == []
    named = replace(found.task.objective, goodput={"tpot": 1e5})
    assert unlimited_lines(replace(alone, task=replace(found.task, objective=named))) == []
    goal = replace(found.task.objective, goals=(parse_goal("p90_tpot_ms", maximize=False),))
    assert unlimited_lines(replace(alone, task=replace(found.task, objective=goal))) == []
    for times, told in ((1.99, 0), (2.01, 1)):
        slower = {**(best.metrics or {}), "mean_tpot_ms": times * default.metrics["mean_tpot_ms"]}
        assert len(unlimited_lines(replace(found, best=replace(best, metrics=slower)))) == told


def test_what_cannot_start_is_never_proposed_and_a_default_that_cannot_is_told(small_files, tmp_path, small_profile):
    """Memory for 2048 tokens only with a small budget: the default does not start, the search finds what does."""
    kv = KvCapacity(
        kv_bytes_per_token=1e5, total_bytes=1e9, fixed_bytes=4e8, bytes_per_batched_token=1e5, error_bytes=1e6
    )
    tight = replace(small_profile, defaults={"max_model_len": 2048}, kv=kv)
    write_profile(tight, tmp_path / "tight")
    write_profile(replace(tight, cuda_graphs=True), tmp_path / "graphs")
    found = tune(
        asked((str(tmp_path / "tight"), small_files[1]), "p99:ttft:900", trials=16), tmp_path / "study", jobs=1
    )
    with Study.open(tmp_path / "study") as study:
        failures = [trial.settings for trial in study.trials("simulation") if trial.failure]
    assert failures == [{}]
    assert "max_num_batched_tokens=8192" in document(found)["default"]["failure"]
    assert found.best.metrics is not None
    assert document(found)["trust"]["expected_error"]["kv_cache"] > 0  # of the recommended, not of what does not start
    graphs = asked((str(tmp_path / "graphs"), small_files[1]), "p99:tpot:50", trials=4, engine={"max_num_seqs": 64})
    assert tune(graphs, tmp_path / "other", jobs=1).best.metrics is not None


def test_a_changed_trace_or_profile_is_noticed(small_files, tmp_path):
    question = asked(small_files, "p99:tpot:10")
    with pytest.raises(InputError, match="the trace changed"):
        load_task(question.model_copy(update={"trace_digest": "0"}))
    with pytest.raises(InputError, match="the profile changed"):
        load_task(question.model_copy(update={"profile_digest": "0"}))


def test_a_bundled_profile_is_known_by_its_name_as_by_its_folder():
    name = "h200-llama-3.1-8b"
    assert profile_digest(name) == profile_digest(str(profile_folder(name)))


def test_a_study_named_like_a_bundled_trace_or_profile_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = "h200-llama-3.1-8b", "chat"
    for name in names:
        (tmp_path / name).mkdir()
    question = ask(*names, slos=[parse_slo("p99:ttft:500")])
    assert (question.profile, question.trace) == names
    assert len(load_task(question).trace) == 1000


def test_a_wrong_folder_is_told_before_anything_is_compiled(small_files, tmp_path, monkeypatch):
    monkeypatch.setattr("slotune.tuner.tune.workers", None)
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds something that is not a study"):
        tune(asked(small_files, "p99:tpot:10"), tmp_path)


def test_bad_settings_end_before_anything_is_written(small_files, tmp_path):
    with pytest.raises(InputError, match="must be at least max_num_seqs=512"):
        tune(
            asked(small_files, "p99:tpot:10", engine={"max_num_seqs": 512, "max_num_batched_tokens": 64}),
            tmp_path / "study",
            jobs=1,
        )
    assert not (tmp_path / "study").exists()


def test_what_is_told_as_resolved_is_what_the_engine_takes(found):
    """vLLM lowers max_num_seqs to a smaller token budget."""
    resolved = found.task.resolved({"max_num_batched_tokens": 96})
    engine = found.task.profile.engine_config({"max_num_batched_tokens": 96})
    assert resolved["max_num_seqs"] == engine.max_num_seqs == 96
    assert (
        document(found)["best"]["resolved"]["max_num_seqs"]
        == found.task.profile.engine_config(found.best.settings).max_num_seqs
    )


def test_limits_as_large_as_any_that_was_tried_are_told(found):
    budget = next(knob for knob in found.task.space.knobs if knob.name == "max_num_batched_tokens")
    edge = replace(found, best=replace(found.best, settings={budget.name: budget.values[-1]}))
    told = f"the recommended max_num_batched_tokens={budget.values[-1]} is the largest that was tried"
    assert edge_lines(edge)[0].startswith(told)
    assert edge_lines(replace(found, best=replace(found.best, settings={budget.name: budget.values[0]}))) == []


def test_what_misses_its_targets_is_the_nearest_and_not_recommended(found):
    lost = {**found.best.metrics, "p99_itl_ms": 1e6}
    missed = replace(found, best=replace(found.best, metrics=lost), longer_loads={})
    assert (called(found), called(missed)) == ("recommended", "nearest")
    assert best_yaml_of(missed).startswith("# nearest by slotune") and "ALL MISS A TARGET" in best_yaml_of(missed)
    assert best_yaml_of(found).startswith("# recommended by slotune") and "MISS" not in best_yaml_of(found)


def test_what_tells_how_far_to_trust_it_is_in_best_yaml(found):
    assert "# the expected error is unknown: no measured step was held out to estimate it" in best_yaml_of(found)
