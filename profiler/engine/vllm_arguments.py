"""Settings in vLLM's own words: the flags of `vllm serve`, by which engines are started and configurations exported.

vLLM 0.32 silently drops `name: false` from a config file given to `vllm serve` (its root parser looks for `--no-name`
among its own options and not the subcommand's: vllm/utils/argparse_utils.py, load_config_file). What is off is
therefore `no-name: true`, which every entry point takes.
"""

import json
from collections.abc import Mapping
from typing import Any

from ...simulator.argument_names import is_flagless

ONLY_ON = frozenset({"aggregate_engine_logging", "data_parallel_multi_port_external_lb", "disable_log_stats"})
"""Switches without a `--no-` form: off is how they are when nobody names them."""


def flags(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under the spelling of vLLM's flags; what is off as `no-name: true`. None is left out, and
    what has no flag."""
    named: dict[str, Any] = {}
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if value is None or (value is False and name in ONLY_ON) or is_flagless(name):
            continue
        if value is False:
            named[f"no-{flag}"] = True
        else:
            named[flag] = list(value) if isinstance(value, tuple) else value
    return named


def serve_arguments(settings: Mapping[str, Any]) -> list[str]:
    """The command-line words that say the same: a mapping becomes JSON, a list several words, a switch --name or
    --no-name."""
    words: list[str] = []
    for flag, value in flags(settings).items():
        if value == []:
            continue  # as vLLM reads it in a file
        words.append(f"--{flag}")
        if isinstance(value, list):
            words += [str(item) for item in value]
        elif isinstance(value, Mapping):
            words.append(json.dumps(value))
        elif value is not True:
            words.append(str(value))
    return words
