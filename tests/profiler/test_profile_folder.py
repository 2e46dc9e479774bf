"""A profile on disk: it comes back as it was, damage is named, and nothing that is not a profile is overwritten."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.profiler.kv_capacity import KvCapacity, KvObservation
from slotune.profiler.profile import EngineFacts, Profile, linear_profile
from slotune.profiler.profile_folder import load_profile, write_profile
from slotune.profiler.provenance import MEASURED
from slotune.profiler.surrogate.model import OVER_TIME, RegimeError
from slotune.profiler.surrogate.samples import StepSamples, read_samples
from slotune.profiler.surrogate.surrogate import fit
from slotune.simulator.features import totals_of
from slotune.simulator.step_time import step_times_s
from slotune.simulator.timing import Overhead


@pytest.fixture(scope="module")
def profile() -> Profile:
    rng = np.random.default_rng(0)
    steps = np.array([totals_of(np.ones(n, np.int64), rng.integers(1, 2000, n)) for n in rng.integers(1, 60, 400)])
    durations = 3e-3 + 1e-3 * np.ceil(steps[:, 4] / 8) + 1e-7 * steps[:, 5]
    samples = StepSamples(steps, durations)
    settings = {"block_size": 16, "max_num_batched_tokens": 512, "max_num_seqs": 64}
    return Profile(
        name="measured",
        source=MEASURED,
        step=fit(samples, np.array([1.0, 2, 4, 8, 16])),
        engine=EngineFacts(version="0.32.0", model="tiny", device="some CPU", dtype="bfloat16"),
        defaults={"max_num_batched_tokens": 512, "max_model_len": 4096},
        kv=KvCapacity(2048, kv_cache_memory_bytes=1e9, observations=(KvObservation(settings, 30517),)),
        overhead=Overhead(3e-3, 1e-6, 2e-3),
        samples=samples,
        notes=("cut short",),
        model_parts=("experts",),
        doubts=("fp8 takes longer",),
    )


@pytest.fixture
def folder(profile: Profile, tmp_path: Path) -> Path:
    write_profile(profile, tmp_path / "p")
    return tmp_path / "p"


def edit(folder: Path, **changes: object) -> None:
    path = folder / "profile.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        load_profile(folder)
    assert "\n" not in str(caught.value)


def test_it_comes_back_as_it_was(profile: Profile, folder: Path) -> None:
    loaded = load_profile(folder)
    assert profile.step.residual is not None and loaded.step.residual == profile.step.residual
    assert loaded.step.weights_s == pytest.approx(profile.step.weights_s, rel=1e-14)
    assert loaded.step.hull.tolist() == profile.step.hull.tolist()
    assert loaded.step.graph_sizes.tolist() == profile.step.graph_sizes.tolist()
    assert loaded.step.held_out == profile.step.held_out
    same = ("name", "source", "engine", "defaults", "cuda_graphs", "kv", "notes", "model_parts", "doubts")
    assert {name: getattr(loaded, name) for name in same} == {name: getattr(profile, name) for name in same}
    assert loaded.overhead == Overhead(pytest.approx(3e-3), pytest.approx(1e-6), pytest.approx(2e-3))
    assert profile.samples is not None
    steps = profile.samples.totals
    assert step_times_s(loaded.timing().step, steps) == pytest.approx(step_times_s(profile.timing().step, steps))


def test_how_slow_the_slowest_stretches_were_comes_back_and_older_folders_do_not_say_it(
    profile: Profile, folder: Path
) -> None:
    spells = RegimeError(OVER_TIME, 20, 0.1, 0.1, 0.2, 0.0, 0.9)
    write_profile(replace(profile, step=replace(profile.step, held_out=(spells,))), folder)
    assert load_profile(folder).step.held_out == (spells,)
    (written,) = json.loads((folder / "profile.json").read_text())["held_out"]
    edit(folder, held_out=[{name: value for name, value in written.items() if name != "slowest"}])
    assert load_profile(folder).step.held_out == (replace(spells, slowest=None),)


def test_the_samples_come_back(profile: Profile, folder: Path) -> None:
    samples = read_samples(folder / "steps.parquet")
    assert profile.samples is not None
    assert samples.totals.tolist() == profile.samples.totals.tolist()
    assert samples.duration_s == pytest.approx(profile.samples.duration_s)
    (folder / "steps.parquet").write_bytes(b"PAR1 garbage")
    with pytest.raises(InputError, match="no step samples"):
        read_samples(folder / "steps.parquet")


def test_saving_twice_replaces_and_leaves_nothing_else(profile: Profile, folder: Path) -> None:
    write_profile(linear_profile(1e-3, 1e-3, 1e-3, 0, name="second"), folder)
    assert load_profile(folder).name == "second"
    assert [path.name for path in folder.parent.iterdir()] == ["p"]
    assert [path.name for path in folder.iterdir()] == ["profile.json"]


def test_a_folder_that_holds_something_else_is_left_alone(profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match="holds something that is not a profile"):
        write_profile(profile, tmp_path)
    with pytest.raises(InputError, match="not a profile"):
        write_profile(profile, tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "dear"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_profile_among_other_files_is_left_alone(profile: Profile, folder: Path) -> None:
    (folder / "monday.jsonl").write_text("steps")
    with pytest.raises(InputError, match="holds something that is not a profile"):
        write_profile(linear_profile(1e-3, 1e-3, 1e-3, 0), folder)
    assert load_profile(folder).name == profile.name
    assert (folder / "monday.jsonl").read_text() == "steps"


def test_a_profile_that_cannot_take_its_place_leaves_the_old_one(
    profile: Profile, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def full(path: Path, target: Path) -> Path:
        if target == folder and path.name.startswith(".p-") and path.name != "profile":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        write_profile(linear_profile(1e-3, 1e-3, 1e-3, 0, name="second"), folder)
    assert load_profile(folder).name == profile.name
    assert [path.name for path in folder.parent.iterdir()] == ["p"]


def test_an_empty_folder_may_be_filled(profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    write_profile(profile, tmp_path / "p")
    assert load_profile(tmp_path / "p").name == "measured"


def test_a_folder_without_a_profile_is_named(tmp_path: Path) -> None:
    refused(tmp_path, "not a profile")


def test_another_format_version_is_named(folder: Path) -> None:
    edit(folder, format_version=2)
    refused(folder, "format version 2, but this slotune reads 1")


def test_a_cut_document_is_named(folder: Path) -> None:
    text = (folder / "profile.json").read_text()
    (folder / "profile.json").write_text(text[: len(text) // 2])
    refused(folder, "profile.json: cannot be read")


def test_binary_garbage_is_named(folder: Path) -> None:
    (folder / "profile.json").write_bytes(bytes(range(256)))
    refused(folder, "profile.json: cannot be read")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"surprise": 1}, "surprise"),
        ({"engine": {"name": "vllm", "flavour": "x"}}, "engine.flavour"),
        ({"kv": {"kv_bytes_per_token": "many"}}, "kv.kv_bytes_per_token"),
        ({"source": "hearsay"}, "source 'hearsay'"),
        ({"overhead": {"before_ms": 1, "before_token_ms": 0}}, "overhead.after_ms"),
        ({"overhead": {"before_ms": -50, "before_token_ms": 0, "after_ms": 0}}, "overhead.before_ms"),
        ({"defaults": {"max_num_seq": 4}}, "did you mean max_num_seqs"),
        ({"defaults": {"max_num_seqs": 4.5}}, "defaults: max_num_seqs takes int"),
        ({"defaults": {"gpu_memory_utilization": 1.5}}, "gpu_memory_utilization=1.5"),
        ({"defaults": {"tensor_parallel_size": 2}}, "tensor_parallel_size=2: the profiled engine was cut by 1"),
        (
            {"kv": {"kv_bytes_per_token": 1, "total_bytes": 1, "bytes_per_batched_token": -1}},
            "bytes_per_batched_token",
        ),
    ],
)
def test_a_field_that_is_wrong_is_named(folder: Path, changes: dict[str, object], match: str) -> None:
    edit(folder, **changes)
    refused(folder, match)


def test_a_negative_or_unknown_baseline_term_is_named(folder: Path) -> None:
    step = json.loads((folder / "profile.json").read_text())["step"]
    edit(folder, step={**step, "baseline_ms": {"constant": -1}})
    refused(folder, "constant=-1")
    edit(folder, step={**step, "baseline_ms": {"phlogiston": 1}})
    refused(folder, "phlogiston")
    edit(folder, step={**step, "baseline_ms": {}})
    refused(folder, "would take no time")
    edit(folder, step={**step, "graph_sizes": [8, -16]})
    refused(folder, r"graph_sizes\.1")


@pytest.mark.parametrize("keep", [0, 10, 500, 3000])
def test_a_cut_ensemble_is_named(folder: Path, keep: int) -> None:
    path = folder / "residual.txt"
    path.write_text(path.read_text()[:keep])
    refused(folder, r"residual\.txt: .*make the profile again")


def test_an_ensemble_that_would_loop_is_named(folder: Path) -> None:
    path = folder / "residual.txt"
    lines = path.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("left_child="))
    lines[first] = "left_child=" + " ".join("0" for _ in lines[first].split())
    path.write_text("\n".join(lines) + "\n")
    refused(folder, "do not fit together")


def test_a_missing_ensemble_is_named(folder: Path) -> None:
    (folder / "residual.txt").unlink()
    refused(folder, "residual.txt: cannot be read")


@pytest.mark.parametrize("name", ["h200-llama", "no/such/folder"])
def test_a_name_that_is_none_names_the_bundled_ones(name: str, slotune: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = slotune("profile", "show", name)
    assert code == 2 and "h200-llama-3.1-8b" in err and err.count("\n") == 1


def test_no_folder_without_a_profile_hides_a_bundled_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "h200-llama-3.1-8b"
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert load_profile(name).source == "kernel tables"
    write_profile(linear_profile(1e-3, 1e-5, 1e-5, 0.0), tmp_path / name)
    assert load_profile(name).source != "kernel tables"


def test_a_bundled_profile_is_found_by_name_and_says_that_it_was_not_measured() -> None:
    bundled = load_profile("h200-llama-3.1-8b")
    assert bundled.source == "kernel tables"
    assert "kernel tables, not from a measurement" in bundled.provenance
    assert bundled.trust()["step_time_error"]["all"]["median_error"] < 0.02
