"""Failed runs that may be nobody's fault: what is tried again, what ends the validation, what is told without them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slotune.errors import EngineError
from slotune.tuner.conclusion import concluded
from slotune.tuner.hardware.shortlist import shortlist
from slotune.tuner.hardware.validation import Validation, require_targets
from slotune.tuner.pages.validation_page import notes
from slotune.tuner.recommendation import best_yaml_of
from slotune.tuner.study.export import read_recommendation
from slotune.tuner.study.study import Study
from slotune.tuner.study.task import load_task
from slotune.tuner.validate import validated

DEFAULT = {"num_gpu_blocks_override": 20000}


def run(folder: Path, engine_type: Any, repeats: int = 3, **engine: Any) -> tuple[Validation, Any]:
    """Validate the best of the study on a fake engine."""
    with Study.open(folder, writable=True) as study:
        task = load_task(study.asked)
        fake = engine_type(task, **engine)
        return validated(study, task, fake, top=1, repeats=repeats), fake


class Dying:
    """Settings that a process from outside kills in their first runs."""

    def __init__(self, settings: Any, times: int, reason: str = "killed") -> None:
        self.settings, self.left, self.reason = dict(settings), times, reason

    def __call__(self, settings: Any) -> str | None:
        if dict(settings) != self.settings or not self.left:
            return None
        self.left -= 1
        return self.reason


@pytest.mark.parametrize("reason", ["killed", "hang", "no-answer"])
def test_a_default_that_was_killed_once_runs_in_a_later_round(study: Path, fake_engine: Any, reason: str):
    validation, fake = run(study, fake_engine, fails=Dying(DEFAULT, 1, reason))
    assert [number for settings, number in fake.calls if settings == DEFAULT] == [1, 2, 3, 4]
    assert len(validation.found[0].runs) == 3
    assert validation.verdict is not None
    assert "than the default" in validation.verdict.sentence
    assert any(f"default failed on the engine in round 1, {reason}" in line for line in notes(validation))
    _, again = run(study, fake_engine)
    assert again.calls == []


def test_without_the_default_nobody_is_best_and_the_next_validation_compares(study: Path, fake_engine: Any):
    with Study.open(study, writable=True) as opened:
        opened.write_best(best_yaml_of(concluded(opened, load_task(opened.asked))))
    before = read_recommendation(study)
    cut, fake = run(study, fake_engine, fails=Dying(DEFAULT, 2))
    assert {number for _, number in fake.calls} == {1, 2}  # later rounds would compare with nothing
    assert cut.verdict is None
    assert "The comparison with the default is missing: it failed (killed)" in notes(cut)[-1]
    with pytest.raises(EngineError, match="`slotune validate` tries it again; the first failed, killed"):
        require_targets(cut)
    assert read_recommendation(study) == before
    whole, _ = run(study, fake_engine)
    assert whole.verdict is not None and whole.verdict.proven
    assert len(whole.found[0].runs) == 3
    assert read_recommendation(study)[0].items() >= whole.verdict.recommended.settings.items()


def test_a_candidate_that_was_killed_once_is_not_out(study: Path, fake_engine: Any):
    with Study.open(study) as opened:
        first, second = shortlist(opened, load_task(opened.asked))[:2]
    validation, _ = run(study, fake_engine, repeats=1, fails=Dying(first, 1))
    assert [dict(one.settings) for one in validation.found] == [DEFAULT, first]
    assert validation.found[1].is_steady
    killed, _ = run(study, fake_engine, repeats=2, fails=Dying(first, 1))
    assert not killed.found[1].is_steady  # twice is no accident
    assert dict(killed.found[2].settings) == second
    _, again = run(study, fake_engine, repeats=2)
    assert again.calls == []


def test_a_validation_stopped_after_a_kill_tries_again_in_the_next_round(study: Path, fake_engine: Any):
    with pytest.raises(KeyboardInterrupt):
        run(study, fake_engine, fails=Dying(DEFAULT, 1), stop_after=1)
    validation, fake = run(study, fake_engine, repeats=1)
    assert [number for settings, number in fake.calls if settings == DEFAULT] == [2]
    assert validation.found[0].is_steady


@pytest.mark.parametrize("reason", ["no-vllm", "disk-full"])
def test_what_no_configuration_is_to_blame_for_ends_the_validation(study: Path, fake_engine: Any, reason: str):
    with pytest.raises(EngineError, match=reason):
        run(study, fake_engine, fails=lambda settings: reason)
    with Study.open(study) as opened:
        assert opened.trials("hardware") == []


def test_a_failure_on_a_full_disk_is_not_kept(study: Path, fake_engine: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=4096))
    with pytest.raises(EngineError, match="the disk is full; the engine failed: it said crashed"):
        run(study, fake_engine, fails=lambda settings: "crashed")
    with Study.open(study) as opened:
        assert opened.trials("hardware") == []
