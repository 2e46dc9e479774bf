"""From what is asked to a recommendation, with everything real but small."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml

from slotune.errors import InfeasibleError, InputError
from slotune.profiler.kv_capacity import KvCapacity
from slotune.profiler.profile_folder import write_profile
from slotune.simulator.slo import parse_slo
from slotune.tuner.finalists.idle_changes import take_back
from slotune.tuner.finalists.variation import VariedRun
from slotune.tuner.objective import parse_goal
from slotune.tuner.pages.recommendation_page import comparison, document, front_table
from slotune.tuner.pages.report import write_report
from slotune.tuner.recommendation import (
    best_yaml_of,
    called,
    edge_lines,
    fallen_lines,
    lost_lines,
    require_targets,
    unlimited_lines,
)
from slotune.tuner.study.export import grounds
from slotune.tuner.study.study import Study, Trial
from slotune.tuner.study.task import ask, load_task
from slotune.tuner.tune import tune


@pytest.fixture(scope="module")
def files(tmp_path_factory, small_profile, small_trace):
    """A profile and a trace on disk; prompts of up to 600 tokens make a large budget stall the decodes."""
    folder = tmp_path_factory.mktemp("files")
    write_profile(replace(small_profile, defaults={"max_model_len": 2048}), folder / "profile")
    trace = small_trace(80, rate=30.0)
    rows = zip(trace.arrival_s, trace.input_tokens, trace.output_tokens, strict=True)
    (folder / "trace.jsonl").write_text(
        "".join(
            json.dumps({"timestamp": float(at) * 1000, "input_length": int(i), "output_length": int(o)}) + "\n"
            for at, i, o in rows
        )
    )
    return str(folder / "profile"), str(folder / "trace.jsonl")


def asked(files, *slos, trials=24, **more):
    return ask(*files, slos=[parse_slo(slo) for slo in slos], trials=trials, **more)


@pytest.fixture(scope="module")
def found(files, tmp_path_factory):
    return tune(asked(files, "p99:itl:20", "p99:ttft:300"), tmp_path_factory.mktemp("found") / "study", jobs=1)


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


def test_what_the_policy_does_not_obey_is_taken_back(files, tmp_path):
    """Earlier versions searched all knobs under every policy, and a study of theirs may have been cut off."""
    question = asked(files, "p99:tpot:10", policy="sarathi")
    task, kept = load_task(question), {"max_num_batched_tokens": 256, "max_num_seqs": 128}
    run = task.simulated()
    with Study.create(tmp_path / "study", question) as study:
        study.add(Trial(kept | {"enable_prefix_caching": False}, run(kept).metrics))
        take_back(study, task, lambda variations: map(VariedRun(run), variations))
        assert [trial.settings for trial in study.trials("simulation")][1:] == [kept]


def test_a_study_continued_with_fewer_trials_counts_what_it_holds(found, files, tmp_path):
    shutil.copytree(found.folder, tmp_path / "study")
    again = tune(asked(files, "p99:itl:20", "p99:ttft:300", trials=2), tmp_path / "study", jobs=1)
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


def test_a_rate_that_does_not_last_is_told(files, tmp_path):
    """At 150 a second the engine falls behind; eighty requests end before that shows."""
    found = tune(asked(files, "p99:ttft:1000", trials=4, rate=150.0), tmp_path / "study", jobs=1)
    require_targets(found)
    rows = {row[0]: row[1:] for row in comparison(found)}
    assert rows["p99:ttft:1000"][1].startswith("met (") and rows["  30 times as long"][1].startswith("missed (")
    (line,) = lost_lines(found)
    assert "the recommended settings miss p99:ttft:1000" in line
    assert f"# {line}" in best_yaml_of(found) and "; 30 times as long missed (" in best_yaml_of(found)
    assert document(found)["best"]["longer_load"]["targets"] == {"p99:ttft:1000": False}
    page = write_report(found.folder, jobs=1).read_text()
    assert "The same traffic 30 times as long: p99:ttft:1000 missed (" in page
    assert "The recommended settings miss p99:ttft:1000" in page
    assert "the target is met on this trace, but not if its traffic continues." in page
    assert any("miss p99:ttft:1000" in line for line in grounds(found.folder))


def test_a_goal_that_does_not_last_is_told(files, tmp_path):
    found = tune(ask(*files, goodput={"ttft": 800.0}, trials=4, rate=400.0), tmp_path / "study", jobs=1)
    (line,) = fallen_lines(found)
    assert line.startswith("request_goodput goes from ") and "if the same traffic lasts 30 times as long" in line
    assert f"# {line}" in best_yaml_of(found)
    assert f"R{line[1:]}." in write_report(found.folder, jobs=1).read_text().replace("&#39;", "'")
    calm = tune(ask(*files, goodput={"ttft": 1000.0}, trials=4, rate=5.0), tmp_path / "calm", jobs=1)
    assert fallen_lines(calm) == []


def test_a_study_from_before_longer_loads_is_told_without(found):
    before = replace(found, longer_loads={})
    assert "  30 times as long" not in [row[0] for row in comparison(before)]
    assert document(before)["best"]["longer_load"] is None
    assert "times as long" not in best_yaml_of(before)


def test_workers_change_nothing(found, files, tmp_path):
    again = tune(asked(files, "p99:itl:20", "p99:ttft:300"), tmp_path / "study", jobs=3)
    with Study.open(found.folder) as one, Study.open(tmp_path / "study") as other:
        assert [(t.settings, t.metrics) for t in one.trials()] == [(t.settings, t.metrics) for t in other.trials()]
    assert again.best.settings == found.best.settings


def test_targets_that_nothing_meets_name_the_nearest(files, tmp_path):
    found = tune(asked(files, "p99:tpot:2", trials=8), tmp_path / "study", jobs=1)
    with pytest.raises(InfeasibleError, match=r"none of 8 configurations .* p99_tpot_ms .* where the limit is 2"):
        require_targets(found)
    assert (tmp_path / "study" / "best.yaml").is_file()
    slow = replace(found.best, metrics={**(found.best.metrics or {}), "p99_tpot_ms": 12_345.6})
    with pytest.raises(InfeasibleError, match="p99_tpot_ms 12,346 ms, where the limit is 2"):
        require_targets(replace(found, best=slow))
    lost = {"completed": 9_999, "failed": 1, "p99_tpot_ms_of_all": 12_345.6}
    one_lost = replace(slow, metrics={**(slow.metrics or {}), **lost})
    with pytest.raises(InfeasibleError, match="p99_tpot_ms 12,346 ms, where the limit is 2"):
        require_targets(replace(found, best=one_lost))
    many_lost = replace(slow, metrics={**(slow.metrics or {}), "completed": 900, "failed": 100})
    with pytest.raises(InfeasibleError, match="with the nearest overall, 100 of 1,000 requests are not answered"):
        require_targets(replace(found, best=many_lost))


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


def test_several_goals_give_a_front(files, tmp_path):
    goals = asked(files, minimize=["p99_ttft_ms", "p99_tpot_ms"])
    found = tune(goals, tmp_path / "study", jobs=1)
    pairs = [(t.metrics["p99_ttft_ms"], t.metrics["p99_tpot_ms"]) for t in found.front]
    assert len(pairs) >= 2
    assert sorted(pairs) == pairs and sorted(pairs, key=lambda pair: -pair[1]) == pairs
    page = write_report(found.folder, jobs=1).read_text()
    assert "Pareto front: none is beaten in one goal without winning another" in page
    assert "The same requests in 6 other orders: p99_ttft_ms" in page and "the longer load decided" in page
    assert "p99_tpot_ms: " in best_yaml_of(found) and "; 30 times as long " in best_yaml_of(found)


def test_random_search_at_the_same_budget(files, tmp_path):
    found = tune(asked(files, "p99:tpot:10", trials=12, optimizer="random"), tmp_path / "study", jobs=1)
    with Study.open(tmp_path / "study") as study:
        origins = [trial.origin for trial in study.trials("simulation")]
    assert origins == ["default"] + ["random"] * 11
    assert found.best.metrics is not None


def test_fixed_settings_stay(files, tmp_path):
    fixed = {"max_num_seqs": 12, "enable_prefix_caching": False}
    found = tune(asked(files, "p99:tpot:10", trials=8, engine=fixed), tmp_path / "study", jobs=1)
    with Study.open(tmp_path / "study") as study:
        assert all(fixed.items() <= trial.settings.items() for trial in study.trials("simulation"))
    assert document(found)["default"]["engine"] == fixed


def test_what_cannot_start_is_never_proposed_and_a_default_that_cannot_is_told(files, tmp_path, small_profile):
    """Memory for 2048 tokens only with a small budget: the default does not start, the search finds what does."""
    kv = KvCapacity(
        kv_bytes_per_token=1e5, total_bytes=1e9, fixed_bytes=4e8, bytes_per_batched_token=1e5, error_bytes=1e6
    )
    tight = replace(small_profile, defaults={"max_model_len": 2048}, kv=kv)
    write_profile(tight, tmp_path / "tight")
    write_profile(replace(tight, cuda_graphs=True), tmp_path / "graphs")
    found = tune(asked((str(tmp_path / "tight"), files[1]), "p99:ttft:900", trials=16), tmp_path / "study", jobs=1)
    with Study.open(tmp_path / "study") as study:
        failures = [trial.settings for trial in study.trials("simulation") if trial.failure]
    assert failures == [{}]
    assert "max_num_batched_tokens=8192" in document(found)["default"]["failure"]
    assert found.best.metrics is not None
    assert document(found)["trust"]["expected_error"]["kv_cache"] > 0  # of the recommended, not of what does not start
    graphs = asked((str(tmp_path / "graphs"), files[1]), "p99:tpot:50", trials=4, engine={"max_num_seqs": 64})
    assert tune(graphs, tmp_path / "other", jobs=1).best.metrics is not None


def test_a_changed_trace_or_profile_is_noticed(files, tmp_path):
    question = asked(files, "p99:tpot:10")
    with pytest.raises(InputError, match="the trace changed"):
        load_task(question.model_copy(update={"trace_digest": "0"}))
    with pytest.raises(InputError, match="the profile changed"):
        load_task(question.model_copy(update={"profile_digest": "0"}))


def test_bad_settings_end_before_anything_is_written(files, tmp_path):
    with pytest.raises(InputError, match="must be at least max_num_seqs=512"):
        tune(
            asked(files, "p99:tpot:10", engine={"max_num_seqs": 512, "max_num_batched_tokens": 64}),
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


def test_with_several_goals_the_recommendation_lies_on_the_front_that_is_told(files, tmp_path):
    question = ask(*files, minimize=["mean_ttft_ms", "p99_tpot_ms"], trials=24)
    both = tune(question, tmp_path / "study", jobs=1)
    assert len(both.front) > 1
    assert both.best.settings in [trial.settings for trial in both.front]
    columns, rows = front_table(both)
    assert columns == ["mean_ttft_ms", "p99_tpot_ms", "changes"]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)


def test_a_winner_without_its_idle_changes_lies_on_the_front_too_and_stays_there(files, tmp_path):
    question = ask(*files, minimize=["p99_ttft_ms", "p99_itl_ms"], trials=16)
    first, again = (tune(question, tmp_path / "study", jobs=1) for _ in range(2))
    assert first.best.origin == "plain"
    assert first.best.settings in [trial.settings for trial in first.front]
    assert [trial.settings for trial in again.front] == [trial.settings for trial in first.front]


def test_goodput_beside_a_target_decides(files, tmp_path):
    """Small budgets keep the time between tokens and starve the first ones."""
    strict = ask(*files, slos=[parse_slo("p99:tpot:60")], goodput={"ttft": 150.0}, trials=16)
    found = tune(strict, tmp_path / "study", jobs=1)
    best, default = (found.task.objective.good_ratio(trial.metrics) for trial in (found.best, found.default))
    assert best <= default
    assert document(found)["best"]["targets"]["goodput"] == (best == 0)
    labels = [label for label, *_ in comparison(found)]
    (row,) = [row for row in comparison(found) if row[0] == "99% of requests good"]
    assert labels[labels.index("99% of requests good") + 1] == "  in 6 other orders"
    orders = found.orders_of(found.best)
    met = orders.meeting(lambda metrics: found.task.objective.good_ratio(metrics) == 0)
    assert document(found)["best"]["other_orders"]["targets_met"]["goodput"] == met
    assert f"in 6 other orders of the requests met in {met} (" in best_yaml_of(found).split("requests good")[1]
    assert row[2].startswith("met" if best == 0 else "missed")


def test_answers_of_one_token_have_a_report_without_the_picture_of_what_they_lack(files, tmp_path):
    trace = tmp_path / "one.jsonl"
    rows = [{"timestamp": 50 * k, "input_length": 40, "output_length": 1} for k in range(60)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tune(asked((files[0], str(trace)), "p99:ttft:300", trials=4), tmp_path / "study", jobs=1)
    page = write_report(tmp_path / "study", jobs=1).read_text()
    assert "mean TTFT" in page and "Latency against rate" in page


def test_limits_as_large_as_any_that_was_tried_are_told(found):
    budget = next(knob for knob in found.task.space.knobs if knob.name == "max_num_batched_tokens")
    edge = replace(found, best=replace(found.best, settings={budget.name: budget.values[-1]}))
    told = f"the recommended max_num_batched_tokens={budget.values[-1]} is the largest that was tried"
    assert edge_lines(edge)[0].startswith(told)
    assert edge_lines(replace(found, best=replace(found.best, settings={budget.name: budget.values[0]}))) == []


def test_without_a_limit_between_tokens_the_largest_budget_comes_first(files, tmp_path):
    found = tune(asked(files, "p99:ttft:300", trials=3), tmp_path / "study", jobs=1)
    with Study.open(found.folder) as study:
        first = study.trials("simulation")[:3]
    budgets = next(knob.values for knob in found.task.space.knobs if knob.name == "max_num_batched_tokens")
    assert [trial.origin for trial in first] == ["default", "largest budget", "budget"]
    assert first[1].settings["max_num_batched_tokens"] == budgets[-1]


def test_what_misses_its_targets_is_the_nearest_and_not_recommended(found):
    lost = {**found.best.metrics, "p99_itl_ms": 1e6}
    missed = replace(found, best=replace(found.best, metrics=lost), longer_loads={})
    assert (called(found), called(missed)) == ("recommended", "nearest")
    assert best_yaml_of(missed).startswith("# nearest by slotune") and "ALL MISS A TARGET" in best_yaml_of(missed)
    assert best_yaml_of(found).startswith("# recommended by slotune") and "MISS" not in best_yaml_of(found)


def test_what_tells_how_far_to_trust_it_is_in_best_yaml(found):
    assert "# the expected error is unknown: no measured step was held out to estimate it" in best_yaml_of(found)
