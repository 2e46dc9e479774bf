"""Measuring a study's best on an engine: which runs are made, in which order, and which are not made again."""

from pathlib import Path
from typing import Any

import pytest

from slotune.tests.tuner.validating import DEFAULT, run
from slotune.tuner.hardware.campaign import Progressed
from slotune.tuner.hardware.shortlist import promising, shortlist
from slotune.tuner.pages.validation_page import notes
from slotune.tuner.study.study import Study
from slotune.tuner.study.task import load_task
from slotune.tuner.validate import round_order, validated


def hardware(folder: Path) -> list[Any]:
    with Study.open(folder) as study:
        return study.trials("hardware")


def test_orders_rotate_and_turn_so_that_none_always_comes_first_or_after_another():
    orders = ["".join(round_order("ABC", number)) for number in range(7)]  # type: ignore[arg-type]
    assert orders == ["ABC", "CBA", "CAB", "BAC", "BCA", "ACB", "ABC"]


def test_every_round_runs_every_configuration_once_and_keeps_it(study: Path, fake_engine: Any):
    validation, fake = run(study, fake_engine)
    first, second = ({**one.settings} for one in validation.found[1:])
    assert fake.calls == [
        *((DEFAULT, 1), (first, 1), (second, 1)),
        *((second, 2), (first, 2), (DEFAULT, 2)),
        *((second, 3), (DEFAULT, 3), (first, 3)),
    ]
    kept = hardware(study)
    assert [(dict(t.settings), t.repeat + 1) for t in kept] == fake.calls
    assert all(t.details["model"] == "org/model" and t.origin == "validate" for t in kept)


def test_a_killed_validation_goes_on_and_repeats_nothing(study: Path, fake_engine: Any):
    with pytest.raises(KeyboardInterrupt):
        run(study, fake_engine, stop_after=4)
    assert len(hardware(study)) == 4
    _, second = run(study, fake_engine)
    assert len(second.calls) == 5
    assert len(hardware(study)) == 9
    _, third = run(study, fake_engine)
    assert third.calls == []


def test_more_repeats_add_rounds_to_those_that_are_there(study: Path, fake_engine: Any):
    run(study, fake_engine, repeats=1)
    validation, fake = run(study, fake_engine, repeats=2)
    assert [number for _, number in fake.calls] == [2, 2, 2]
    assert all(len(one.runs) == 2 for one in validation.found)


def test_a_configuration_that_fails_is_kept_with_its_reason_and_the_next_takes_its_place(study: Path, fake_engine: Any):
    with Study.open(study) as opened:
        candidates = shortlist(opened, load_task(opened.asked))
    bad = candidates[0]
    validation, fake = run(
        study, fake_engine, fails=lambda settings: "out-of-memory" if dict(settings) == bad else None
    )
    assert fake.calls.count((bad, 1)) == 1
    assert (bad, 2) not in fake.calls
    assert sorted(len(one.runs) for one in validation.found) == [0, 3, 3, 3]
    assert dict(validation.found[-1].settings) == candidates[2]
    failed = [trial for trial in hardware(study) if trial.failure]
    assert [(dict(t.settings), t.failure, t.message) for t in failed] == [
        (bad, "out-of-memory", "it said out-of-memory")
    ]
    assert any("failed on the engine in round 1, out-of-memory" in line for line in notes(validation))
    _, again = run(study, fake_engine)
    assert again.calls == []


def test_a_default_that_does_not_start_leaves_the_others(study: Path, fake_engine: Any):
    validation, _ = run(study, fake_engine, fails=lambda settings: "kv-cache" if dict(settings) == DEFAULT else None)
    assert validation.found[0].runs == {}
    assert validation.verdict is not None
    assert validation.verdict.recommended.name != "default"


def test_the_corrected_model_goes_on_until_it_promises_nothing_or_the_budget_is_used(study: Path, fake_engine: Any):
    """The first token takes three times as long as predicted, so the favourites, small budgets, miss."""
    first, _ = run(study, fake_engine, ttft_slower=3.0)
    assert first.verdict is not None
    assert not first.verdict.meets_targets
    with Study.open(study) as opened:
        better = promising(opened, load_task(opened.asked), 3)
    assert better[0]["max_num_batched_tokens"] >= 640
    more, fake = run(study, fake_engine, ttft_slower=3.0, budget_s=1e9)
    assert fake.calls[:3] == [(better[0], 4), (DEFAULT, 4), (better[1], 4)]
    assert more.verdict is not None
    assert more.verdict.meets_targets
    assert more.verdict.proven
    _, again = run(study, fake_engine, ttft_slower=3.0, budget_s=1e9)
    assert again.calls == []


def test_an_engine_that_does_as_predicted_leaves_nothing_better_to_promise(study: Path, fake_engine: Any):
    validation, _ = run(study, fake_engine)
    with Study.open(study) as opened:
        task = load_task(opened.asked)
        assert len(shortlist(opened, task)) > len(validation.found), "not all were tried"
        assert promising(opened, task, 1000) == []


def test_a_person_sees_each_run_begin_and_end(study: Path, fake_engine: Any):
    seen: list[Progressed] = []
    with Study.open(study, writable=True) as opened:
        task = load_task(opened.asked)
        validated(opened, task, fake_engine(task), top=1, repeats=1, watch=seen.append)
    assert [(step.done, step.total, step.trial is None) for step in seen] == [
        *((0, 2, True), (1, 2, False)),
        *((1, 2, True), (2, 2, False)),
    ]


def test_who_comes_later_runs_beside_the_default_again(study: Path, fake_engine: Any):
    """The machine has become 10 % faster since, which is no merit of the latecomers."""
    run(study, fake_engine, top=1)
    more, fake = run(study, fake_engine, top=3, speed=1.1)
    assert [number for _, number in fake.calls] == [4] * 3 + [5] * 3 + [6] * 3
    assert [len(one.runs) for one in more.found] == [6, 3, 3, 3]
    ttft = next(q for q in more.quantities if q.key == "mean_ttft_ms")
    default, late = more.found[0], more.found[2]
    expected = (late.predicted or {})["mean_ttft_ms"] / (default.predicted or {})["mean_ttft_ms"]
    assert late.against(default, ttft).value == pytest.approx(expected, rel=0.01)


def test_a_replacement_is_compared_with_runs_of_its_own_time(study: Path, fake_engine: Any):
    with Study.open(study) as opened:
        bad = shortlist(opened, load_task(opened.asked))[0]
    seen: list[Any] = []

    def dies_in_its_third_run(settings: Any) -> str | None:
        seen.append(dict(settings))
        return "crashed" if dict(settings) == bad and seen.count(bad) == 3 else None

    validation, fake = run(study, fake_engine, top=1, fails=dies_in_its_third_run)
    replacement = validation.found[-1]
    assert sorted(replacement.runs) == [2, 3, 4]
    assert {number for settings, number in fake.calls if settings == DEFAULT} == {1, 2, 3, 4, 5}
    assert validation.verdict is not None
    assert validation.verdict.recommended.name in ("default", replacement.name)


def test_a_round_that_was_stopped_is_not_waited_for_where_less_is_asked_for(study: Path, fake_engine: Any):
    with pytest.raises(KeyboardInterrupt):
        run(study, fake_engine, top=2, stop_after=2)
    seen: list[Progressed] = []
    with Study.open(study, writable=True) as opened:
        task = load_task(opened.asked)
        fewer = validated(opened, task, fake_engine(task), top=1, repeats=2, watch=seen.append)
    assert [len(one.runs) for one in fewer.found] == [2, 2]
    assert (seen[-1].done, seen[-1].total) == (2, 2)
