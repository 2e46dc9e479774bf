"""Which slotune this is, installed or run from its folder."""

from importlib.metadata import PackageNotFoundError

import pytest

from slotune import release
from slotune.profiler import doctor
from slotune.release import own_version


def absent(distribution: str) -> str:
    raise PackageNotFoundError(distribution)


def test_a_package_that_is_not_installed_says_so_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "version", absent)
    assert own_version() == "(not installed)"


def test_doctor_looks_on_where_slotune_runs_from_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "version", absent)
    found = {finding.name: finding for finding in doctor.examine()}
    assert found["slotune"].value == "not installed, runs from its folder; what it needs is not checked"
