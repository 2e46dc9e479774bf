"""Arguments with dots: `a.b.c: v` is `{a: {b: {c: v}}}`, as on vLLM's command line and in its files.

Source: FlexibleArgumentParser.parse_args (vllm/utils/argparse_utils.py), which merges what names the same argument.
"""

import json
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from .argument_names import spelled
from .number_texts import decimal, human_readable

Written = tuple[str, Any, str]
"""A name, its value, and where it is written, for errors."""


def is_dotted(name: str) -> bool:
    """Whether this names a part of an argument."""
    return "." in name


def folded(written: Iterable[Written]) -> dict[str, tuple[dict[str, Any], str]]:
    """By argument: the mapping that the dotted names among these make of it, and where the last of them is written.

    Of two values in the same place the later holds; lists, to which `a.b+: v,w` adds, grow.
    """
    mappings: dict[str, tuple[dict[str, Any], str]] = {}
    for name, value, where in written:
        if is_dotted(name):
            head, *keys = name.strip().removesuffix("+").split(".")
            whole, _ = mappings.get(spelled(head), ({}, ""))
            _merge(whole, _nested(keys, _items(value) if name.strip().endswith("+") else _typed(value)))
            mappings[spelled(head)] = whole, where
    return mappings


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    nested: dict[str, Any] = value
    return nested


def _merge(whole: dict[str, Any], added: dict[str, Any]) -> None:
    for key, value in added.items():
        there = whole.get(key)
        if isinstance(there, dict) and isinstance(value, dict):
            _merge(there, value)
        elif isinstance(there, list) and isinstance(value, list):
            whole[key] = there + value
        else:
            whole[key] = deepcopy(value)  # the next part may be merged into it


def _items(value: Any) -> Any:
    """The items that a `+` adds: text each, as vLLM has them."""
    return str(value).split(",")


def _typed(value: Any) -> Any:
    """What text means behind a dot: JSON, or a number with a suffix, or itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # the latter for brackets in brackets, the former for too many digits too
        return human_readable(value) if isinstance(decimal(value, int), str) else int(value)
