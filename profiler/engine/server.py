"""A vLLM server as a part: started with given settings, watched, and gone without a trace.

    launch = find_vllm(given)                       # profiler/engine/launch.py
    with running_server(launch, "models/llama", {"max_num_seqs": 64}, Path("run")) as server:
        server.base_url                             # http://127.0.0.1:PORT, healthy
        server.facts["num_gpu_blocks"]              # what the engine decided
    # no process of it is left, whatever happened

Settings are vLLM's arguments by their underscore names, without model, host and port. `run/` gets `engine.log`,
`facts.json` and, with `record=True`, `steps.jsonl` (see recorder.py). A failed start raises EngineError: one line, and
`.reason` is one of bad-argument, kv-cache, out-of-memory, port, model, drafts, disk-full, hang, killed, crashed
(diagnosis.py).

The engine runs under supervisor.py, in a session of its own: Ctrl-C in a terminal does not reach it, and when this
process is killed, the supervisor ends the engine. When the supervisor is killed, this process does (orphans.py).
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EngineError, InputError
from ..model_folder import read_model_folder
from .diagnosis import diagnose
from .launch import Launch
from .orphans import end_session
from .vllm_arguments import serve_arguments

HOST = "127.0.0.1"
START_TIMEOUT_S = 1800.0
"""A large model on a cold disk, with compilation, takes many minutes."""
STOP_GRACE_S = 20.0
DEATH_S = 15.0
"""How long after its answers began to fail an engine may still be dying: every 5 s the API server looks whether the
engine core lives (vllm/entrypoints/launchers/launcher.py, watchdog_loop), and then takes a while to end."""
END_BYTES = 1 << 20
"""Of a log, that are searched for a cause."""
POLL_S = 0.2
PORT_ATTEMPTS = 3
OWN_SETTINGS = ("model", "host", "port", "scheduler_cls", "config", "uds", "api_key")
"""What slotune sets itself."""
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks the engine itself: a proxy that the environment names does not reach this machine's loopback device."""
SCHEDULER = "slotune_recorder.make_scheduler"
ATTENTION_BACKEND = re.compile(r"Using (\w+) (?:attention )?backend|Using AttentionBackendEnum\.(\w+)")
SAMPLING_DEFAULTS = re.compile(r"sampling parameters have been overridden by [^{]*(\{[^}]*\})")
"""As vLLM logs those of the model's generation_config.json (vllm/config/model.py, get_diff_sampling_param)."""


@dataclass(frozen=True, slots=True)
class Server:
    """An engine that is up."""

    base_url: str
    model: str
    """The name that requests must give."""
    facts: Mapping[str, Any]
    """What the engine decided: num_gpu_blocks, block_size, max_model_len, max_num_batched_tokens, max_num_seqs,
    async_scheduling, dtype, cache_dtype, vllm_version, attention_backend, ... (recorder.py, `_facts`)."""
    log_path: Path
    steps_path: Path | None
    start_s: float
    """How long the start took."""
    process: "subprocess.Popen[bytes]"

    def check(self, wait_s: float = 0.0) -> None:
        """Raise EngineError if the engine has died.

        An engine whose connections break may take `wait_s` to be gone.
        """
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(wait_s)
        code = self.process.poll()
        if code is not None:
            raise diagnose(_end_of(self.log_path), code)


@contextmanager
def running_server(
    launch: Launch,
    model: str,
    settings: Mapping[str, Any],
    folder: Path,
    *,
    record: bool = False,
    control: bool = False,
    timeout_s: float = START_TIMEOUT_S,
) -> Iterator[Server]:
    """Start an engine, wait until it is healthy, and end it when the block ends.

    Args:
        launch: from `find_vllm`.
        model: a model folder or a name on a model hub.
        settings: vLLM's arguments by underscore names.
        folder: for the log, the facts and the steps; made if it is missing.
        record: write every step to `folder/steps.jsonl`.
        control: let request ids cap the tokens of a step (recorder.py).
        timeout_s: for the start.

    Raises InputError for a model folder that is none or a setting that is slotune's own, EngineError for a start that
    failed.
    """
    for name in OWN_SETTINGS:
        if name in settings:
            raise InputError(f"{name}={settings[name]}: slotune sets this itself when it starts an engine")
    local = read_model_folder(model) is not None
    folder.mkdir(parents=True, exist_ok=True)
    launch.write_site(folder / "site")
    variables = _variables(launch, folder, record, control, local and "tokenizer" not in settings)
    started = _started(launch, model, settings, folder, variables, timeout_s)
    try:
        yield started
    finally:
        _stop(started.process)


def _started(
    launch: Launch,
    model: str,
    settings: Mapping[str, Any],
    folder: Path,
    variables: Mapping[str, str],
    timeout_s: float,
) -> Server:
    """A healthy server; a port that was taken between choice and use is chosen anew."""
    for attempt in range(PORT_ATTEMPTS):
        try:
            return _start(launch, model, settings, folder, variables, timeout_s)
        except EngineError as error:
            if error.reason == "model":  # the engine's own words may not say which
                raise EngineError(f"model {model}: {error}", error.reason) from error
            if error.reason != "port" or attempt == PORT_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _start(
    launch: Launch,
    model: str,
    settings: Mapping[str, Any],
    folder: Path,
    variables: Mapping[str, str],
    timeout_s: float,
) -> Server:
    port, begin = _free_port(), time.monotonic()
    url, log_path = f"http://{HOST}:{port}", folder / "engine.log"
    (folder / "facts.json").unlink(missing_ok=True)
    command = [*launch.command, model, "--host", HOST, "--port", str(port), "--scheduler-cls", SCHEDULER]
    with ExitStack() as undo:  # whatever goes wrong, Ctrl-C included, the engine must go
        process = _spawn([*command, *serve_arguments(settings)], log_path, variables)
        undo.callback(_stop, process)
        _wait_healthy(process, url, log_path, timeout_s)
        name = settings.get("served_model_name") or model
        server = Server(
            base_url=url,
            model=name if isinstance(name, str) else str(name[0]),
            facts=_facts(folder),
            log_path=log_path,
            steps_path=folder / "steps.jsonl" if "SLOTUNE_STEPS" in variables else None,
            start_s=time.monotonic() - begin,
            process=process,
        )
        undo.pop_all()
    return server


RECORDER_VARIABLES = ("SLOTUNE_FACTS", "SLOTUNE_STEPS", "SLOTUNE_CONTROL")
"""Those that the user has set are of another engine, whose records this one would begin anew."""


def _variables(launch: Launch, folder: Path, record: bool, control: bool, offline: bool) -> dict[str, str]:
    variables = launch.environment((folder / "site").resolve())
    variables["SLOTUNE_FACTS"] = str((folder / "facts.json").resolve())
    if offline:
        variables.setdefault("HF_HUB_OFFLINE", os.environ.get("HF_HUB_OFFLINE", "1"))
    if record:
        variables["SLOTUNE_STEPS"] = str((folder / "steps.jsonl").resolve())
    if control:
        variables["SLOTUNE_CONTROL"] = "1"
    return variables


def _spawn(command: list[str], log_path: Path, variables: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    supervisor = Path(__file__).with_name("supervisor.py")
    words = [sys.executable, "-P", str(supervisor), str(os.getpid()), str(STOP_GRACE_S), *command]
    with log_path.open("wb") as log:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if name not in RECORDER_VARIABLES} | dict(variables),
            start_new_session=True,
        )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the engine's processes, however often Ctrl-C is pressed meanwhile."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait()
    except KeyboardInterrupt:
        process.wait()  # the supervisor is at it, and needs no longer than its grace
        raise
    finally:
        end_session(process.pid, STOP_GRACE_S)


def _wait_healthy(process: "subprocess.Popen[bytes]", url: str, log_path: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not _healthy(url):
        code = process.poll()
        if code is not None:
            raise diagnose(_end_of(log_path), code)
        if time.monotonic() > deadline:
            raise diagnose(_end_of(log_path), None)
        time.sleep(POLL_S)


def _healthy(url: str) -> bool:
    try:
        with DIRECT.open(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / "facts.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: the engine did not report its settings ({error})", "crashed") from error
    log = (folder / "engine.log").read_text(errors="replace")
    backend, sampling = ATTENTION_BACKEND.search(log), SAMPLING_DEFAULTS.search(log)
    facts["attention_backend"] = (backend[1] or backend[2]) if backend else None
    facts["sampling_defaults"] = sampling[1] if sampling else None
    facts["log_tells"] = " INFO " in log
    return facts


def _end_of(log_path: Path) -> str:
    with log_path.open("rb") as log:
        log.seek(max(0, log_path.stat().st_size - END_BYTES))
        return log.read().decode(errors="replace")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port
