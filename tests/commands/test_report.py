"""slotune report: where the page goes, and what it says of bad input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slotune.profiler.profile import linear_profile
from slotune.profiler.profile_folder import write_profile
from slotune.release import own_version
from slotune.traces.generate import make_trace
from slotune.traces.lengths import uniform
from slotune.traces.mooncake import write_trace


@pytest.fixture
def study(tmp_path: Path, slotune: Callable[..., Any]) -> Path:
    write_profile(linear_profile(0.002, 5e-5, 1e-5, 0), tmp_path / "profile")
    write_trace(make_trace(20, 20.0, (uniform(100, 900), uniform(2, 14)), seed=1), tmp_path / "trace.jsonl")
    given = ("--profile", tmp_path / "profile", "--trace", tmp_path / "trace.jsonl", "--slo", "p99:itl:60")
    assert slotune("tune", *given, "--trials", 8, "--jobs", 1, "--out", tmp_path / "study").code == 0
    return tmp_path / "study"


def test_the_page_is_in_the_study_and_its_path_on_stdout(slotune: Callable[..., Any], study: Path):
    done = slotune("report", study, "--jobs", 1)
    assert (done.code, done.out) == (0, f"{study / 'report.html'}\n")
    page = (study / "report.html").read_text()
    assert "Not yet measured on the engine" in page
    assert "not from a measurement" in page


def test_it_goes_where_it_is_told_and_json_names_it(slotune: Callable[..., Any], study: Path, tmp_path: Path):
    done = slotune("report", study, "--jobs", 1, "--out", tmp_path / "pages" / "a.html", "--json")
    assert json.loads(done.out) == {"report": str(tmp_path / "pages" / "a.html")}
    assert not (study / "report.html").exists()


@pytest.mark.parametrize("own", ["study.json", "trials.sqlite", "best.yaml"])
def test_the_study_s_own_files_are_not_written_over(slotune: Callable[..., Any], study: Path, own: str):
    before = (study / own).read_bytes()
    done = slotune("report", study, "--jobs", 1, "--out", study / ".." / study.name / own)
    assert done.code == 2 and "is a part of the study itself" in done.err
    assert (study / own).read_bytes() == before


def test_a_folder_that_is_no_study_is_bad_input(slotune: Callable[..., Any], tmp_path: Path):
    done = slotune("report", tmp_path)
    assert done.code == 2
    assert "not a study" in done.err


def test_a_study_of_another_version_is_told_of(slotune: Callable[..., Any], study: Path):
    assert "made with slotune" not in slotune("report", study, "--jobs", 1).err
    asked = json.loads((study / "study.json").read_text())
    asked["versions"]["slotune"] = "0.0.1"
    (study / "study.json").write_text(json.dumps(asked))
    done = slotune("report", study, "--jobs", 1)
    told = f"Warning: {study}: made with slotune 0.0.1, and this is {own_version()}, whose numbers may be others; "
    assert done.code == 0 and done.err.startswith(told)


def test_a_disk_that_takes_nothing_is_one_line(slotune: Callable[..., Any], study: Path):
    done = slotune("report", study, "--jobs", 1, "--out", "/dev/full/a.html")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("Error: /dev/full")
