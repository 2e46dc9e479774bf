"""What a study comes to: no front where there is one goal, and no recommendation where nothing could run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slotune.errors import InputError
from slotune.profiler.kv_capacity import KvCapacity
from slotune.profiler.profile import linear_profile
from slotune.profiler.profile_folder import write_profile
from slotune.simulator.slo import parse_slo
from slotune.traces.generate import make_trace
from slotune.traces.lengths import constant
from slotune.traces.mooncake import write_trace
from slotune.tuner.conclusion import concluded, require_one_that_ran
from slotune.tuner.pages.recommendation_page import document
from slotune.tuner.study.study import Study
from slotune.tuner.study.task import ask, load_task
from slotune.tuner.tune import tune
from slotune.tuner.validate import validated


def test_without_several_goals_there_is_no_front(study: Path) -> None:
    with Study.open(study) as opened:
        found = concluded(opened, load_task(opened.asked))
    assert found.front == () and found.trials == 16


@pytest.mark.parametrize("fails", [None, "crashed"])
def test_what_was_measured_decides_what_is_recommended(study: Path, fake_engine: Any, fails: str | None) -> None:
    """With its prediction; the default where no other could run."""
    with Study.open(study, writable=True) as opened:
        task = load_task(opened.asked)
        before = concluded(opened, task)
        assert before.measured is None and before.best == before.simulated != before.default
        engine = fake_engine(task, fails=lambda settings: fails if settings != task.asked.engine else None)
        verdict = validated(opened, task, engine, top=1, repeats=3).verdict
        found = concluded(opened, task)
    assert verdict is not None and verdict.recommended.settings == found.settings
    assert (found.best.key == found.default.key) == (fails is not None)
    assert found.best.metrics == verdict.recommended.predicted
    assert document(found)["best"]["engine"] == found.settings


def test_where_every_configuration_failed_on_the_engine_the_first_reason_is_told(study: Path) -> None:
    with Study.open(study, writable=True) as opened:
        task, simulated = load_task(opened.asked), opened.trials("simulation")
        require_one_that_ran(opened, concluded(opened, task))
        for number, trial in enumerate(simulated):
            for turn in (1, 2):
                told = f"reason {number}.{turn}"
                fails = replace(trial, metrics=None, failure="crashed", message=told, where="hardware", repeat=turn)
                opened.add(replace(fails, number=None))
            if number + 1 < len(simulated):
                require_one_that_ran(opened, concluded(opened, task))
        with pytest.raises(InputError, match=r"^no configuration of 16 could run, the first because: reason 0\.1$"):
            require_one_that_ran(opened, concluded(opened, task))


def test_where_nothing_can_start_the_default_s_reason_is_told(tmp_path: Path) -> None:
    kv = KvCapacity(kv_bytes_per_token=1e5, total_bytes=1e9, fixed_bytes=2e9, bytes_per_batched_token=0.0)
    full = replace(linear_profile(0.005, 2e-5, 5e-5, 2e-8), defaults={"max_model_len": 2048}, kv=kv)
    write_profile(full, tmp_path / "full")
    write_trace(make_trace(20, 5.0, (constant(100), constant(10)), seed=1), tmp_path / "trace.jsonl")
    inputs = str(tmp_path / "full"), str(tmp_path / "trace.jsonl")
    question = ask(*inputs, slos=[parse_slo("p99:ttft:500")], engine={}, trials=2)
    with pytest.raises(InputError, match=r"^no configuration of 1 could run, the first because: .*no memory is left"):
        tune(question, tmp_path / "study", jobs=1)
    assert not (tmp_path / "study" / "best.yaml").exists()
