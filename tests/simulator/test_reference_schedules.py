"""The simulator makes vLLM's own schedule, and that of the Sarathi-Serve paper, step by step."""

from pathlib import Path

import pytest

from slotune.tests.oracle.difference import first_difference
from slotune.tests.oracle.make_cases import cases
from slotune.tests.oracle.schedule import read_case, read_schedule
from slotune.tests.oracle.simulated import simulate_case
from slotune.tests.oracle.vllm_schedules import VllmOracle

DATA = Path(__file__).parent.parent / "data" / "oracle"
VLLM = sorted(path.name.removesuffix(".jsonl.gz") for path in (DATA / "schedules" / "vllm").iterdir())
SARATHI = sorted(path.name.removesuffix(".jsonl.gz") for path in (DATA / "schedules" / "sarathi").iterdir())
SEEDS = {"0.20.2": 2, "0.33.0": 3}
"""Of the cases whose schedules by other versions are here."""
OTHERS = [
    (version, path.name.removesuffix(".jsonl.gz"))
    for version in SEEDS
    for path in sorted((DATA / "schedules" / f"vllm-{version}").iterdir())
]
ENGINE_SEEDS = (2, 3, 5)


def test_all_reference_schedules_are_here() -> None:
    assert (len(VLLM), len(SARATHI), len(OTHERS)) == (29, 5, 10)
    assert sorted(name for name, _ in cases(1)) == VLLM


@pytest.mark.parametrize("name", VLLM)
def test_vllm(name: str, tmp_path: Path) -> None:
    case, expected = read_case(DATA / "cases" / f"{name}.json"), read_schedule(_file("vllm", name))
    difference = first_difference(expected, simulate_case(case, tmp_path), case)
    assert difference is None, difference


@pytest.mark.parametrize(("version", "name"), OTHERS)
def test_another_version_of_vllm(version: str, name: str, tmp_path: Path) -> None:
    """By its own rules the schedule is that version's; by those assumed it is another, or they were not tested."""
    case, expected = dict(cases(SEEDS[version]))[name], read_schedule(_file(f"vllm-{version}", name))
    difference = first_difference(expected, simulate_case(case, tmp_path / "own", version=version), case)
    assert difference is None, difference
    assert first_difference(expected, simulate_case(case, tmp_path / "assumed"), case) is not None


@pytest.mark.parametrize("name", SARATHI)
def test_sarathi(name: str, tmp_path: Path) -> None:
    case, expected = read_case(DATA / "cases" / f"{name}.json"), read_schedule(_file("sarathi", name))
    difference = first_difference(expected, simulate_case(case, tmp_path, "sarathi"), case)
    assert difference is None, difference


@pytest.mark.engine
def test_the_installed_vllm(vllm_python: str, tmp_path: Path) -> None:
    """Schedules made now, by the vLLM that is installed, for seeds that are not in the repository."""
    with VllmOracle(vllm_python, tmp_path / "oracle") as oracle:
        for seed in ENGINE_SEEDS:
            for name, case in cases(seed):
                if not oracle.takes(case):
                    continue
                actual = simulate_case(case, tmp_path / "slotune", version=oracle.version)
                difference = first_difference(oracle.schedule(case, f"seed{seed}-{name}"), actual, case)
                assert difference is None, f"seed {seed}, {name}: {difference}"


def _file(oracle: str, name: str) -> Path:
    return DATA / "schedules" / oracle / f"{name}.jsonl.gz"
