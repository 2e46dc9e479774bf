"""The file that `vllm serve --config` reads: its engine arguments, and what there is to say of the others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, one_line
from .argument_names import ON_BY_DEFAULT, is_flagless, is_switch, servers_argument_names, spelled
from .dotted import is_dotted
from .engine_config import SIMULATED

NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""What PyYAML raises; a ValueError for what looks like a date and is none, too many digits, and bytes not UTF-8."""


def engine_arguments(path: Path) -> dict[Any, Any]:
    """What the file says of the engine, under the names and with the values that it has there.

    What it says of the server, such as its port, is passed over. Raises InputError for what is no such file and for
    what `vllm serve` takes from none: an argument without a flag, a switch with text (to vLLM a stray word), and
    a part of an argument that is true or a list (for true vLLM takes the next word of the file).
    """
    arguments = without_the_servers(_content(path))
    for name, value in arguments.items():
        if is_flagless(spelled(str(name).split(".")[0])):
            raise InputError(f"{path}: {name}: `vllm serve` has no such argument")
        if isinstance(value, str) and is_switch(spelled(str(name))):
            raise InputError(f"{path}: {name}: {value!r} is text, which vLLM refuses here; write it without quotes")
        if is_dotted(str(name)) and (value is True or isinstance(value, list)):
            head, *_ = str(name).split(".")
            told = f"a file of vLLM has neither switches nor lists behind a dot; write them as a mapping under {head}"
            raise InputError(f"{path}: {name}: {told}")
    return arguments


def without_the_servers(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """The arguments among these that are not of the server alone."""
    return {name: value for name, value in content.items() if not _is_the_servers(name)}


def of_the_server(path: Path) -> list[str]:
    """The names in the file that are of the server alone, as they stand there."""
    return [str(name) for name in _content(path) if _is_the_servers(name)]


def passed_over(path: Path) -> list[str]:
    """Lines on what the file turns off and `vllm serve --config` leaves on.

    Its root parser looks for `--no-name` among its own options and not the subcommand's, and drops `name: false`
    (vllm/utils/argparse_utils.py, load_config_file, 0.20 to 0.32).
    """
    off = [str(name) for name, value in engine_arguments(path).items() if value is False]
    off = [name for name in off if spelled(name) in ON_BY_DEFAULT]
    simulated = [name for name in off if spelled(name) in SIMULATED]
    lines = []
    for names, how in (
        (simulated, ", here off unless --engine says otherwise"),
        ([name for name in off if name not in simulated], ""),
    ):
        if names:
            said, meant = ", ".join(f"{name}: false" for name in names), ", ".join(f"no-{name}: true" for name in names)
            left = "it" if len(names) == 1 else "them"
            told = f"`vllm serve --config` passes over false and leaves {left} on{how}"
            lines.append(f"{path}: {said}: {told}: write {meant}")
    return lines


def _content(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except NOT_YAML as error:
        raise InputError(f"{path}: not YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of vLLM arguments, found {type(content).__name__}")
    return content


def _is_the_servers(name: Any) -> bool:
    head, *_ = str(name).split(".")
    return spelled(head).removeprefix("no_") in servers_argument_names()
