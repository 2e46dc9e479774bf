"""--engine-config: what commands say of a file that `vllm serve --config` would read otherwise."""

import json

import pytest

COMMANDS = [["simulate"], ["screen"], ["tune"], ["plan"], ["profile", "measure"], ["profile", "import", "silicon"]]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "engine.yaml"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_says_once_what_a_false_in_the_file_would_not_turn_off(slotune, file, command):
    file.write_text("enable-prefix-caching: false\n")
    lines = slotune(*command, "--engine-config", file).err.splitlines()
    warning = f"Warning: {file}: enable-prefix-caching: false: `vllm serve --config` passes over false and leaves it on"
    assert [line.startswith(warning) for line in lines].count(True) == 1


def test_it_is_simulated_as_off_all_the_same(slotune, files, file):
    file.write_text("enable-prefix-caching: false\n")
    ran = slotune("simulate", *files, "--engine-config", file, "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["engine"]["enable_prefix_caching"] is False
    assert "no-enable-prefix-caching: true" in ran.err
