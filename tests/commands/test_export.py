"""slotune export on a study's folder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from slotune.profiler.profile import EngineFacts, linear_profile
from slotune.profiler.profile_folder import write_profile
from slotune.tuner.study.export import vllm_yaml
from slotune.tuner.study.study import Asked, Study, Versions
from slotune.tuner.study.task import profile_digest

BEST = {"max_num_seqs": 32, "enable_prefix_caching": False}
GROUNDS = [
    "recommended by slotune 0.1.0 after 32 simulated configurations",
    "p99:ttft:500: missed (612 ms) in simulation",
]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study with a recommendation, on the profile of a named model."""
    facts = EngineFacts(model="org/model", device="NVIDIA H200", version="0.32.0")
    write_profile(replace(linear_profile(0.01, 1e-4, 1e-4, 0), engine=facts), tmp_path / "profile")
    asked = Asked(
        profile=str(tmp_path / "profile"),
        profile_digest=profile_digest(str(tmp_path / "profile")),
        trace="trace.jsonl",
        trace_digest="",
        slos=("p99:ttft:500",),
        versions=Versions(slotune="0.1.0", smac="2.4.1", python="3.11"),
    )
    with Study.create(tmp_path / "study", asked) as created:
        created.write_best(vllm_yaml(BEST, comments=GROUNDS))
    return tmp_path / "study"


def test_a_profile_that_changed_is_not_that_of_the_recommendation(slotune: Callable[..., Any], study: Path):
    write_profile(linear_profile(0.02, 1e-4, 1e-4, 0), study.parent / "profile")
    done = slotune("export", study)
    assert done.code == 2 and "the profile changed since this study was made" in done.err


def test_yaml_on_stdout_is_what_vllm_reads(slotune: Callable[..., Any], study: Path):
    done = slotune("export", study)
    assert done.code == 0
    assert done.out.startswith("# study study\n# recommended by slotune")
    assert yaml.safe_load(done.out) == {"model": "org/model", "max-num-seqs": 32, "no-enable-prefix-caching": True}


@pytest.mark.parametrize("form", ["yaml", "command", "kubernetes"])
def test_what_the_recommendation_rests_on_goes_along(slotune: Callable[..., Any], study: Path, form: str):
    done = slotune("export", study, "--form", form)
    assert done.err.splitlines() == GROUNDS
    assert form == "command" or "# p99:ttft:500: missed (612 ms) in simulation\n" in done.out


def test_command_line_goes_to_a_file_and_takes_another_model(slotune: Callable[..., Any], study: Path, tmp_path: Path):
    done = slotune("export", study, "--form", "command", "--model", "/models/a b", "--out", tmp_path / "run.sh")
    assert (done.code, done.out) == (0, "")
    assert (tmp_path / "run.sh").read_text() == (
        "vllm serve '/models/a b' --max-num-seqs 32 --no-enable-prefix-caching\n"
    )


def test_json_holds_the_settings_and_every_form(slotune: Callable[..., Any], study: Path):
    document = json.loads(slotune("export", study, "--json").out)
    assert document["engine"] == BEST
    assert set(document) == {"engine", "grounds", "yaml", "command", "kubernetes"}
    assert document["grounds"] == GROUNDS
    assert "nvidia.com/gpu: 1" in document["kubernetes"]


def test_the_study_s_own_files_are_not_written_over(slotune: Callable[..., Any], study: Path):
    before = (study / "best.yaml").read_text()
    done = slotune("export", study, "--out", study / "best.yaml")
    assert done.code == 2 and "is a part of the study itself" in done.err
    assert (study / "best.yaml").read_text() == before


def test_no_recommendation_yet_fails_and_says_what_to_run(slotune: Callable[..., Any], study: Path):
    (study / "best.yaml").unlink()
    done = slotune("export", study)
    assert done.code == 1
    assert "slotune tune" in done.err


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_folder_that_is_no_study_is_bad_input(
    slotune: Callable[..., Any], tmp_path: Path, make: Callable[[Path], None]
):
    make(tmp_path / "other")
    done = slotune("export", tmp_path / "other")
    assert done.code == 2
    assert "study.json is missing" in done.err
    assert done.err.count("\n") == 1
