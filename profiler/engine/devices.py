"""What this machine computes with: its GPUs as the driver names them, or its processor."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

QUERY_TIMEOUT_S = 30.0
QUERY = ("--query-gpu=index,uuid,name,memory.total,driver_version", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    total_bytes: float
    driver: str


def gpus() -> list[Gpu]:
    """NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves to an engine, by nvidia-smi; none where there is no driver.

    An index counts as it does for nvidia-smi and, on machines with several kinds of GPUs, for CUDA with
    CUDA_DEVICE_ORDER=PCI_BUS_ID, which vLLM asks for there.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        done = subprocess.run([command, *QUERY], capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    listed = [[field.strip() for field in line.split(",")] for line in lines]
    return [_gpu(*fields[2:]) for fields in _visible([fields for fields in listed if len(fields) == 5])]


def device_name() -> str:
    """What an engine here computes with: the first GPU that it may use, or else the processor."""
    found = gpus()
    return found[0].name if found else processor()


def _visible(listed: list[list[str]]) -> list[list[str]]:
    """Of the GPUs by index and UUID first, those that CUDA_VISIBLE_DEVICES names, in its order."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None or "MIG-" in asked:  # parts of GPUs are not listed
        return listed
    words = [word.strip() for word in asked.split(",")]
    return [gpu for word in words for gpu in listed if word == gpu[0] or ("GPU-" in word and gpu[1].startswith(word))]


def _gpu(name: str, mebibytes: str, driver: str) -> Gpu:
    try:
        return Gpu(name, float(mebibytes) * (1 << 20), driver)
    except ValueError:  # "[N/A]" where memory is the host's
        return Gpu(name, 0.0, driver)


def processor() -> str:
    """The processor's name, as Linux tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "unknown CPU"
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else "unknown CPU"
