"""What is deployed says what was recommended, in every form."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from slotune.errors import InputError
from slotune.profiler.engine.vllm_arguments import serve_arguments
from slotune.simulator.settings import parse_settings
from slotune.tuner.study.export import command_line, kubernetes, vllm_yaml, write_export

SETTINGS = {
    "max_num_batched_tokens": 512,
    "enable_prefix_caching": False,
    "enable_chunked_prefill": True,
    "gpu_memory_utilization": 0.9,
    "kv_cache_dtype": "fp8",
    "cudagraph_capture_sizes": (1, 2, 4),
    "compilation_config": {"mode": 0},
    "max_num_active_seqs": None,
    "disable_log_stats": False,
}

PARSE = """
import json, sys
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser
root = FlexibleArgumentParser()
ServeSubcommand().subparser_init(root.add_subparsers(dest="subparser"))
def told(args):
    args = vars(args)
    config = args["compilation_config"]
    return {n: args[n] for n in sys.argv[2].split(",")} | {"compilation_config": {"mode": int(config.mode)}}
served = root.parse_args(["serve", "--config", sys.argv[1]])
engine = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(["--config", sys.argv[1]])
command = root.parse_args(sys.argv[3:])
print(json.dumps([told(args) for args in (served, engine, command)]))
"""


def test_yaml_uses_vllms_spelling_and_says_off_as_a_flag_that_vllm_hears():
    text = vllm_yaml(SETTINGS, "org/model", ["made for a test"])
    assert text.startswith("# made for a test\nmodel: org/model\n")
    assert yaml.safe_load(text) == {
        "model": "org/model",
        "max-num-batched-tokens": 512,
        "no-enable-prefix-caching": True,
        "enable-chunked-prefill": True,
        "gpu-memory-utilization": 0.9,
        "kv-cache-dtype": "fp8",
        "cudagraph-capture-sizes": [1, 2, 4],
        "compilation-config": {"mode": 0},
    }


def test_yaml_reads_back_as_the_same_settings(tmp_path: Path):
    path = tmp_path / "engine.yaml"
    path.write_text(vllm_yaml(SETTINGS))
    kept = {k: v for k, v in SETTINGS.items() if k not in ("max_num_active_seqs", "disable_log_stats")}
    assert parse_settings(config_file=path) == kept | {"cudagraph_capture_sizes": [1, 2, 4]}


def test_no_settings_is_still_a_file_that_vllm_can_read():
    assert yaml.safe_load(vllm_yaml({})) == {}
    assert "#model: the profile does not say which" in vllm_yaml({})
    assert "#model" not in vllm_yaml({}, "org/model")


def test_command_line_survives_a_shell():
    text = command_line({"compilation_config": {"mode": 0}, "enable_prefix_caching": False}, "/models/my model")
    assert shlex.split(text) == [
        *("vllm", "serve", "/models/my model"),
        *("--compilation-config", '{"mode": 0}', "--no-enable-prefix-caching"),
    ]


def test_kubernetes_deployment_carries_the_arguments_and_the_gpus():
    deployment = yaml.safe_load(kubernetes(SETTINGS | {"tensor_parallel_size": 2}, "org/model", version="0.32.0+cu1"))
    spec = deployment["spec"]["template"]["spec"]["containers"][0]
    assert deployment["kind"] == "Deployment"
    assert spec["image"] == "vllm/vllm-openai:v0.32.0"
    assert spec["args"] == ["org/model", *serve_arguments(SETTINGS | {"tensor_parallel_size": 2})]
    assert all(isinstance(argument, str) for argument in spec["args"])
    assert spec["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    assert "resources" not in kubernetes({}, "org/model", gpu=False)


def test_kubernetes_workers_have_shared_memory_and_no_service_s_port():
    pods = [
        yaml.safe_load(kubernetes({"tensor_parallel_size": workers}, "org/model"))["spec"]["template"]["spec"]
        for workers in (1, 4)
    ]
    assert [pod["enableServiceLinks"] for pod in pods] == [False, False]
    assert "volumes" not in pods[0] and "volumeMounts" not in pods[0]["containers"][0]
    (mounted,) = pods[1]["containers"][0]["volumeMounts"]
    assert mounted["mountPath"] == "/dev/shm"
    assert pods[1]["volumes"] == [{"name": mounted["name"], "emptyDir": {"medium": "Memory"}}]


def test_a_config_file_must_have_a_name_that_vllm_takes(tmp_path: Path):
    with pytest.raises(InputError, match=r"engine\.txt.*\.yaml"):
        write_export("{}", "yaml", tmp_path / "engine.txt")
    write_export("x", "command", tmp_path / "new" / "run.sh")
    assert (tmp_path / "new" / "run.sh").read_text() == "x"


@pytest.mark.engine
def test_vllms_own_parsers_hear_every_setting(tmp_path: Path, vllm_python: str):
    path = tmp_path / "engine.yaml"
    path.write_text(vllm_yaml(SETTINGS, "org/model"))
    names = [name for name, value in SETTINGS.items() if name != "compilation_config"]
    command = shlex.split(command_line(SETTINGS, "org/model"))[1:]
    done = subprocess.run(
        [vllm_python, "-c", PARSE, path, ",".join(names), *command],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    for heard in json.loads(done.stdout.splitlines()[-1]):
        assert heard == SETTINGS | {"cudagraph_capture_sizes": [1, 2, 4]}
