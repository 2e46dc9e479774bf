"""The names and files of settings against the parser of `vllm serve` itself."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from slotune.simulator.argument_names import (
    FLAGLESS,
    ON_BY_DEFAULT,
    OTHER_NAMES,
    SHORT_NAMES,
    SWITCH,
    argument_lines,
)
from slotune.simulator.settings import parse_settings
from slotune.simulator.versions import ASSUMED, argument_versions, numbers_of

PARSER = """
import dataclasses, json, sys
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser

root = FlexibleArgumentParser()
served = root.add_subparsers(dest="subparser")
ServeSubcommand().subparser_init(served)
names = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
actions = [action for action in served.choices["serve"]._actions if action.option_strings]
parsed = vars(root.parse_args(["serve", "model", "--config", *sys.argv[1:]]))
facts = {
    "flagless": sorted(names - {action.dest for action in actions}),
    "switches": sorted({action.dest for action in actions if action.nargs == 0} & names),
    "aliases": {
        option.lstrip("-"): action.dest
        for action in actions
        for option in action.option_strings
        if action.dest != "help" and option.lstrip("-").replace("-", "_").removeprefix("no_") != action.dest
    },
    "parsed": {name: value for name, value in parsed.items() if isinstance(value, (bool, dict, int, type(None)))},
}
print(json.dumps(facts))
"""
FILE = """
max-num-seqs: 8
speculative-config.method: ngram
speculative-config.num_speculative_tokens: 2
hf-overrides.a.b: 1k
hf-overrides.a.c: 'true'
hf_overrides.list+: x,y
hf-overrides.number: '010'
limit-mm-per-prompt.image: 0
"""
WORDS = ("speculative-config.num_speculative_tokens=3", "hf_overrides.list+=z", "no-enable-expert-parallel")


@pytest.fixture(scope="module")
def facts(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What vLLM's parser has, and what it makes of FILE with ON_BY_DEFAULT turned off by false, and of WORDS."""
    folder = tmp_path_factory.mktemp("parser")
    (folder / "engine.yaml").write_text(FILE + "".join(f"{name}: false\n" for name in sorted(ON_BY_DEFAULT)))
    words = [vllm_python, "-c", PARSER, "engine.yaml", *(f"--{word}" for word in WORDS)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=folder)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def marked(mark: str) -> list[str]:
    """The names so marked that the assumed version has."""
    names = []
    for name, (since, gone) in argument_versions().items():
        there = (numbers_of(since) or ASSUMED) <= ASSUMED < (numbers_of(gone) or (99, 0))
        if there and mark in argument_lines()[name]:
            names.append(name)
    return sorted(names)


@pytest.mark.engine
def test_switches_names_without_a_flag_and_other_names_are_vllms(facts: dict[str, Any]) -> None:
    assert marked(SWITCH) == facts["switches"]
    assert marked(FLAGLESS) == facts["flagless"]
    others = {name.replace("_", "-"): meant for name, meant in OTHER_NAMES.items()}
    assert {name: meant for name, meant in SHORT_NAMES.items() if name != "O"} | others == facts["aliases"]


@pytest.mark.engine
def test_parts_of_settings_merge_as_vllm_merges_them(facts: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "engine.yaml").write_text(FILE)
    told = parse_settings(WORDS, tmp_path / "engine.yaml")
    assert told == {name: facts["parsed"][name] for name in told}
    assert told["hf_overrides"]["list"] == ["x", "y", "z"]


@pytest.mark.engine
def test_vllm_serve_passes_over_what_a_file_turns_off_by_false(facts: dict[str, Any]) -> None:
    assert not [name for name in ON_BY_DEFAULT if facts["parsed"][name] is False]
