"""Other questions to tune: of several goals, of goodput, at random, with fixed settings, of loads that do not last."""

import json
from dataclasses import replace

import pytest

from slotune.errors import InfeasibleError
from slotune.simulator.slo import parse_slo
from slotune.tests.tuner.asking import asked
from slotune.tuner.pages.recommendation_page import comparison, document, front_table
from slotune.tuner.pages.report import write_report
from slotune.tuner.recommendation import best_yaml_of, fallen_lines, lost_lines, require_targets
from slotune.tuner.study.export import grounds
from slotune.tuner.study.study import Study
from slotune.tuner.study.task import ask
from slotune.tuner.tune import tune


def test_a_rate_that_does_not_last_is_told(small_files, tmp_path):
    """At 150 a second the engine falls behind; eighty requests end before that shows."""
    found = tune(asked(small_files, "p99:ttft:1000", trials=4, rate=150.0), tmp_path / "study", jobs=1)
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


def test_a_goal_that_does_not_last_is_told(small_files, tmp_path):
    found = tune(ask(*small_files, goodput={"ttft": 800.0}, trials=4, rate=400.0), tmp_path / "study", jobs=1)
    (line,) = fallen_lines(found)
    assert line.startswith("request_goodput goes from ") and "if the same traffic lasts 30 times as long" in line
    assert f"# {line}" in best_yaml_of(found)
    assert f"{line}." in write_report(found.folder, jobs=1).read_text().replace("&#39;", "'")
    calm = tune(ask(*small_files, goodput={"ttft": 1000.0}, trials=4, rate=5.0), tmp_path / "calm", jobs=1)
    assert fallen_lines(calm) == []


def test_targets_that_nothing_meets_name_the_nearest(small_files, tmp_path):
    found = tune(asked(small_files, "p99:tpot:2", trials=8), tmp_path / "study", jobs=1)
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


def test_several_goals_give_a_front(small_files, tmp_path):
    goals = asked(small_files, minimize=["p99_ttft_ms", "p99_tpot_ms"])
    found = tune(goals, tmp_path / "study", jobs=1)
    pairs = [(t.metrics["p99_ttft_ms"], t.metrics["p99_tpot_ms"]) for t in found.front]
    assert len(pairs) >= 2
    assert sorted(pairs) == pairs and sorted(pairs, key=lambda pair: -pair[1]) == pairs
    page = write_report(found.folder, jobs=1).read_text()
    assert "Pareto front: none is beaten in one goal without winning another" in page
    assert "The same requests in 6 other orders: p99_ttft_ms" in page and "the longer load decided" in page
    assert "p99_tpot_ms: " in best_yaml_of(found) and "; 30 times as long " in best_yaml_of(found)


def test_with_several_goals_the_recommendation_lies_on_the_front_that_is_told(small_files, tmp_path):
    question = ask(*small_files, minimize=["mean_ttft_ms", "p99_tpot_ms"], trials=24)
    both = tune(question, tmp_path / "study", jobs=1)
    assert len(both.front) > 1
    assert both.best.settings in [trial.settings for trial in both.front]
    columns, rows = front_table(both)
    assert columns == ["mean_ttft_ms", "p99_tpot_ms", "changes"]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)


def test_a_winner_without_its_idle_changes_lies_on_the_front_too_and_stays_there(small_files, tmp_path):
    question = ask(*small_files, minimize=["p99_ttft_ms", "p99_itl_ms"], trials=16)
    first, again = (tune(question, tmp_path / "study", jobs=1) for _ in range(2))
    assert first.best.origin == "plain"
    assert first.best.settings in [trial.settings for trial in first.front]
    assert [trial.settings for trial in again.front] == [trial.settings for trial in first.front]


def test_goodput_beside_a_target_decides(small_files, tmp_path):
    """Small budgets keep the time between tokens and starve the first ones."""
    strict = ask(*small_files, slos=[parse_slo("p99:tpot:60")], goodput={"ttft": 150.0}, trials=16)
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


def test_without_a_limit_between_tokens_the_largest_budget_comes_first(small_files, tmp_path):
    found = tune(asked(small_files, "p99:ttft:300", trials=3), tmp_path / "study", jobs=1)
    with Study.open(found.folder) as study:
        first = study.trials("simulation")[:3]
    budgets = next(knob.values for knob in found.task.space.knobs if knob.name == "max_num_batched_tokens")
    assert [trial.origin for trial in first] == ["default", "largest budget", "budget"]
    assert first[1].settings["max_num_batched_tokens"] == budgets[-1]


def test_random_search_at_the_same_budget(small_files, tmp_path):
    found = tune(asked(small_files, "p99:tpot:10", trials=12, optimizer="random"), tmp_path / "study", jobs=1)
    with Study.open(tmp_path / "study") as study:
        origins = [trial.origin for trial in study.trials("simulation")]
    assert origins == ["default"] + ["random"] * 11
    assert found.best.metrics is not None


def test_fixed_settings_stay(small_files, tmp_path):
    fixed = {"max_num_seqs": 12, "enable_prefix_caching": False}
    found = tune(asked(small_files, "p99:tpot:10", trials=8, engine=fixed), tmp_path / "study", jobs=1)
    with Study.open(tmp_path / "study") as study:
        assert all(fixed.items() <= trial.settings.items() for trial in study.trials("simulation"))
    assert document(found)["default"]["engine"] == fixed


def test_answers_of_one_token_have_a_report_without_the_picture_of_what_they_lack(small_files, tmp_path):
    trace = tmp_path / "one.jsonl"
    rows = [{"timestamp": 50 * k, "input_length": 40, "output_length": 1} for k in range(60)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tune(asked((small_files[0], str(trace)), "p99:ttft:300", trials=4), tmp_path / "study", jobs=1)
    page = write_report(tmp_path / "study", jobs=1).read_text()
    assert "mean TTFT" in page and "Latency against rate" in page
