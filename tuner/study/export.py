"""Settings in the forms people deploy: a `vllm serve --config` file, a command line, a Kubernetes Deployment."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ...errors import InputError, SlotuneError
from ...profiler.engine.vllm_arguments import flags, serve_arguments
from ...profiler.provenance import MEASURED
from ...simulator.settings import Settings, parse_settings
from ...simulator.speculation import without_acceptance
from ...simulator.versions import ASSUMED
from ...whole_file import write_text
from .study import BEST_FILE, read_asked
from .task import profile_of

YAML_SUFFIXES = (".yaml", ".yml")

SERVE_PORT = 8000  # vllm serve's default
IMAGE = "vllm/vllm-openai"
SIMULATED_VERSION = f"{ASSUMED[0]}.{ASSUMED[1]}.0"
"""Where the profile names none."""


def vllm_yaml(settings: Mapping[str, Any], model: str | None = None, comments: Iterable[str] = ()) -> str:
    """The YAML that `vllm serve --config` takes; `model` goes in where it is known. None means vLLM's default."""
    lines = [f"# {line}\n" for comment in comments for line in comment.splitlines()]
    if not model:
        lines.append("#model: the profile does not say which; `vllm serve MODEL --config` this file\n")
    named = ({"model": model} if model else {}) | flags(_judged_by_the_model(settings))
    return "".join(lines) + str(yaml.safe_dump(named, sort_keys=False))


def command_line(settings: Mapping[str, Any], model: str) -> str:
    """A `vllm serve` command, quoted for a POSIX shell."""
    return shlex.join(["vllm", "serve", model, *serve_arguments(_judged_by_the_model(settings))])


def kubernetes(settings: Mapping[str, Any], model: str, *, version: str | None = None, gpu: bool = True) -> str:
    """A Deployment of one engine, to be named, mounted and replicated as the cluster wants it."""
    container: dict[str, Any] = {
        "name": "vllm",
        "image": f"{IMAGE}:v{(version or SIMULATED_VERSION).partition('+')[0]}",
        "command": ["vllm", "serve"],
        "args": [model, *serve_arguments(_judged_by_the_model(settings))],
        "ports": [{"name": "http", "containerPort": SERVE_PORT}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}},
    }
    # A Service named vllm would set VLLM_PORT to an address, which vLLM refuses (vllm/envs.py, get_vllm_port).
    pod: dict[str, Any] = {"enableServiceLinks": False, "containers": [container]}
    count = int(settings.get("tensor_parallel_size", 1)) * int(settings.get("pipeline_parallel_size", 1))
    if gpu:
        container["resources"] = {"limits": {"nvidia.com/gpu": count}}
    if count > 1:  # its workers talk through shared memory, of which a container has 64 MiB
        container["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}]
        pod["volumes"] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "vllm", "labels": {"app": "vllm"}},
        "spec": {
            "selector": {"matchLabels": {"app": "vllm"}},
            "template": {"metadata": {"labels": {"app": "vllm"}}, "spec": pod},
        },
    }
    return str(yaml.safe_dump(deployment, sort_keys=False))


def _judged_by_the_model(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without the acceptance that was assumed of their drafts."""
    config = settings.get("speculative_config")
    return {**settings, **({"speculative_config": without_acceptance(config)} if config else {})}


def read_recommendation(folder: Path) -> tuple[Settings, str | None]:
    """The settings and the model that a study recommends, from its best.yaml.

    Raises InputError where the folder is no study, SlotuneError where it recommends nothing yet.
    """
    read_asked(folder)
    path = folder / BEST_FILE
    if not path.exists():
        raise SlotuneError(f"{folder}: no recommendation in it yet; run `slotune tune` on it to the end")
    settings = parse_settings(config_file=path)
    return settings, settings.pop("model", None)


def grounds(folder: Path) -> list[str]:
    """What a study's recommendation rests on, and which targets it meets: the head of its best.yaml."""
    lines = (folder / BEST_FILE).read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("# ")]


def exported(folder: Path, model: str | None = None) -> dict[str, str]:
    """A study's recommendation in every form, by its name; `model` overrides the one that was profiled.

    Raises InputError where no model is known: a command needs one.
    """
    settings, known_model = read_recommendation(folder)
    asked = read_asked(folder)
    profile = profile_of(asked)
    facts = profile.engine
    served = model or known_model or facts.model
    if not served:
        raise InputError(f"profile {asked.profile} does not say which model it was made with; give --model")
    comments = [f"study {folder.resolve().name}", *grounds(folder)]
    head = "".join(f"# {line}\n" for line in comments)
    gpu = profile.source != MEASURED or facts.driver is not None
    return {
        "yaml": vllm_yaml(settings, served, comments),
        "command": command_line(settings, served) + "\n",
        "kubernetes": head + kubernetes(settings, served, version=facts.version, gpu=gpu),
    }


def write_export(text: str, form: str, path: Path) -> None:
    """Write an exported text. Raises InputError for a name that vLLM would not take as a config file."""
    if form == "yaml" and path.suffix not in YAML_SUFFIXES:
        raise InputError(f"--out {path}: vLLM takes config files named .yaml or .yml only")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
