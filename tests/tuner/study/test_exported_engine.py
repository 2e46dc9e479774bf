"""An exported file starts the engine, which hears what was recommended."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from slotune.profiler.engine.launch import Launch, find_vllm
from slotune.profiler.profile import EngineFacts, linear_profile
from slotune.tuner.study.deployment import deployed
from slotune.tuner.study.export import vllm_yaml

START_S = 400.0


@contextmanager
def served(launch: Launch, config: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """`vllm serve --config CONFIG` in a session of its own: its address and log; gone at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch.write_site(folder / "site")
    words = [*launch.command, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        environment = {**os.environ, **launch.environment(folder / "site"), "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_S
        while not healthy(url):
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, "it does not become healthy"
            time.sleep(0.5)
        yield url, folder / "log"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.engine
def test_vllm_serve_starts_with_the_exported_file(vllm_python: str, repository: Path, tmp_path: Path):
    subprocess.run([vllm_python, repository / "benchmarks" / "make_model.py", tmp_path / "model"], check=True)
    made_under = {"load_format": "dummy", "max_model_len": 2048, "enforce_eager": True}
    facts = EngineFacts(model=str(tmp_path / "model"))
    profile = replace(linear_profile(0.01, 1e-4, 1e-4, 0), engine=facts, defaults=made_under)
    settings = {"max_num_batched_tokens": 256, "max_num_seqs": 16, "enable_prefix_caching": False}
    config = tmp_path / "best.yaml"
    config.write_text(vllm_yaml(deployed(profile, settings), facts.model, ["recommended"]))
    with served(find_vllm(vllm_python), config, tmp_path) as (url, log):
        body = {"model": str(tmp_path / "model"), "prompt": [5, 6, 7], "max_tokens": 3, "ignore_eos": True}
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == 3
        told = log.read_text()
    for name, value in settings.items():
        assert f"'{name}': {value}" in told
