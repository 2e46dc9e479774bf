"""A profile on disk: a folder with profile.json, residual.txt (LightGBM) and steps.parquet (the samples)."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt, ValidationError

from ..errors import InputError, first_fault
from ..release import own_version
from ..simulator.features import PHYSICS, PHYSICS_NAMES, REGIME_NAMES
from ..simulator.settings import settings_of
from ..simulator.step_time import SHAPE_NAMES, is_unbounded, unbounded_hull, unmeasured_hull
from ..simulator.timing import Overhead
from .kv_capacity import KvCapacity
from .profile import EngineFacts, ModelPart, Profile
from .surrogate.model import FittedStepTime, RegimeError

FORMAT_VERSION: Final = 1
DOCUMENT, RESIDUAL, SAMPLES = "profile.json", "residual.txt", "steps.parquet"
PARTS = {DOCUMENT, RESIDUAL, SAMPLES}
BUNDLED = Path(__file__).parent / "bundled"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _OverheadPart(_Part):
    before_ms: NonNegativeFloat
    before_token_ms: NonNegativeFloat
    after_ms: NonNegativeFloat


class _StepPart(_Part):
    baseline_ms: dict[str, float]
    graph_sizes: list[PositiveInt]
    hull: dict[str, dict[str, tuple[float, float]]] | None
    residual: bool


class _Document(_Part):
    format_version: Literal[1]
    made_with: str
    name: str
    source: str
    engine: EngineFacts
    defaults: dict[str, Any]
    cuda_graphs: bool
    kv: KvCapacity | None
    overhead: _OverheadPart
    step: _StepPart
    held_out: list[RegimeError]
    notes: list[str]
    model_parts: list[ModelPart]
    doubts: list[str]


def bundled_names() -> list[str]:
    """Names of the profiles that ship with slotune."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{DOCUMENT}"))


def profile_folder(name_or_path: str | Path) -> Path | None:
    """The folder of a profile: the one of that path, or the bundled one of that name, which no folder without a profile
    in it hides; None where there is neither."""
    path, is_bundled = Path(name_or_path), str(name_or_path) in bundled_names()
    if (path / DOCUMENT).exists() or (path.exists() and not is_bundled):
        return path
    return BUNDLED / path if is_bundled else None


def load_profile(name_or_path: str | Path) -> Profile:
    """The profile in a folder, or a bundled one by its name.

    Raises InputError where there is none, and for anything that is not a sound profile of this format version.
    """
    if folder := profile_folder(name_or_path):
        return _read_profile(folder)
    known = ", ".join(bundled_names()) or "none"
    raise InputError(f"profile {name_or_path}: no such folder, and no bundled profile of that name (bundled: {known})")


def _read_profile(folder: Path) -> Profile:
    document = _read_document(folder)
    fitted = _step_of(document, _read_residual(folder) if document.step.residual else None, folder)
    overhead = document.overhead
    return Profile(
        name=document.name,
        source=document.source,
        step=fitted,
        engine=document.engine,
        defaults=settings_of(document.defaults, f"{folder / DOCUMENT}: defaults"),
        cuda_graphs=document.cuda_graphs,
        kv=document.kv,
        overhead=Overhead(overhead.before_ms / 1e3, overhead.before_token_ms / 1e3, overhead.after_ms / 1e3),
        notes=tuple(document.notes),
        model_parts=tuple(document.model_parts),
        doubts=tuple(document.doubts),
    )


def _read_document(folder: Path) -> _Document:
    path = folder / DOCUMENT
    if not path.is_file():
        raise InputError(f"{folder}: not a profile (no {DOCUMENT} in it); make one with `slotune profile`")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error}); make the profile again") from error
    found = content.get("format_version") if isinstance(content, dict) else None
    if found != FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {found}, but this slotune reads {FORMAT_VERSION}; make the profile again"
        )
    try:
        return _Document.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {first_fault(error)}") from error


def _read_residual(folder: Path) -> str:
    try:
        return (folder / RESIDUAL).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{folder / RESIDUAL}: cannot be read ({error}); make the profile again") from error


def _step_of(document: _Document, residual: str | None, folder: Path) -> FittedStepTime:
    fitted = FittedStepTime(
        weights_s=_weights_of(document.step.baseline_ms, folder),
        graph_sizes=np.array(sorted(document.step.graph_sizes), dtype=np.float64),
        hull=_hull_of(document.step.hull, folder),
        residual=residual,
        held_out=tuple(document.held_out),
    )
    try:
        fitted.model  # noqa: B018 - a broken ensemble is found here, not in the middle of a simulation
    except ValueError as error:
        raise InputError(f"{folder / RESIDUAL}: {error}; make the profile again") from error
    return fitted


def _weights_of(baseline_ms: dict[str, float], folder: Path) -> np.ndarray:
    weights = np.zeros(PHYSICS)
    for name, ms in baseline_ms.items():
        if name not in PHYSICS_NAMES or ms < 0:
            raise InputError(f"{folder / DOCUMENT}: step.baseline_ms: {name}={ms} is no known non-negative term")
        weights[PHYSICS_NAMES.index(name)] = ms / 1e3
    if not weights.any():
        raise InputError(f"{folder / DOCUMENT}: step.baseline_ms: a step would take no time")
    return weights


def _hull_of(ranges: dict[str, dict[str, tuple[float, float]]] | None, folder: Path) -> np.ndarray:
    """The hull array; a regime that is not named was not measured."""
    if ranges is None:
        return unbounded_hull()
    hull = unmeasured_hull()
    for regime, features in ranges.items():
        if regime not in REGIME_NAMES or set(features) != set(SHAPE_NAMES):
            raise InputError(f"{folder / DOCUMENT}: step.hull: {regime} is not a full range of features")
        hull[REGIME_NAMES.index(regime)] = [features[name] for name in SHAPE_NAMES]
    return hull


def write_profile(profile: Profile, folder: Path) -> None:
    """Write the profile to `folder`, replacing an older profile there.

    It is made in a neighbouring temporary folder; killed between the two renames that change places, the old one is
    left in `.NAME-old-*` beside it. Raises InputError where `folder` holds anything but a profile.
    """
    check_target(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh.chmod(0o755)  # mkdtemp's 0700 would hide a shared profile from its readers
        text = json.dumps(_document_of(profile), indent=1, allow_nan=False) + "\n"
        (fresh / DOCUMENT).write_text(text, encoding="utf-8")
        if profile.step.residual is not None:
            (fresh / RESIDUAL).write_text(profile.step.residual, encoding="utf-8")
        if profile.samples is not None:
            profile.samples.write(fresh / SAMPLES)
        _swap(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_target(folder: Path) -> None:
    """Raise InputError where `folder` holds anything but a profile, which is replaced as a whole."""
    if not folder.exists():
        return
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if held - PARTS or (held and DOCUMENT not in held):
        raise InputError(f"--out {folder}: holds something that is not a profile; name another folder")


def _swap(fresh: Path, folder: Path) -> None:
    if not folder.exists():
        fresh.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.rename(old / "profile")
    try:
        fresh.rename(folder)
    except OSError:
        (old / "profile").rename(folder)
        raise
    finally:
        if folder.exists():
            shutil.rmtree(old)


def _document_of(profile: Profile) -> dict[str, Any]:
    overhead = profile.overhead
    document = _Document(
        format_version=FORMAT_VERSION,
        made_with=f"slotune {own_version()}",
        name=profile.name,
        source=profile.source,
        engine=profile.engine,
        defaults=dict(profile.defaults),
        cuda_graphs=profile.cuda_graphs,
        kv=profile.kv,
        overhead=_OverheadPart(
            before_ms=overhead.before_s * 1e3,
            before_token_ms=overhead.before_token_s * 1e3,
            after_ms=overhead.after_s * 1e3,
        ),
        step=_StepPart(
            baseline_ms=profile.step.baseline_ms,
            graph_sizes=[int(size) for size in profile.step.graph_sizes],
            hull=None if is_unbounded(profile.step.hull) else profile.step.measured_range,
            residual=profile.step.residual is not None,
        ),
        held_out=list(profile.step.held_out),
        notes=list(profile.notes),
        model_parts=list(profile.model_parts),
        doubts=list(profile.doubts),
    )
    return document.model_dump(mode="json")
