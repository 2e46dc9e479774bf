"""What this machine computes with: its GPUs as the driver names them, or its processor."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

QUERY_TIMEOUT_S = 30.0
QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    total_bytes: float
    driver: str


def gpus() -> list[Gpu]:
    """NVIDIA GPUs, by nvidia-smi; none where there is no driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        done = subprocess.run([command, *QUERY], capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [gpu for line in lines if (gpu := _gpu(line))]


def _gpu(line: str) -> Gpu | None:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 3:
        return None
    name, mebibytes, driver = fields
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
